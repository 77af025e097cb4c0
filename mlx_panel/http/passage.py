"""A request's way through the server, and with its worker's trace one timeline from its arrival."""

from __future__ import annotations

import time
from typing import Any

from ..messages import Neighbour, Origin, Span, Stage, Trace
from ..record import SpanKind

SHORT = 0.001  # seconds: less is not worth a span
STAGES, SENDS = 150, 40  # that are kept
TURN = frozenset({"restore", "prefill", "decode"})  # what a request does when it has its turn
COLUMNS: dict[SpanKind, str] = {"tokenise": "tokenise_ms", "restore": "restore_ms", "prefill": "prefill_ms"}


class Passage:
    """Moments of the monotonic clock. Of several prompts in one body the trace of the one that ended last counts.

    A request whose worker had no time to tell (its client left, a limit ran out, the worker died) has what was seen
    from here: when its prompt moved on, when tokens came.
    """

    def __init__(self, request_id: str, arrived: float):
        self.arrived = arrived
        self.trace: Trace | None = None
        self.saved_ms = 0.0
        self.blocked = 0.0  # seconds in which the client took no bytes
        self._request_id = request_id
        self._asked: float | None = None
        self._began: float | None = None
        self._leased: float | None = None
        self._sent: float | None = None
        self._stages: list[tuple[float, int]] = []  # when so many prompt tokens were processed
        self._decoding: float | None = None
        self._sends: list[Span] = []

    def __repr__(self) -> str:
        state = "traced" if self.trace is not None else "sent" if self._sent is not None else "here"
        return f"<Passage {state}, {len(self._stages)} stages>"

    def asked(self) -> None:
        """A worker is asked for."""
        self._asked = time.monotonic()

    def leased(self, started: float) -> None:
        """There it is; its process began to load at `started`."""
        self._leased, self._began = time.monotonic(), started

    def sent(self) -> Origin:
        """The request leaves for the worker."""
        self._sent = time.monotonic()
        return Origin(self._request_id, self.arrived, self._sent)

    def staged(self, event: Stage, now: float) -> None:
        """The prompt moved on."""
        if event.stage == "decode" and self._decoding is None:
            self._decoding = now
        if event.stage != "queued" and len(self._stages) < STAGES:
            self._stages.append((now, event.done))

    def traced(self, trace: Trace) -> None:
        """The worker told where the time went."""
        self.trace = trace
        self.saved_ms += trace.saved_ms

    def waited(self, began: float, ended: float) -> None:
        """The client took no bytes from `began` to `ended`."""
        self.blocked += ended - began
        self._sends.append(self._span("send", began, ended))
        if len(self._sends) > SENDS:
            pairs = zip(self._sends[0::2], self._sends[1::2], strict=False)
            odd = self._sends[-1:] if len(self._sends) % 2 else []
            self._sends = [Span("send", one.at_ms, round(one.ms + two.ms, 3)) for one, two in pairs] + odd

    @property
    def works(self) -> bool:
        """Whether a worker was asked for."""
        return self._asked is not None

    # --- what came of it -------------------------------------------------------------------------------------

    def work(self) -> tuple[Span, ...]:
        """What the worker did for it, or what is known of that."""
        if self.trace is not None:
            return self.trace.spans
        return tuple(self._seen(time.monotonic())) if self._sent is not None else ()

    def spans(self, work: tuple[Span, ...]) -> tuple[Span, ...]:
        """All of it, oldest first; the client's part, which goes on beside the worker's, last."""
        return (*self._way_in(), *work, *self._sends)

    @property
    def neighbours(self) -> tuple[Neighbour, ...]:
        return () if self.trace is None else self.trace.neighbours

    def own(self) -> float:
        """Milliseconds of passes over the other prompts of the same body, which the last one waited for."""
        return sum([one.prefill_ms for one in self.neighbours if one.request_id == self._request_id])

    def _way_in(self) -> list[Span]:
        """Waiting for a place or memory, and for the load."""
        if self._asked is None:
            return []
        end = self._leased or time.monotonic()
        began = min(max(self._began or self._asked, self._asked), end)
        found: list[tuple[SpanKind, float, float]] = [("queue", self._asked, began), ("load", began, end)]
        return [self._span(*one) for one in found if one[2] - one[1] >= SHORT]

    def _seen(self, now: float) -> list[Span]:
        """The worker's part as its stages tell it: until the first pass is done it is taken to wait."""
        assert self._sent is not None
        found, at, done = [], self._sent, 0
        for number, (moment, tokens) in enumerate(self._stages):
            kind: SpanKind = "prefill" if number else "queue"
            found.append(self._span(kind, at, moment, max(0, tokens - done) if number else 0))
            at, done = moment, tokens
        last: SpanKind = "decode" if self._decoding is not None else "prefill" if self._stages else "queue"
        return [*found, self._span(last, at, now)]

    def _span(self, kind: SpanKind, began: float, ended: float, tokens: int = 0) -> Span:
        return Span(kind, round(1000 * (began - self.arrived), 3), round(1000 * (ended - began), 3), tokens)


def sums(spans: tuple[Span, ...]) -> dict[str, Any]:
    """The row's columns that are sums over a worker's spans, milliseconds; None for what never happened."""
    found: dict[str, float] = {}
    queue: float | None = None
    waiting = 0.0
    for span in spans:
        kind, ms = span.kind, span.ms
        if kind in TURN:
            if queue is None:
                queue = waiting
        elif kind != "tokenise":
            waiting += ms
        found[kind] = found[kind] + ms if kind in found else ms
    known = {column: round(found[kind], 3) for kind, column in COLUMNS.items() if kind in found}
    known["queue_ms"] = round(waiting if queue is None else queue, 3)
    return known
