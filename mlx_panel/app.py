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
from .audit import rollup
from .audit.export import Exports
from .audit.feed import AuditFeed
from .audit.reader import AuditReader
from .audit.replay_key import replay_key
from .audit.retention import Limits, Retention
from .audit.sql import SqlConsole, SqlLimits
from .audit.storage import Storage, contents
from .audit.store import AuditStore
from .benches import Benches
from .cache_log import CacheLog
from .dashboard import resources
from .engine import blas
from .errors import Draining, SettingsError
from .http.house import Visitor
from .http.routes import MODULES
from .hub.api import Hub, hub_endpoint, told_offline
from .hub.disk import Shelf, hub_cache
from .hub.downloads import Downloads
from .hub.library import Library
from .hub.shape import shape_of
from .hub.token import Token
from .live import LiveSettings
from .meter import Meter
from .pool.names import Names
from .pool.pool import ModelPool
from .pool.servers import Servers
from .pool.sizes import Sizes, recommended_memory
from .pool_settings import POOL
from .presets import Presets
from .probe.prober import Prober
from .prove.orders import Door
from .prove.prover import Prover, Surroundings
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
        self.meter = Meter(lambda: self.audit.failed)
        self.cache_log = CacheLog()
        self._log()
        self._replay_key = b""
        shelf = Shelf(self.folder / "models", cache=hub_cache())
        self.recommended = recommended_memory()
        self.sizes = Sizes(self.folder / "sizes.json", lambda model: shape_of(Path(model.path), model.kind))
        self.pool = ModelPool(
            shelf, self.sizes, self, told=self.audit.note, needed=list(settings.models), drain_seconds=settings.drain_timeout_seconds,
            silence_seconds=settings.silence_seconds, **{name: getattr(settings, name) for name in POOL},
        )  # fmt: skip
        self._stock(shelf)
        self.presets = Presets(self.folder, self.pool, self._presets_changed)
        self.names = Names(self.pool, self.presets)
        self.servers = Servers(self.pool, self.presets, self.names, self.models)
        self.pool.extra_pins, self.pool.extra_preloads = self.presets.pinned_models, self.presets.auto_models
        self.sampler = Sampler(
            self.pool, self.meter, lambda: self.draining, lambda: (self.downloads.recent(), self.library.recent())
        )  # fmt: skip
        self.benches = Benches(
            self.folder / "benchmarks", find=self.pool.find, url=lambda: self.url, changed=self.meter.benchmarks_changed
        )  # fmt: skip
        self.run = _socket_folder(self.folder)
        self.prover = Prover(self._surroundings())
        self.started = time.time()
        self.blas = blas.find()
        self._changing = asyncio.Lock()
        self._visitors: set[Visitor] = set()
        self._starting: asyncio.Task[None] | None = None
        self._opened = False

    def _log(self) -> None:
        """The audit log: its writer, what keeps house in it, and those who ask it."""
        self.audit = AuditStore(
            self.folder / "audit.duckdb",
            flush_seconds=self.settings.audit_flush_seconds,
            flush_rows=self.settings.audit_flush_rows,
        )
        self.audit.housekeeping.append(rollup.advance)
        self.retention = Retention(
            lambda: Limits(self.settings.audit_retention_days, self.settings.audit_max_mb)
        )
        self.audit.housekeeping.append(self.retention)
        self.reader = AuditReader(self.audit)
        self.feed = AuditFeed(self.audit, self.reader)
        self.exports = Exports(self.audit, self.folder / "exports")
        self.console = SqlConsole(self.audit, self.folder / "sql", self._sql_limits)

    def _stock(self, shelf: Shelf) -> None:
        """What finds models, fetches them and looks after those that are here."""
        self.hub = Hub(
            hub_endpoint(), Token(self.folder), lambda: self.settings.hub_offline or told_offline(),
            local=lambda: self.library.local(), needed=self.needs, verdict=self.pool.verdict,
        )  # fmt: skip
        self.downloads = Downloads(self.folder, hub_cache(), self.hub, self.meter.library_changed)
        self.library = Library(
            shelf, self.folder, pool=self.pool, prober=Prober(self.pool), used_by=self._named_by,
            downloading=lambda id: self.downloads.active(id) is not None, forget=self.forget_gone,
            changed=self.meter.library_changed,
        )  # fmt: skip

    def _sql_limits(self) -> SqlLimits:
        given = self.settings
        return SqlLimits(given.sql_timeout_seconds, given.sql_memory_mb, given.sql_max_rows)

    def _surroundings(self) -> Surroundings:
        """What a privacy proof has to know of this server."""
        endpoints = [endpoint for module in MODULES for _, endpoint in module.routes]
        return Surroundings(
            folder=self.folder, run=self.run, cache=hub_cache(), temporary=Path(tempfile.gettempdir()), url=lambda: self.url,
            doors=tuple({one.route: Door(one.route, one.verbs) for one in endpoints}.values()), pages=("/", "/privacy"),
            reader=self.reader, pool=self.pool, names=self.names, states=self.models, hub=self._hub_traffic,
            versions=lambda: {"mlx-panel": __version__, **self._machine["versions"]},
        )  # fmt: skip

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
            self._replay_key = replay_key(self.folder)
        except OSError as error:
            raise SettingsError(f"The data folder {self.folder} cannot be used: {error.strerror}.") from error
        self.presets.load()
        self.prover.load()
        self.audit.start()
        self.console.open()
        self.feed.fill()
        self.exports.sweep()
        # The audit log is ours now, so no other server is alive: what lies here belonged to one that was killed.
        for socket in self.run.iterdir():
            socket.unlink()
        self._machine: dict[str, Any] = {
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
        self.feed.start()
        await self.sampler.look()
        self.sampler.start()
        await self.library.start()
        await self.pool.start()
        await self.downloads.start()
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
        await self.prover.stop()
        end = time.monotonic() + self.settings.drain_timeout_seconds
        while self.working and time.monotonic() < end:
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End what still runs with an error event, then the workers, then the audit log."""
        self.draining = True
        await self.benches.stop()
        await self.prover.stop()
        for visitor in list(self._visitors):
            visitor.interrupt(Draining())
        while self._visitors:
            await asyncio.sleep(0.01)
        self.feed.stop()
        self.sampler.stop()
        await self.library.stop()
        await self.downloads.stop()
        await self.hub.close()
        await self.pool.close(timeout=0)
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Write what waits and close the audit log. Blocks."""
        self.console.close()
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

    @property
    def block_key(self) -> bytes:
        """What workers hash prompts' blocks with; empty while nobody wants hashes."""
        return self._replay_key if self.settings.audit_block_hashes else b""

    def _named_by(self, model: str) -> list[str]:
        """What would miss a model that is deleted, in words."""
        presets = [f"the preset {preset.name!r}" for preset in self.presets.of(model)]
        rules = [f"the alias {alias.pattern!r}" for alias in self.presets.aliases if alias.target == model]
        settings = [
            f"the setting {name}" for name in ("models", "pins") if model in getattr(self.settings, name)
        ]
        return [*presets, *rules, *settings]

    def _hub_traffic(self) -> str:
        """Why connections to the outside are the hub's; "" where they are not."""
        if any(one.ended is None for one in self.downloads.recent()):
            return f"a download from the hub {self.hub.endpoint} is under way"
        return f"the hub {self.hub.endpoint} was asked before" if self.hub.connected else ""

    async def _presets_changed(self, auto: set[str]) -> None:
        self.meter.presets_changed()
        await self.presets_changed(auto)

    def watch(self) -> AsyncIterator[tuple[Snapshot, list[Sample] | None]]:
        return self.sampler.watch()

    async def models(self) -> list[ModelState]:
        return await self.sampler.states()

    async def audit_storage(self) -> Storage:
        """What the audit log's file holds and takes, and what became of its rows."""
        found = await self.reader.ask(lambda cursor: contents(cursor, self.audit.path))
        return self.retention.storage(self.audit, found)

    def _lost_rows(self) -> list[str]:
        """A sentence about rows of the audit log that are lost; none where none is."""
        lost, why = self.audit.failed, self.audit.trouble
        cause = f"; writing fails now ({why})" if why else ""
        return [f"{lost} rows of the audit log are lost since the start{cause}."] if lost else []

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
            "warnings": [*self._lost_rows(), *([] if used.fast else [f"Float matmul runs on the {used.name}. To make it many times faster: {used.fix}"])],
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
