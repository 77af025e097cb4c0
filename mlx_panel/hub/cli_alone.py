"""This process as the place where `mlx-panel models` works: no server runs, or none is to be used."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from ..errors import Conflict, ServerUnreachable
from ..library import ConvertOrder, Download, HubDetails, HubPage, HubQuery, LibraryModel, Task, Verdict
from ..settings import Settings
from ..sizing import parse_limit, size
from .api import Hub, hub_endpoint, told_offline
from .cli_server import OverServer, find
from .disk import Shelf, hub_cache
from .downloads import Downloads
from .library import Library
from .shape import shape_from
from .token import Token

START_SECONDS = 60.0
STOP_SECONDS = 20.0


class Alone:
    """The data folder's models and the hub, without a server. A probe starts one for its own time.

    `memory` is what all models may take together where the settings say "auto", bytes. Downloads go on where this or any other program has left them; what they are is not written into the server's books.
    """

    stays = False
    name = "this process"

    def __init__(self, settings: Settings, memory: int):
        self._settings, self._memory = settings, memory
        self._folder = settings.folder
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        cache = hub_cache()
        self._shelf = Shelf(self._folder / "models", cache=cache)
        self._library = Library(self._shelf, self._folder)
        self._hub = Hub(
            hub_endpoint(), Token(self._folder), lambda: settings.hub_offline or told_offline(),
            local=self.local, needed=self._needs, verdict=self._verdict,
        )  # fmt: skip
        self._books = tempfile.TemporaryDirectory(prefix="mlx-panel-downloads-")
        self._downloads = Downloads(Path(self._books.name), cache, self._hub, lambda: None)
        self._server: subprocess.Popen[bytes] | None = None
        self._probing: OverServer | None = None
        self._loaded = False

    def __repr__(self) -> str:
        return f"<Alone {self._folder}>"

    async def close(self) -> None:
        await self._library.stop()
        await self._downloads.stop()
        await self._hub.close()
        if self._probing is not None:
            await self._probing.close()
        if self._server is not None:
            await asyncio.to_thread(_stop, self._server)
        self._books.cleanup()

    async def search(self, query: HubQuery) -> HubPage:
        return await self._hub.search(query)

    async def details(self, id: str) -> HubDetails:
        return await self._hub.details(id)

    async def local(self) -> list[LibraryModel]:
        return await (await self._known()).local()

    async def delete(self, id: str, *, force: bool) -> int:
        url = await asyncio.to_thread(find, self._settings.port, self._folder)
        if url:
            raise Conflict(
                f"A server of this data folder runs at {url}, which may have the model in memory: leave out --alone."
            )
        return await (await self._known()).delete(id, force=force)

    async def pull(self, id: str, revision: str) -> Download:
        return await self._downloads.get(id, revision)

    async def downloads(self) -> list[Download]:
        return list(self._downloads.all())

    def watch_download(self, task: str) -> AsyncIterator[Download]:
        return self._downloads.watch(task)

    async def cancel_download(self, task: str) -> None:
        await self._downloads.pause(task)

    async def verify(self, id: str) -> Task:
        return await (await self._known()).verify(id)

    async def convert(self, order: ConvertOrder) -> Task:
        return await (await self._known()).convert(order)

    async def probe(self, id: str) -> Task:
        return await (await self._serving()).probe(id)

    def watch_task(self, task: str) -> AsyncIterator[Task]:
        return self._probing.watch_task(task) if self._probing else self._library.watch(task)

    async def cancel_task(self, task: str) -> None:
        if self._probing:
            await self._probing.cancel_task(task)
        else:
            await self._library.cancel(task)

    async def _known(self) -> Library:
        """The library, with what was remembered of its models."""
        if not self._loaded:
            await self._library.start()
            self._loaded = True
        return self._library

    # --- whether a model fits --------------------------------------------------------------------------------

    def _needs(self, config: dict[str, object], weights: int) -> int:
        settings, shape = self._settings, shape_from(config, weights)
        return size(shape, settings.room(settings.options_of(""), shape.context_length)).total

    def _verdict(self, needed: int) -> Verdict:
        budget = parse_limit(self._settings.memory_limit, self._memory)
        return "fits" if needed <= budget else "too_large"

    # --- a server for a probe's time -------------------------------------------------------------------------

    async def _serving(self) -> OverServer:
        """A server of this data folder that ends with this command. Raises ServerUnreachable with its last words."""
        if self._probing is None:
            self._server, url = await asyncio.to_thread(_start)
            self._probing = OverServer(url)
        return self._probing


def _start() -> tuple[subprocess.Popen[bytes], str]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlx_panel", "serve", "--port", str(port), "--address", "127.0.0.1"],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            env={**os.environ, "MLX_SERVER_MODELS": ",", "MLX_SERVER_WARM_SPARE": "false"},
        )  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        if _came(process, url):
            return process, url
        _stop(process)
        out.seek(0)
        words = out.read().decode("utf-8", "replace").strip().splitlines()[-1:]
    why = f": {words[0]}" if words else "."
    raise ServerUnreachable(f"A probe needs a server, and none could be started{why}")


def _came(process: subprocess.Popen[bytes], url: str) -> bool:
    """Whether the server answers before long."""
    end = time.monotonic() + START_SECONDS
    with httpx.Client(base_url=url, timeout=1, trust_env=False) as client:
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                client.get("/health")
                return True
            time.sleep(0.1)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
