"""A running server as the place where `mlx-panel models` works: found, asked, watched."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from ..errors import BY_CODE, MlxPanelError, ServerUnreachable
from ..library import ConvertOrder, Download, HubDetails, HubPage, HubQuery, LibraryModel, Task
from .cli_place import OVER

T = TypeVar("T")
MODELS = "/api/models"
# On this machine a connection is made or refused at once; a busy server may take longer to answer.
QUICK = httpx.Timeout(5, connect=0.5)
# The server answers a search within its own limits, and a stream is silent no longer than its keep-alive.
PATIENT = httpx.Timeout(120, connect=5)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Over(msgspec.Struct):
    """The answer to a deletion."""

    freed: int = 0


class OverServer:
    """A server of ours at `url`."""

    stays = True

    def __init__(self, url: str):
        self.name = f"the server at {url}"
        self.url = url
        self._client = httpx.AsyncClient(base_url=url, timeout=PATIENT, trust_env=not _is_here(url))

    def __repr__(self) -> str:
        return f"<OverServer {self.url}>"

    async def close(self) -> None:
        await self._client.aclose()

    async def search(self, query: HubQuery) -> HubPage:
        given = {name: value for name, value in msgspec.to_builtins(query).items() if value}
        return await self._ask(HubPage, "GET", f"{MODELS}/search", params=given)

    async def details(self, id: str) -> HubDetails:
        return await self._ask(HubDetails, "GET", f"{MODELS}/hub/{_part(id)}")

    async def local(self) -> list[LibraryModel]:
        found = await self._ask(dict[str, list[LibraryModel]], "GET", f"{MODELS}/local")
        return found["models"]

    async def delete(self, id: str, *, force: bool) -> int:
        asked = {"force": "true"} if force else {}
        return (await self._ask(Over, "DELETE", f"{MODELS}/local/{_part(id)}", params=asked)).freed

    async def pull(self, id: str, revision: str) -> Download:
        order = {"model": id, "revision": revision}
        return await self._ask(Download, "POST", f"{MODELS}/download", json=order)

    async def downloads(self) -> list[Download]:
        found = await self._ask(dict[str, list[Download]], "GET", f"{MODELS}/downloads")
        return found["downloads"]

    def watch_download(self, task: str) -> AsyncIterator[Download]:
        return self._watch(Download, f"{MODELS}/download/{_part(task)}/progress")

    async def cancel_download(self, task: str) -> None:
        await self._ask(Download, "POST", f"{MODELS}/download/{_part(task)}/cancel")

    async def verify(self, id: str) -> Task:
        return await self._ask(Task, "POST", f"{MODELS}/verify", json={"model": id})

    async def probe(self, id: str) -> Task:
        return await self._ask(Task, "POST", f"{MODELS}/probe", json={"model": id})

    async def convert(self, order: ConvertOrder) -> Task:
        return await self._ask(Task, "POST", f"{MODELS}/convert", json=msgspec.to_builtins(order))

    def watch_task(self, task: str) -> AsyncIterator[Task]:
        return self._watch(Task, f"{MODELS}/tasks/{_part(task)}/progress")

    async def cancel_task(self, task: str) -> None:
        await self._ask(dict[str, Any], "DELETE", f"{MODELS}/tasks/{_part(task)}")

    async def _ask(self, kind: type[T], method: str, path: str, **content: Any) -> T:
        try:
            reply = await self._client.request(method, path, **content)
        except httpx.TransportError as error:
            raise self._away() from error
        if reply.status_code >= 400:
            raise _refused(reply.content)
        try:
            return msgspec.json.decode(reply.content, type=kind)
        except msgspec.MsgspecError as error:
            raise self._foreign() from error

    async def _watch(self, kind: type[T], path: str) -> AsyncIterator[T]:
        """A job's states as they come, the last one included; a connection that tears is made again."""
        while True:
            last: Any = None
            with contextlib.suppress(httpx.RemoteProtocolError, httpx.ReadError, httpx.ReadTimeout):
                async for last in self._stream(kind, path):
                    yield last
            if last is not None and last.state in OVER:
                return

    async def _stream(self, kind: type[T], path: str) -> AsyncIterator[T]:
        try:
            async with self._client.stream("GET", path) as reply:
                if reply.status_code >= 400:
                    raise _refused(await reply.aread())
                async for line in reply.aiter_lines():
                    if line.startswith("data: "):
                        yield self._event(kind, line.removeprefix("data: "))
        except httpx.ConnectError as error:
            raise self._away() from error

    def _event(self, kind: type[T], data: str) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.MsgspecError:
            raise _refused(data.encode()) from None

    def _away(self) -> ServerUnreachable:
        return ServerUnreachable(f"No answer from {self.url}. Start the server with: mlx-panel serve")

    def _foreign(self) -> MlxPanelError:
        return MlxPanelError(f"What answers at {self.url} is not an mlx-panel server of this version.")


def find(port: int, folder: Path) -> str:
    """The address of the server of this data folder on this machine, "" where there is none.

    Raises ServerUnreachable where something listens and does not answer: it may be a server that is busy. Blocks.
    """
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=QUICK, trust_env=False) as client:
            if not client.get("/health").headers.get("Server", "").startswith("mlx-panel"):
                return ""
            system = msgspec.json.decode(client.get("/api/system").content, type=dict[str, Any])
    except httpx.ReadTimeout as error:
        raise ServerUnreachable(
            f"What listens at {url} does not answer. Try again, or use --alone to do without it."
        ) from error
    except (httpx.TransportError, msgspec.MsgspecError):
        return ""
    # A server of somebody else's, or of another data folder, has other models.
    return url if Path(str(system.get("data_folder", ""))) == folder else ""


def _refused(body: bytes) -> MlxPanelError:
    """The error that a problem document names."""
    try:
        problem = msgspec.json.decode(body, type=dict[str, Any])
        told = problem.get("error") or {}
        kind = BY_CODE.get(str(told.get("code")), MlxPanelError)
        return kind(str(problem.get("detail") or told.get("message") or "The server refused the request."))
    except (msgspec.MsgspecError, AttributeError):
        return MlxPanelError("That address does not answer like an mlx-panel server.")


def _part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in LOOPBACK
