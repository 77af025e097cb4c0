"""What a component looks at: the same methods whether the server is in this process or far away.

`Local` (in app.py's reach) answers from the Runtime on its own loop; `Remote` asks a server over HTTP and works
anywhere, a notebook included; `Recorded` replays what it was given. A component never sees anything but a `Source`.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any, Protocol

import msgspec

from ..errors import ModelNotFound, SettingsError
from ..messages import AuditPage, AuditRecord, Limit, ModelState, ModelStateName, Sample, Snapshot

Watcher = Callable[[Snapshot, list[Sample] | None], None]
Unsubscribe = Callable[[], None]


class Source(Protocol):
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

    async def audit_page(
        self,
        *,
        limit: int = 50,
        offset: int = 0,
        status: str | None = None,
        model: str | None = None,
        scope: str = "model",
    ) -> AuditPage:
        """One page, newest first. `scope` "model" shows requests to models, "all" every API request."""
        ...

    async def system(self) -> dict[str, Any]:
        """Versions, device, BLAS, memory, data folder, warnings: what `/api/system` answers."""
        ...


MODEL_DIALECTS = ("openai", "anthropic")


class Recorded:
    """A source that replays given snapshots: for trying components, and for tests, without a server.

    `put` is the next second. Loading and unloading change the models of the last snapshot, after `delay` seconds;
    what is in `faults` (model id, or "timeouts", "audit", "system") is raised instead. `calls` lists what was asked.
    """

    def __init__(
        self,
        snapshot: Snapshot | None = None,
        *,
        history: Iterable[Sample] = (),
        records: Iterable[AuditRecord] = (),
        limits: Iterable[Limit] = (),
        system: dict[str, Any] | None = None,
        delay: float = 0.0,
    ):
        self.snapshot = snapshot or Snapshot(time=0.0)
        self.history = list(history)
        self.records = list(records)
        self.limits = list(limits)
        self.about = system or {}
        self.delay = delay
        self.faults: dict[str, Exception] = {}
        self.calls: list[tuple[Any, ...]] = []
        self._watchers: dict[int, Callable[[], Watcher | None]] = {}
        self._count = 0

    def __repr__(self) -> str:
        return f"<Recorded {len(self.snapshot.models)} models, {len(self.records)} records, {self.watchers} watchers>"

    @property
    def watchers(self) -> int:
        """How many watchers are subscribed and still alive."""
        return sum(get() is not None for get in self._watchers.values())

    def put(self, snapshot: Snapshot) -> None:
        """Make this the server's state and tell everybody who watches."""
        self.snapshot = snapshot
        self.history.append(sample(snapshot))
        for get in list(self._watchers.values()):
            if watcher := get():
                watcher(snapshot, None)

    def record(self, record: AuditRecord) -> None:
        """Add a row to the log, as its newest."""
        self.records.append(record)
        self.put(msgspec.structs.replace(self.snapshot, audit_rows=self.snapshot.audit_rows + 1))

    def subscribe(self, watcher: Watcher) -> Unsubscribe:
        self._count += 1
        key = self._count
        self._watchers[key] = weak(watcher)
        watcher(self.snapshot, list(self.history))
        return lambda: self._watchers.pop(key, None) and None

    async def load(self, model: str) -> None:
        await self._switch("load", model, "loading", "ready")

    async def unload(self, model: str) -> None:
        await self._switch("unload", model, "stopping", "available")

    async def timeouts(self) -> list[Limit]:
        self._ask("timeouts")
        return list(self.limits)

    async def set_timeouts(self, values: dict[str, float]) -> list[Limit]:
        self._ask("timeouts", values)
        for limit in self.limits:
            if not limit.minimum <= values.get(limit.name, limit.value) <= limit.maximum:
                raise SettingsError(f"{limit.label} is out of bounds.", field=limit.name)
        self.limits = [_changed(limit, values) for limit in self.limits]
        return list(self.limits)

    async def reset_timeouts(self) -> list[Limit]:
        self._ask("timeouts", {})
        self.limits = [
            msgspec.structs.replace(limit, value=limit.default, source="default") for limit in self.limits
        ]
        return list(self.limits)

    async def audit_page(
        self,
        *,
        limit: int = 50,
        offset: int = 0,
        status: str | None = None,
        model: str | None = None,
        scope: str = "model",
    ) -> AuditPage:
        self._ask("audit", limit, offset, status, model, scope)
        rows = [
            row
            for row in reversed(self.records)
            if status in (None, row.status)
            and (model is None or _names(row, model))
            and (scope == "all" or row.dialect in MODEL_DIALECTS)
        ]
        return AuditPage(rows=rows[offset : offset + limit], total=len(rows))

    async def system(self) -> dict[str, Any]:
        self._ask("system")
        return self.about

    def _ask(self, what: str, *arguments: Any) -> None:
        self.calls.append((what, *arguments))
        if fault := self.faults.get(what):
            raise fault

    async def _switch(self, what: str, model: str, meanwhile: ModelStateName, after: ModelStateName) -> None:
        self.calls.append((what, model))
        self._set_state(model, meanwhile)
        await asyncio.sleep(self.delay)
        if fault := self.faults.get(model):
            self._set_state(model, "failed", str(fault))
            raise fault
        self._set_state(model, after)

    def _set_state(self, model: str, state: ModelStateName, reason: str = "") -> None:
        if all(one.id != model for one in self.snapshot.models):
            raise ModelNotFound(f"There is no model {model!r}.")
        models = tuple(
            msgspec.structs.replace(one, state=state, reason=reason, **_held(one, state))
            if one.id == model
            else one
            for one in self.snapshot.models
        )
        used = sum(one.memory for one in models)
        self.put(msgspec.structs.replace(self.snapshot, models=models, memory_used=used))


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


def _held(model: ModelState, state: ModelStateName) -> dict[str, Any]:
    ready = state == "ready"
    return {"memory": model.disk if ready else 0, "uptime": 0.0 if ready else None, "tokens_per_second": 0.0}


def _names(row: AuditRecord, part: str) -> bool:
    return any(part.lower() in name.lower() for name in (row.model_used, row.model_requested) if name)


def _changed(limit: Limit, values: dict[str, float]) -> Limit:
    if limit.name not in values:
        return limit
    return msgspec.structs.replace(limit, value=values[limit.name], source="live")


def weak(watcher: Watcher) -> Callable[[], Watcher | None]:
    """How to get at a watcher later: weakly if it is a bound method."""
    return weakref.WeakMethod(watcher) if isinstance(watcher, MethodType) else lambda: watcher
