"""Traces of requests that do one thing after another, for engines whose requests hardly wait for each other. No mlx."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ..messages import Event, Origin, Span, Trace
from ..record import SpanKind
from .timeline import FINAL, NOWHERE, started


class Phases:
    """Says at a request's end how long each of its phases took (`messages.Trace`); it knows of no neighbours."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.now = clock
        self._zero: dict[str, float] = {}
        self._found: dict[str, list[tuple[float, SpanKind, int]]] = {}

    def __repr__(self) -> str:
        return f"<Phases of {len(self._found)} requests>"

    def began(self, id: str, taken: float, origin: Origin = NOWHERE) -> None:
        """A request was taken, and waits."""
        zero, sent = started(origin, taken)
        self._zero[id] = zero
        self._found[id] = [(sent, "queue", 0)]

    def turned(self, id: str, kind: SpanKind, tokens: int = 0) -> None:
        """It does something else from now on, or the same with `tokens` more."""
        phases = self._found.get(id)
        if phases is None:
            return
        if phases[-1][1] == kind:
            began, _, known = phases[-1]
            phases[-1] = (began, kind, known + tokens)
        else:
            phases.append((self.now(), kind, tokens))

    def ended(self, events: Iterable[Event]) -> list[Trace]:
        """The traces of the requests that end with these events."""
        ids = [event.id for event in events if type(event) in FINAL and getattr(event, "last", True)]
        return [self._trace(id) for id in ids if id in self._found]

    def dropped(self, id: str) -> None:
        """A request of which nobody will be told anything more."""
        self._zero.pop(id, None)
        self._found.pop(id, None)

    def _trace(self, id: str) -> Trace:
        zero, phases = self._zero.pop(id), self._found.pop(id)
        ends = [*(began for began, _, _ in phases[1:]), self.now()]
        return Trace(
            id,
            tuple(
                Span(kind, round(1000 * (began - zero), 3), round(1000 * (end - began), 3), tokens)
                for (began, kind, tokens), end in zip(phases, ends, strict=True)
            ),
        )
