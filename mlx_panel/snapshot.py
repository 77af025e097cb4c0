"""What a person watches: the server at a moment, its models, its recent past. Frozen structs, nothing that acts."""

from __future__ import annotations

from typing import Literal

import msgspec

from .messages import AuditRecord, ModelKind
from .tuning import CacheFigures

ModelStateName = Literal["available", "loading", "ready", "stopping", "failed"]


class ModelState(msgspec.Struct, frozen=True):
    """A model as a person sees it. Sizes are bytes; `memory` is what its worker measured, `disk` its files.

    `pending` names the settings that were changed and hold from the next load on, `cache` is None without a process.
    `kind` says what it is for, `reasoning` in which style it reasons ("" when it does not) and `tools` in which dialect
    it calls tools, both once it was loaded.
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


class Snapshot(msgspec.Struct, frozen=True):
    """The server at one moment. `time` is Unix seconds; rates are per second over the last second.

    `ttft_ms` is the median time to first token of the last minute, None without one. `memory_used` is the sum over
    workers, `memory_limit` this machine's memory; both bytes. `audit_rows` counts rows about model requests only, and
    `benchmark_changes` all news of benchmarks, so a page that shows them knows when to look again.
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
