"""What is learnt of a request on its way, and the one audit row that comes of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec

from ..errors import ClientGone, Draining, MlxPanelError, QueueFull, Timeout, status_of
from ..messages import (
    AuditRecord,
    BackendType,
    Done,
    Embedded,
    Event,
    Failed,
    Reasoning,
    Role,
    Stage,
    Status,
    StructureKind,
    Text,
    ToolCall,
    Usage,
)
from ..tuning import CacheReport

UNKNOWN = "unknown"


class Ledger:
    """Times are of the monotonic clock; `record` turns them into milliseconds."""

    def __init__(self, *, request_id: str, endpoint: str, dialect: str, caller: str | None):
        self.request_id, self.endpoint, self.dialect, self.caller = request_id, endpoint, dialect, caller
        self.timestamp = datetime.now(UTC)
        self.arrived = time.monotonic()
        self.model_requested: str | None = None
        self.model_used: str | None = None
        self.backend_type: BackendType | None = None
        self.stream = False
        self.finish_reason: str | None = None
        self.spoken = 0  # tokens of the answer so far: an attribute, as each piece writes it
        self.cache: CacheReport | None = None
        self.choices = 1
        self.tool_calls = self.broken_tool_calls = 0
        self.structure: StructureKind | None = None
        self._usages: dict[str, Usage] = {}  # of each request that the body asked for
        self._load: float | None = None
        self._submitted: float | None = None
        self._prefill: float | None = None
        self._first: float | None = None

    @property
    def ttft(self) -> float | None:
        """Seconds from arrival to the first piece of the answer."""
        return None if self._first is None else self._first - self.arrived

    @property
    def usage(self) -> Usage:
        """What all requests of the body took together, as far as it is known."""
        names = Usage.__struct_fields__
        return Usage(*(sum(getattr(usage, name) for usage in self._usages.values()) for name in names))

    def loaded(self, model: str, waited: float) -> None:
        """A worker for the model is leased; `waited` seconds went into getting it."""
        self.model_used = model
        self.backend_type = "local"
        self._load = waited
        self._submitted = time.monotonic()

    def saw(self, event: Event) -> None:
        """Learn from an event of the request; counts so far stand in until the final ones come."""
        now = time.monotonic()
        if isinstance(event, Stage):
            self._started(event, now)
        elif isinstance(event, CacheReport):
            self.cache = self.cache or event
            self._count(event.id, cached_tokens=event.cached_tokens)
        elif isinstance(event, Text | Reasoning | ToolCall):
            self._first = self._first or now
            self.spoken += event.tokens
        elif isinstance(event, Done):
            self._first = self._first or now
            self._done(event)
        elif isinstance(event, Embedded) or (isinstance(event, Failed) and event.usage.total_tokens):
            self._usages[event.id] = event.usage

    def _done(self, event: Done) -> None:
        """A choice is complete; of several, the reason of the last one stands."""
        self.finish_reason = event.finish_reason
        self.tool_calls += event.calls
        self.broken_tool_calls += event.broken
        if event.last:
            self._usages[event.id] = event.usage

    def _count(self, id: str, **counts: int) -> None:
        self._usages[id] = msgspec.structs.replace(self._usages.get(id, Usage()), **counts)

    def _started(self, event: Stage, now: float) -> None:
        if event.stage != "queued":
            self._prefill = self._prefill or now
            if event.total:
                self._count(event.id, prompt_tokens=event.total)

    def record(self, error: MlxPanelError | None, http_status: int) -> AuditRecord:
        """The audit row, with what is known now."""
        usage = self.usage
        spoken = max(usage.completion_tokens, self.spoken)
        waiting = (
            None
            if self._submitted is None
            else (self._prefill or self._first or time.monotonic()) - self._submitted
        )
        return AuditRecord(
            request_id=self.request_id, timestamp=self.timestamp, endpoint=self.endpoint, dialect=self.dialect,
            status=_status(error, begun=self._submitted is not None), http_status=http_status, model_requested=self.model_requested, model_used=self.model_used,
            backend_type=self.backend_type, stream=self.stream, error_type=error.code if error else None,
            queue_ms=_ms(waiting), load_ms=_ms(self._load), ttft_ms=_ms(self.ttft), duration_ms=_ms(time.monotonic() - self.arrived) or 0.0,
            prompt_tokens=usage.prompt_tokens, cached_tokens=usage.cached_tokens, completion_tokens=spoken,
            reasoning_tokens=usage.reasoning_tokens, total_tokens=usage.prompt_tokens + spoken,
            finish_reason=self.finish_reason, caller=self.caller, choices=self.choices, tool_calls=self.tool_calls,
            broken_tool_calls=self.broken_tool_calls, structure=self.structure, **_cached(self.cache),
        )  # fmt: skip


def _status(error: MlxPanelError | None, *, begun: bool) -> Status:
    """What became of a request. One that a stopping server cut off had begun, so it was not merely turned away."""
    if error is None:
        return "success"
    if isinstance(error, ClientGone):
        return "cancelled"
    if isinstance(error, Timeout):
        return "timeout"
    refused = status_of(error) < 500 or (isinstance(error, Draining | QueueFull) and not begun)
    return "rejected" if refused else "error"


def _cached(report: CacheReport | None) -> dict[str, Any]:
    if report is None:
        return {}
    role = report.role if report.role in get_args(Role) else None
    return {"cache_outcome": report.outcome, "cache_diverged_at": report.diverged_at, "cache_role": role}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
