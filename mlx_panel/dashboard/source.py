"""What a component looks at: the same methods whether the server is in this process or far away.

`Local` (in app.py's reach) answers from the Runtime on its own loop; `Remote` asks a server over HTTP and works
anywhere, a notebook included; `Recorded` (recorded.py) replays what it was given. A component never sees anything but
a `Source`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any, Protocol

import msgspec

from ..bench import Result
from ..job import Job, Order, Shelved
from ..messages import Limit
from ..snapshot import Sample, Snapshot
from ..tuning import CacheRecord, Option
from .audit_settings_source import AuditSettingsSource
from .audit_source import AuditSource
from .library_source import LibrarySource
from .pool_source import PoolSource
from .preset_source import PresetSource
from .proof_source import ProofSource
from .request_source import RequestSource
from .sql_source import SqlSource

Watcher = Callable[[Snapshot, list[Sample] | None], None]
Unsubscribe = Callable[[], None]


class EngineState(msgspec.Struct, frozen=True):
    """The engine's settings, and which models have values of their own."""

    options: list[Option]
    models: dict[str, dict[str, Any]] = {}


class RuleState(msgspec.Struct, frozen=True):
    """A rule for lines that change at each turn; `stripped` lines were left out since the server's start."""

    name: str
    description: str
    enabled: bool = False
    stripped: int = 0


class Source(
    AuditSettingsSource,
    AuditSource,
    LibrarySource,
    PoolSource,
    PresetSource,
    ProofSource,
    RequestSource,
    SqlSource,
    Protocol,
):
    """A server to look at. Every coroutine may raise an `MlxPanelError`, whose text may be shown to a person."""

    def subscribe(self, watcher: Watcher) -> Unsubscribe:
        """Call `watcher(snapshot, history)` once soon with the history, then about once a second with None.

        Only a weak reference to a bound method's object is held. Local calls on the server's loop, Remote from a
        thread of its own. Nothing is sent to anybody who is not subscribed.
        """
        ...

    async def load(self, model: str) -> None:
        """Load a model and return when it is ready."""
        ...

    async def unload(self, model: str) -> None:
        """Stop a model's worker; running requests are finished first."""
        ...

    async def timeouts(self) -> list[Limit]: ...

    async def set_timeouts(self, values: dict[str, float]) -> list[Limit]:
        """Set and persist limits by name (seconds); effective for the very next request."""
        ...

    async def reset_timeouts(self) -> list[Limit]:
        """Forget the live values; what file, environment or command line say holds again."""
        ...

    async def system(self) -> dict[str, Any]:
        """Versions, device, BLAS, memory, data folder, warnings: what `/api/system` answers."""
        ...

    async def engine(self, model: str = "") -> EngineState:
        """The engine's settings, for every model or what holds for one."""
        ...

    async def set_engine(self, values: dict[str, Any], model: str = "") -> EngineState:
        """Set and persist some of them, for every model or for one; None takes a live value back."""
        ...

    async def reset_engine(self, model: str = "") -> EngineState:
        """Forget the live values: all, or those of one model."""
        ...

    async def cache_records(self) -> list[CacheRecord]:
        """What the prefix cache did for the latest requests, newest first. Its figures are in the snapshot's models."""
        ...

    async def cache_rules(self) -> list[RuleState]:
        """The rules for lines that change; the setting `strip_rules` names those that are on."""
        ...

    async def clear_cache(self, model: str) -> None:
        """Empty a model's prefix cache, memory and disk."""
        ...

    async def benchmark_job(self) -> Job | None:
        """The benchmark that runs, or the last one that did."""
        ...

    async def start_benchmark(self, order: Order) -> Job:
        """Begin one on the server; it goes on whoever looks. Conflict while one runs."""
        ...

    async def cancel_benchmark(self) -> Job:
        """End the one that runs; its measured levels are stored."""
        ...

    async def benchmarks(self) -> Shelved:
        """The stored results, one line each, newest first."""
        ...

    async def benchmark(self, id: str) -> Result:
        """A stored result with every request."""
        ...

    async def delete_benchmark(self, id: str) -> None: ...


def sample(snapshot: Snapshot) -> Sample:
    """What a sparkline keeps of a snapshot."""
    return Sample(
        time=snapshot.time,
        requests=snapshot.requests,
        queued=snapshot.queued,
        tokens_per_second=snapshot.tokens_per_second,
        ttft_ms=snapshot.ttft_ms,
        memory_used=snapshot.memory_used,
    )


def weak(watcher: Watcher) -> Callable[[], Watcher | None]:
    """How to get at a watcher later: weakly if it is a bound method."""
    return weakref.WeakMethod(watcher) if isinstance(watcher, MethodType) else lambda: watcher
