"""A source without a server, for trying components and for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..analytics import Chart, RequestView
from ..audit.sql_schema import Table
from ..bench import Result
from ..errors import Conflict, InvalidParameter, ModelNotFound, NotFound, SettingsError
from ..inquiry import Proof, SavedQuery, SqlResult
from ..job import Job, Order, Shelved, stored
from ..messages import AuditRecord, Limit
from ..parse.volatile import RULES
from ..preset_text import Stored
from ..snapshot import ModelState, ModelStateName, Sample, Snapshot
from ..tuning import CacheFigures, CacheRecord, Option
from .audit_settings_source import RecordedAuditSettings
from .audit_source import RecordedAudit
from .library_recorded import RecordedLibrary, Stock
from .pool_source import RecordedPool
from .preset_recorded import RecordedPresets
from .proof_source import RecordedProof
from .request_source import RecordedRequests
from .source import EngineState, RuleState, Unsubscribe, Watcher, sample, weak
from .sql_source import RecordedSql


class Recorded(
    RecordedAudit,
    RecordedAuditSettings,
    RecordedLibrary,
    RecordedPool,
    RecordedPresets,
    RecordedProof,
    RecordedRequests,
    RecordedSql,
):
    """A source that replays given snapshots: for trying components, and for tests, without a server.

    `put` is the next second. Loading and unloading change the models of the last snapshot, after `delay` seconds;
    what is in `faults` (model id, or "timeouts", "audit", "system", "engine", "cache", "benchmarks") is raised instead.
    `calls` lists what was asked. `bench` is a benchmark's next news; when one is done its `result` is stored.
    """

    def __init__(
        self,
        snapshot: Snapshot | None = None,
        *,
        history: Iterable[Sample] = (),
        records: Iterable[AuditRecord] = (),
        limits: Iterable[Limit] = (),
        system: dict[str, Any] | None = None,
        options: Iterable[Option] = (),
        cached: Iterable[CacheRecord] = (),
        results: Iterable[Result] = (),
        stock: Stock | None = None,
        pool_settings: Iterable[Option] = (),
        stored: Stored | None = None,
        delay: float = 0.0,
    ):
        self.snapshot = snapshot or Snapshot(time=0.0)
        self.history = list(history)
        self.records = list(records)
        self.limits = list(limits)
        self.about = system or {}
        self.options = list(options)
        self.cached = list(cached)
        self.results = {result.id: result for result in results}
        self.stock = stock or Stock()
        self.pool_settings = list(pool_settings)
        self.stored = stored or Stored()
        self.delay = delay
        self._begin_empty()

    def _begin_empty(self) -> None:
        """What nobody gives at first: filled by what is done, or set as an attribute."""
        self.model_options: dict[str, dict[str, Any]] = {}
        self.job: Job | None = None
        self.privacy: list[Proof] = []
        self.charts: dict[str, Chart] = {}
        self.requests: dict[int, RequestView] = {}
        self.sql_results: dict[str, SqlResult] = {}
        self.queries: dict[str, SavedQuery] = {}
        self.tables: list[Table] = []
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

    async def system(self) -> dict[str, Any]:
        self._ask("system")
        return self.about

    async def engine(self, model: str = "") -> EngineState:
        self._ask("engine", model)
        own = self.model_options.get(model, {})
        options = [
            msgspec.structs.replace(one, value=own[one.name], own=True, source="live")
            if one.name in own
            else one
            for one in self.options
        ]
        return EngineState(options, dict(self.model_options))

    async def set_engine(self, values: dict[str, Any], model: str = "") -> EngineState:
        self._ask("engine", values, model)
        for option in self.options:
            value = values.get(option.name)
            low, high = option.minimum, option.maximum
            if (
                isinstance(value, int | float)
                and low is not None
                and high is not None
                and not low <= value <= high
            ):
                raise InvalidParameter(f"{option.name} must be from {low:g} to {high:g}.", field=option.name)
        if model:
            table = {**self.model_options.get(model, {}), **values}
            self.model_options[model] = {name: value for name, value in table.items() if value is not None}
        else:
            self.options = [_set(option, values) for option in self.options]
        return await self.engine(model)

    async def reset_engine(self, model: str = "") -> EngineState:
        self._ask("engine", {}, model)
        if model:
            self.model_options.pop(model, None)
        else:
            self.options = [_set(option, {option.name: None}) for option in self.options]
        return await self.engine(model)

    async def cache_records(self) -> list[CacheRecord]:
        self._ask("cache")
        return list(reversed(self.cached))

    async def cache_rules(self) -> list[RuleState]:
        on = next((one.value for one in self.options if one.name == "strip_rules"), [])
        enabled = on if isinstance(on, list) else []
        return [RuleState(rule.name, rule.description, rule.name in enabled) for rule in RULES]

    async def clear_cache(self, model: str) -> None:
        self._ask("cache", model)
        models = tuple(
            msgspec.structs.replace(one, cache=CacheFigures()) if one.id == model else one
            for one in self.snapshot.models
        )
        self.put(msgspec.structs.replace(self.snapshot, models=models))

    def bench(self, job: Job | None, result: Result | None = None) -> None:
        """News of the benchmark: where it is, and what was stored at its end."""
        self.job = job
        if result is not None:
            self.results[result.id] = result
        changes = self.snapshot.benchmark_changes + 1
        self.put(msgspec.structs.replace(self.snapshot, benchmark_changes=changes))

    async def benchmark_job(self) -> Job | None:
        return self.job

    async def start_benchmark(self, order: Order) -> Job:
        self._ask("benchmarks", order)
        if self.job is not None and self.job.state == "running":
            raise Conflict("A benchmark is running. Wait until it is done, or cancel it.")
        job = Job(order=order, started=datetime.now(UTC), steps=len(order.workloads))
        self.bench(job)
        return job

    async def cancel_benchmark(self) -> Job:
        self._ask("benchmarks", "cancel")
        if self.job is None or self.job.state != "running":
            raise NotFound("No benchmark is running.")
        job = msgspec.structs.replace(self.job, state="cancelled")
        self.bench(job)
        return job

    async def benchmarks(self) -> Shelved:
        self._ask("benchmarks")
        lines = [stored(result) for result in self.results.values()]
        return Shelved(sorted(lines, key=lambda one: one.created, reverse=True), [])

    async def benchmark(self, id: str) -> Result:
        self._ask("benchmarks", id)
        if id not in self.results:
            raise NotFound("There is no benchmark with that id.")
        return self.results[id]

    async def delete_benchmark(self, id: str) -> None:
        self._ask("benchmarks", "delete", id)
        del self.results[id]
        self.bench(self.job)

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


def _held(model: ModelState, state: ModelStateName) -> dict[str, Any]:
    ready = state == "ready"
    return {"memory": model.disk if ready else 0, "uptime": 0.0 if ready else None, "tokens_per_second": 0.0}


def _changed(limit: Limit, values: dict[str, float]) -> Limit:
    if limit.name not in values:
        return limit
    return msgspec.structs.replace(limit, value=values[limit.name], source="live")


def _set(option: Option, values: dict[str, Any]) -> Option:
    if option.name not in values:
        return option
    value = values[option.name]
    if value is None:
        return msgspec.structs.replace(option, value=option.default, source="default")
    return msgspec.structs.replace(option, value=value, source="live")
