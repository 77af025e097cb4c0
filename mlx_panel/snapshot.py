"""What a person watches: the server at a moment, its models, its recent past. Frozen structs, nothing that acts."""

from __future__ import annotations

from typing import Literal

import msgspec

from .library import Download, Task, Verdict
from .messages import AuditRecord, ModelKind
from .sizing import Measured, Size
from .tuning import CacheFigures

ModelStateName = Literal["available", "loading", "ready", "stopping", "failed"]


class LoadProgress(msgspec.Struct, frozen=True):
    """How far a load is. `stage` is "waiting" (for memory), "starting" (a process), "weights" (`done` of `total` bytes),
    "warming" (first kernels), "ready" or "failed" (`error` says why); `seconds` since it was asked for."""

    stage: Literal["waiting", "starting", "weights", "warming", "ready", "failed"]
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    error: str = ""


class PoolFigures(msgspec.Struct, frozen=True):
    """The pool at a moment, bytes: `budget` is what models may take together, `used` what their processes take,
    `reserved` what they count for (never more than the budget). `spare` is the warm process's pid and `spare_memory` its
    footprint. `resident` models are in memory or on their way, at most `max_models` (0: no limit); `waiting` requests
    wait for a load."""

    budget: int = 0
    used: int = 0
    reserved: int = 0
    spare: int | None = None
    spare_memory: int = 0
    resident: int = 0
    max_models: int = 0
    waiting: int = 0
    evictions: int = 0


class ModelState(msgspec.Struct, frozen=True):
    """A model as a person sees it. Sizes are bytes; `memory` is what its worker measured, `disk` its files.

    `pending` names the settings that were changed and hold from the next load on, `cache` is None without a process.
    `kind` says what it is for, `reasoning` in which style it reasons ("" when it does not) and `tools` in which dialect
    it calls tools, both once it was loaded.

    `expected` is what it counts for (predicted, or measured at an earlier load), `size` the prediction by its parts,
    `measured` what its process really took; `verdict` whether it would fit now, `evicts` whom a load would make leave.
    `leases` requests use it, `waiting` ones wait for its load (`loading` says how far that is), the last one ended `idle`
    seconds ago; after `ttl` idle seconds it is unloaded (0: never). `cpu` is percent of one core. `log` are the last lines of a process that failed; `responsive` is
    False when it has given no sign for `heartbeat_seconds`.
    """

    id: str
    state: ModelStateName
    architecture: str = ""
    dtype: str = ""
    context_length: int = 0
    parameters: int = 0
    disk: int = 0
    memory: int = 0
    running: int = 0
    queued: int = 0
    tokens_per_second: float = 0.0
    pid: int | None = None
    uptime: float | None = None
    restarts: int = 0
    needed: bool = False
    reason: str = ""
    pending: tuple[str, ...] = ()
    cache: CacheFigures | None = None
    kind: ModelKind = "text"
    reasoning: str = ""
    tools: str = ""
    pinned: bool = False
    expected: int = 0
    size: Size | None = None
    measured: Measured | None = None
    verdict: Verdict = "unknown"
    evicts: tuple[str, ...] = ()
    leases: int = 0
    waiting: int = 0
    idle: float | None = None
    ttl: float = 0.0
    cpu: float | None = None
    loading: LoadProgress | None = None
    log: tuple[str, ...] = ()
    responsive: bool = True


class Snapshot(msgspec.Struct, frozen=True):
    """The server at one moment. `time` is Unix seconds; rates are per second over the last second.

    `ttft_ms` is the median time to first token of the last minute, None without one. `memory_used` is the sum over
    workers, `memory_limit` this machine's memory; both bytes. `audit_rows` counts rows about model requests only,
    `audit_dropped` rows of the audit log that are lost, and
    `benchmark_changes` all news of benchmarks, so a page that shows them knows when to look again; so do `library_changes`
    (models on disk) and `preset_changes` (presets and aliases). `downloads` and `tasks` are those that are not over, and
    those that ended in the last minute.
    """

    time: float
    requests: int = 0
    queued: int = 0
    tokens_per_second: float = 0.0
    prompt_tokens_per_second: float = 0.0
    ttft_ms: float | None = None
    requests_total: int = 0
    errors_total: int = 0
    memory_used: int = 0
    memory_limit: int = 0
    loop_lag_ms: float = 0.0
    audit_rows: int = 0
    benchmark_changes: int = 0
    draining: bool = False
    models: tuple[ModelState, ...] = ()
    pool: PoolFigures = PoolFigures()
    downloads: tuple[Download, ...] = ()
    tasks: tuple[Task, ...] = ()
    library_changes: int = 0
    preset_changes: int = 0
    audit_dropped: int = 0


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One second of the sparklines' history: the numbers of a `Snapshot` that are worth drawing."""

    time: float
    requests: int
    queued: int
    tokens_per_second: float
    ttft_ms: float | None
    memory_used: int


class AuditPage(msgspec.Struct, frozen=True):
    """One page of the audit table, newest first, and how many rows match in all."""

    rows: list[AuditRecord]
    total: int
