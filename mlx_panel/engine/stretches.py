"""A life cut into stretches that follow each other without a gap, few enough to be kept and drawn."""

from __future__ import annotations

from collections.abc import Sequence

from ..messages import Span
from ..record import SpanKind

MOST = 200
SHORT = 20e-6  # seconds: less belongs to what came before
GROUPS = 48  # of stretches, each with one span a kind, where there are too many


class Stretches:
    """Fills time from `start` on, in order. `phases` say what was going on where nothing else is said, each with its
    beginning, ascending. Seconds; spans are milliseconds from `zero`.
    """

    def __init__(self, zero: float, start: float, phases: Sequence[tuple[float, SpanKind]]):
        self.at = start
        self._zero = zero
        self._phases = phases
        self._phase = 0
        self._kinds: list[SpanKind] = []
        self._seconds: list[float] = []
        self._tokens: list[int] = []
        self._start = start

    def __repr__(self) -> str:
        return f"<Stretches of {self.at - self._start:.3f} s, {len(self._kinds)}>"

    def add(self, kind: SpanKind, seconds: float, tokens: int = 0) -> None:
        """So many seconds of a kind come next."""
        if seconds <= 0 and not tokens:
            return
        self.at += seconds
        kinds = self._kinds
        # Chunks of a prompt stay apart, also where nothing was between them.
        if kinds and not tokens and (kinds[-1] == kind or seconds < SHORT):
            self._seconds[-1] += seconds
            return
        kinds.append(kind)
        self._seconds.append(seconds)
        self._tokens.append(tokens)

    def gap(self, end: float) -> None:
        """Until `end` nothing else is known than the phase."""
        phases = self._phases
        while self.at < end:
            while self._phase + 1 < len(phases) and phases[self._phase + 1][0] <= self.at:
                self._phase += 1
            further = self._phase + 1 < len(phases)
            until = min(end, phases[self._phase + 1][0]) if further else end
            self.add(phases[self._phase][1], until - self.at)
            self.at = until

    def spans(self) -> tuple[Span, ...]:
        """What was added, as at most `MOST` spans. Beyond that spans that follow each other share one a kind."""
        rows = list(zip(self._kinds, self._seconds, self._tokens, strict=True))
        if len(rows) > MOST:
            size = -(-len(rows) // GROUPS)
            groups = (rows[at : at + size] for at in range(0, len(rows), size))
            rows = [row for group in groups for row in _by_kind(group)]
        at = 1000 * (self._start - self._zero)
        found = []
        for kind, seconds, tokens in rows:
            ms = 1000 * seconds
            found.append(Span(kind, round(at, 3), round(ms, 3), tokens))
            at += ms
        return tuple(found)


def _by_kind(rows: Sequence[tuple[SpanKind, float, int]]) -> list[tuple[SpanKind, float, int]]:
    found: dict[SpanKind, tuple[float, int]] = {}
    for kind, seconds, tokens in rows:
        known = found.get(kind, (0.0, 0))
        found[kind] = (known[0] + seconds, known[1] + tokens)
    return [(kind, *sums) for kind, sums in found.items()]
