"""The house: built once, started and stopped in order. The only module that knows both the API and the dashboard."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import platform
import tempfile
import time
from collections.abc import AsyncIterator
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import psutil
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError

from . import __version__
from .audit.reader import AuditReader
from .audit.store import AuditStore
from .benches import Benches
from .cache_log import CacheLog
from .dashboard import resources
from .engine import blas
from .errors import Draining, SettingsError
from .http.house import Visitor
from .hub.disk import Shelf, hub_cache
from .live import LiveSettings
from .meter import Meter
from .pool.pool import ModelPool
from .sampler import Sampler
from .settings import Settings
from .site import site
from .snapshot import ModelState, Sample, Snapshot

log = logging.getLogger(__name__)
SOCKET_ROOM = 80
PACKAGES = ("mlx", "mlx-lm", "panel", "bokeh", "tornado", "duckdb", "msgspec", "pyzmq")


class Runtime(LiveSettings):
    """A server without its socket. `open()` claims the data folder; `start()` runs on the loop that will serve."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.folder = settings.folder
        self.url = ""  # where it listens, once it does; empty in a server of Panel's own
        self.draining = False
        self.meter = Meter()
        self.cache_log = CacheLog()
        self.audit = AuditStore(
            self.folder / "audit.duckdb",
            flush_seconds=settings.audit_flush_seconds,
            flush_rows=settings.audit_flush_rows,
        )
        self.reader = AuditReader(self.audit)
        self.pool = ModelPool(
            Shelf(self.folder / "models", cache=hub_cache()),
            self._worker,
            needed=list(settings.models),
            drain_seconds=settings.drain_timeout_seconds,
        )
        self.sampler = Sampler(self.pool, self.meter, lambda: self.draining)
        self.benches = Benches(
            self.folder / "benchmarks",
            find=self.pool.find,
            url=lambda: self.url,
            changed=self.meter.benchmarks_changed,
        )
        self.run = _socket_folder(self.folder)
        self.started = time.time()
        self.blas = blas.find()
        self._changing = asyncio.Lock()
        self._visitors: set[Visitor] = set()
        self._starting: asyncio.Task[None] | None = None
        self._opened = False

    def __repr__(self) -> str:
        return f"<Runtime {self.folder} {'draining' if self.draining else 'open'}, {len(self._visitors)} requests>"

    # --- start and stop --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Make the data folder and open the audit log. Blocks. Raises AuditLocked, SettingsError."""
        try:
            for folder in (self.folder, self.folder / "models", self.folder / "logs", self.run):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for folder in (self.folder, self.run):
                folder.chmod(0o700)  # fails where a folder under /tmp is somebody else's
        except OSError as error:
            raise SettingsError(f"The data folder {self.folder} cannot be used: {error.strerror}.") from error
        self.audit.start()
        # The audit log is ours now, so no other server is alive: what lies here belonged to one that was killed.
        for socket in self.run.iterdir():
            socket.unlink()
        self._machine = {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "machine": platform.machine(),
            "versions": _versions(),
        }
        self._forget = resources.remember()
        self._opened = True

    @property
    def starting(self) -> bool:
        """Whether `start` was called."""
        return self._starting is not None

    async def start(self) -> None:
        """Start once, on the running loop: whoever comes first starts, the others wait."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        asyncio.get_running_loop().set_exception_handler(_unhandled)
        if not self._opened:
            await asyncio.to_thread(self.open)
        for name in self.settings.unknown:
            log.warning("there is no setting %s; is it misspelt?", name)
        await self.sampler.look()
        self.sampler.start()
        await self.pool.start()
        if not self.blas.fast:
            log.warning(
                "float matmul runs on the %s, many times slower than need be. To fix it: %s",
                self.blas.name,
                self.blas.fix,
            )

    async def drain(self) -> None:
        """Refuse new work and wait for what runs, at most `drain_timeout_seconds`."""
        self.draining = True
        await self.benches.stop()
        end = time.monotonic() + self.settings.drain_timeout_seconds
        while self.working and time.monotonic() < end:
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End what still runs with an error event, then the workers, then the audit log."""
        self.draining = True
        await self.benches.stop()
        for visitor in list(self._visitors):
            visitor.interrupt(Draining())
        while self._visitors:
            await asyncio.sleep(0.01)
        self.sampler.stop()
        await self.pool.close(timeout=0)
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Write what waits and close the audit log. Blocks."""
        self.reader.close()
        self.audit.close()
        if self._opened:
            self._forget()

    # --- who is here -----------------------------------------------------------------------------------------

    def enter(self, visitor: Visitor) -> None:
        self._visitors.add(visitor)

    def leave(self, visitor: Visitor) -> None:
        self._visitors.discard(visitor)

    @property
    def working(self) -> int:
        """Requests under way that a drain waits for."""
        return sum(visitor.works for visitor in self._visitors)

    # --- what the API and the dashboard ask ------------------------------------------------------------------

    def watch(self) -> AsyncIterator[tuple[Snapshot, list[Sample] | None]]:
        return self.sampler.watch()

    async def models(self) -> list[ModelState]:
        return await self.sampler.states()

    async def system(self) -> dict[str, Any]:
        """Versions, device, BLAS, memory, data folder and what a person should know of them."""
        workers = [worker.ready for worker in self.pool.workers if worker.ready]
        used = workers[0].blas if workers else self.blas
        memory = psutil.virtual_memory()
        return {
            "version": __version__, **self._machine, "cpu_count": psutil.cpu_count(), "device": workers[0].device if workers else None,
            "blas": msgspec.to_builtins(used), "memory": {"total": memory.total, "available": memory.available},
            "data_folder": str(self.folder), "uptime_seconds": round(time.time() - self.started, 1),
            "ignored_fields": self.meter.ignored_fields, "audit": {"pending": self.audit.pending, "written": self.audit.written, "failed": self.audit.failed},
            "warnings": [] if used.fast else [f"Float matmul runs on the {used.name}. To make it many times faster: {used.fix}"],
        }  # fmt: skip


def _socket_folder(folder: Path) -> Path:
    """Where the workers' sockets lie: a socket's path may have some 100 characters, which a data folder's can exceed."""
    run = folder / "run"
    if len(os.fsencode(run)) < SOCKET_ROOM:
        return run
    return Path(tempfile.gettempdir()) / f"mlx-panel-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]}"


def _unhandled(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody caught on the loop: class and place. A page that is closed while it is written to is no news."""
    error = context.get("exception")
    if not isinstance(error, WebSocketClosedError | StreamClosedError):
        log.error("on the loop: %s", site(error) if error else context.get("message"))


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES}
