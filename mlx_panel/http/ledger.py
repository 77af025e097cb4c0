"""What is learnt of a request on its way, and the one audit row that comes of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec

from ..errors import ClientGone, Draining, MlxPanelError, QueueFull, Timeout, status_of
from ..messages import (
    AuditDetail,
    AuditRecord,
    BackendType,
    Done,
    Embedded,
    Event,
    Failed,
    GenerateRequest,
    Reasoning,
    Role,
    Stage,
    Status,
    StructureKind,
    Text,
    ToolCall,
    Trace,
    Usage,
)
from ..tuning import CacheReport
from .passage import Passage, sums

UNKNOWN = "unknown"
NO_TRACE = Trace("")
ROLES = frozenset(get_args(Role))


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
        self.preset: str | None = None
        self.alias: str | None = None
        self.spoken = 0  # tokens of the answer so far
        self.passage = Passage(request_id, self.arrived)
        self.cache: CacheReport | None = None
        self.choices = 1
        self.tool_calls = self.broken_tool_calls = 0
        self.structure: StructureKind | None = None
        self._usages: dict[str, Usage] = {}  # of each request that the body asked for
        self._load: float | None = None
        self._submitted: float | None = None
        self._prefill: float | None = None
        self._first: float | None = None
        self._opening = 0  # tokens of the first piece
        self._last = self._gap = 0.0  # when the last piece came, and the longest time between two
        self._asked: GenerateRequest | None = None

    @property
    def ttft(self) -> float | None:
        """Seconds from arrival to the first piece of the answer."""
        return None if self._first is None else self._first - self.arrived

    @property
    def usage(self) -> Usage:
        """What all requests of the body took together, as far as it is known."""
        if len(self._usages) == 1:
            return next(iter(self._usages.values()))
        names = Usage.__struct_fields__
        return Usage(*(sum(getattr(usage, name) for usage in self._usages.values()) for name in names))

    def asks(self, request: GenerateRequest) -> None:
        """What the model is asked, or the first of several prompts."""
        self._asked = request

    def heard(self, tokens: int, now: float) -> None:
        """More of the answer came. This runs for each token."""
        gap = now - self._last
        if gap > self._gap:
            self._gap = gap
        self._last = now
        self.spoken += tokens

    def loaded(self, model: str, waited: float, started: float = 0.0) -> None:
        """A worker for the model is leased; `waited` seconds went into getting it, whose process began to load it at
        `started` (monotonic)."""
        self.passage.leased(started)
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
            self._began(event.tokens, now)
        elif isinstance(event, Trace):
            self.passage.traced(event)
        elif isinstance(event, Done):
            self._first = self._first or now
            self._done(event)
        elif isinstance(event, Embedded) or (isinstance(event, Failed) and event.usage.total_tokens):
            self._usages[event.id] = event.usage

    def _began(self, tokens: int, now: float) -> None:
        """A piece of the answer, which may be its first."""
        if self._first is None:
            self._first = self._last = now
            self._opening = tokens
        self.heard(tokens, now)

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
        self.passage.staged(event, now)
        if event.stage != "queued":
            self._prefill = self._prefill or now
            if event.total:
                self._count(event.id, prompt_tokens=event.total)

    def record(self, error: MlxPanelError | None, http_status: int) -> AuditRecord:
        """The audit row, with what is known now."""
        usage = self.usage
        spoken = max(usage.completion_tokens, self.spoken)
        return AuditRecord(
            request_id=self.request_id, timestamp=self.timestamp, endpoint=self.endpoint, dialect=self.dialect,
            status=_status(error, begun=self._submitted is not None), http_status=http_status, model_requested=self.model_requested, model_used=self.model_used,
            backend_type=self.backend_type, stream=self.stream, error_type=error.code if error else None,
            load_ms=_ms(self._load), ttft_ms=_ms(self.ttft), duration_ms=_ms(time.monotonic() - self.arrived) or 0.0,
            prompt_tokens=usage.prompt_tokens, cached_tokens=usage.cached_tokens, completion_tokens=spoken,
            reasoning_tokens=usage.reasoning_tokens, total_tokens=usage.prompt_tokens + spoken,
            finish_reason=self.finish_reason, caller=self.caller, choices=self.choices, tool_calls=self.tool_calls,
            broken_tool_calls=self.broken_tool_calls, structure=self.structure, preset=self.preset, alias=self.alias,
            **_cached(self.cache), **_sampled(self._asked), **self._paced(spoken), **self._worked(),
        )  # fmt: skip

    def detail(self) -> AuditDetail | None:
        """Where the time went and who was there, to be kept beside the row; None where no worker was asked for."""
        if not self.passage.works:
            return None
        spans = self.passage.spans(self.passage.work())
        trace = self.passage.trace or NO_TRACE
        return AuditDetail(spans, trace.neighbours, trace.block_tokens, trace.blocks)

    def _paced(self, spoken: int) -> dict[str, Any]:
        """How the answer came: from its first piece to its last, and the time between tokens."""
        if self._first is None or not self._last:
            return {}
        took, more = self._last - self._first, spoken - self._opening
        known = {"decode_ms": _ms(took)}
        if more <= 0 or took <= 0:
            return known
        # Several answers come side by side: each has its share of the tokens.
        return {**known, "itl_ms": _ms(took * self.choices / more), "itl_max_ms": _ms(self._gap)}

    def _worked(self) -> dict[str, Any]:
        """What the worker did for it."""
        if self._submitted is None:
            return {}
        passage = self.passage
        found = sums(passage.work())
        if self.stream:
            found["blocked_ms"] = _ms(passage.blocked)
        if passage.trace is None:
            # Seen from here: a wait ends with the first pass, or with a word.
            found["queue_ms"] = _ms((self._prefill or self._first or time.monotonic()) - self._submitted)
            return found
        if own := passage.own():
            found["prefill_ms"] = round(found.get("prefill_ms", 0.0) + own, 3)
        found["interference_ms"], found["saved_ms"] = passage.trace.others_ms, passage.saved_ms
        found["batch_mean"] = passage.trace.batch or None
        return found


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
    role = report.role if report.role in ROLES else None
    return {"cache_outcome": report.outcome, "cache_diverged_at": report.diverged_at, "cache_role": role}


def _sampled(request: GenerateRequest | None) -> dict[str, Any]:
    """How tokens are drawn: as asked, or as a preset or the default says."""
    if request is None:
        return {}
    sampling = request.sampling
    return {
        "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k,
        "max_tokens": request.max_tokens,
    }  # fmt: skip


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
