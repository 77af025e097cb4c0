"""How much of a prompt the next pass may take, so that answers under way keep their pace. Pure arithmetic, no mlx."""

from __future__ import annotations

from ..tuning import EngineOptions

# Without running answers a pass may last so long: cancels and heartbeats happen between passes. Seconds.
ALONE_SECONDS = 0.5
# Passes differ in length: the aim stays below the limit by this factor.
MARGIN = 0.75
FIRST_CHUNK, SMALLEST_CHUNK = 64, 8
GROWTH = 4
NEWEST = 0.5


class Pace:
    """Learns what a prompt token and a decode step cost, and shares the time between the two.

    While answers run, a chunk is as long as `max_decode_stall_ms` allows, and the next one waits until decoding had
    `decode_share` of the time. `prefill_step` is always the most.
    """

    def __init__(self, options: EngineOptions):
        self.options = options
        self.step_seconds = 0.0
        self._token_seconds = 0.0
        self._last = FIRST_CHUNK // GROWTH
        self._owed = 0.0

    def __repr__(self) -> str:
        return f"<Pace {self._token_seconds * 1e3:.3f} ms a prompt token, {self.step_seconds * 1e3:.1f} ms a step>"

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
        if tokens >= SMALLEST_CHUNK or not self._token_seconds:
            # Bad news is believed at once, good news by half.
            cost = seconds / tokens
            self._token_seconds = max(cost, _mix(self._token_seconds, cost))
            self._last = max(tokens, SMALLEST_CHUNK)

    def decoded(self, seconds: float) -> None:
        """A step of the running answers took so long."""
        self.step_seconds = _mix(self.step_seconds, seconds)
        self._owed = max(0.0, self._owed - seconds)

    def _tokens(self, seconds: float) -> int:
        most = min(self.options.prefill_step, GROWTH * self._last)
        if not self._token_seconds:
            return min(most, FIRST_CHUNK)
        return min(most, max(SMALLEST_CHUNK, int(seconds / self._token_seconds)))


def _mix(before: float, now: float) -> float:
    return now if not before else (1 - NEWEST) * before + NEWEST * now
