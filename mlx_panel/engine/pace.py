"""How much of a prompt the next pass may take, so that answers under way keep their pace. No mlx."""

from __future__ import annotations

import time
from collections import deque
from statistics import median

from ..tuning import EngineOptions

# Without running answers a pass may last so long: cancels and heartbeats happen between passes. Seconds.
ALONE_SECONDS = 0.5
# Passes differ in length: the aim stays below the limit by this factor.
MARGIN = 0.85
FIRST_CHUNK, SMALLEST_CHUNK = 64, 4
GROWTH = 4
# A pass reads all weights however few tokens it has; a decode step is little else.
FIXED = 0.8
# What is expected is the median of so many: one slow pass, a pause of the machine, says nothing about the next.
MEMORY = 5


class Pace:
    """Learns what a prompt token and a decode step cost, and shares the time between the two.

    While answers run, a chunk is as long as `max_decode_stall_ms` allows, and the next one waits until decoding had
    `decode_share` of the time. `prefill_step` is always the most.
    """

    def __init__(self, options: EngineOptions):
        self.options = options
        self._steps: deque[float] = deque(maxlen=MEMORY)
        self._costs: deque[float] = deque(maxlen=MEMORY)
        self._largest = FIRST_CHUNK
        self._owed = 0.0
        self._looked: float | None = None
        self._chunk = 0

    def __repr__(self) -> str:
        cost = median(self._costs) if self._costs else 0.0
        return f"<Pace {cost * 1e3:.3f} ms a prompt token, {self.step_seconds * 1e3:.1f} ms a step>"

    @property
    def step_seconds(self) -> float:
        """What a decode step takes; 0 while unknown."""
        return median(self._steps) if self._steps else 0.0

    @property
    def token_seconds(self) -> float:
        """What a prompt token takes; 0 while unknown."""
        return median(self._costs) if self._costs else 0.0

    def chunk(self, *, decoding: bool) -> int:
        """The most prompt tokens of the next pass; 0 while running answers are owed their share first."""
        if not decoding:
            return self._tokens(ALONE_SECONDS)
        if self._owed > 0:
            return 0
        return self._tokens(MARGIN * self.options.max_decode_stall_ms / 1000)

    def prefilled(self, tokens: int, seconds: float) -> None:
        """A pass over so many prompt tokens took so long."""
        seconds = max(seconds, 1e-6)
        share = min(self.options.decode_share, 0.9)
        self._owed = seconds * share / (1 - share)
        # A short pass says more about a pass than about a token.
        if tokens >= SMALLEST_CHUNK or not self._costs:
            self._costs.append((seconds - min(self._fixed, FIXED * seconds)) / tokens)
            self._largest = max(tokens, self._largest)

    def decoded(self, seconds: float) -> None:
        """A step of the running answers took so long."""
        self._steps.append(seconds)
        self._owed = max(0.0, self._owed - seconds)

    def looked(self, *, decoding: bool, width: int, seconds: float) -> None:
        """Tokens were looked at now, after a pass over `width` prompt tokens that took so long, or was not waited for.

        Learns from the time since the last look what a step costs, and a chunk that was not waited for: that is computed
        after the pass whose tokens were just taken, so it counts for the next interval.
        """
        now, before = time.perf_counter(), self._looked
        if before is not None and self._chunk:
            self.prefilled(self._chunk, now - before - self.step_seconds)
        elif before is not None:
            self.decoded(now - before - seconds)
        self._looked = now if decoding else None
        self._chunk = width if decoding and not seconds else 0

    @property
    def _fixed(self) -> float:
        return FIXED * self.step_seconds

    def _tokens(self, seconds: float) -> int:
        if not self._costs:
            return min(self.options.prefill_step, FIRST_CHUNK)
        most = min(self.options.prefill_step, GROWTH * self._largest)
        return min(most, max(SMALLEST_CHUNK, int((seconds - self._fixed) / median(self._costs))))
