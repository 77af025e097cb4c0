"""Whether guessing tokens pays: what passes of each draft length cost and give, measured, and the length to take."""

from __future__ import annotations

from collections.abc import Sequence


class _Arm:
    """One draft length: seconds of a pass and tokens it gives, exponentially weighted means; 0 while unknown."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.tokens = 0.0
        self.measured = 0

    @property
    def known(self) -> bool:
        return self.seconds > 0 and self.tokens > 0

    @property
    def seconds_per_token(self) -> float:
        return self.seconds / self.tokens


class Gain:
    """How many tokens to draft, from measured passes: the length with the fewest seconds for a token, 0 for none.

    Ask `length()` before a pass and `record()` what became of it. A draft length is taken when it beats plain decoding
    by `margin`. Neighbouring lengths are probed now and then: after 1 pass, 2, 4, … up to `patience` while probing
    changes nothing, so that hopeless drafting costs a bounded number of drafts and one in `patience` passes then.
    Nothing but what is recorded counts: the same records give the same lengths.
    """

    def __init__(
        self,
        lengths: Sequence[int] = (4, 16),
        *,
        margin: float = 0.05,
        patience: int = 128,
        weight: float = 0.3,
    ):
        self._ladder = (0, *lengths)
        self._margin, self._patience, self._weight = margin, patience, weight
        self._arms = {length: _Arm() for length in self._ladder}
        self._passes = 0
        self.restart()

    def __repr__(self) -> str:
        costs = ", ".join(
            f"{length}: {1e3 * arm.seconds_per_token:.1f} ms"
            for length, arm in self._arms.items()
            if arm.known
        )
        return f"<Gain draft {self._best()}, per token {costs}>"

    def restart(self) -> None:
        """Another answer begins: what passes cost is still known, what drafts are worth is not."""
        for length, arm in self._arms.items():
            arm.tokens = 1.0 if length == 0 else 0.0
        self._since, self._wait = 0, 1

    def length(self) -> int:
        """How many tokens to draft for the next pass."""
        if not self._arms[0].known:
            return 0
        return self._probe() if self._since >= self._wait else self._best()

    def record(self, drafted: int, emitted: int, seconds: float) -> None:
        """A pass that drafted so many tokens (0: plain decoding, or nothing to guess) and gave `emitted` took `seconds`."""
        before = self._best()
        probed = self._since >= self._wait and drafted == self._probe()
        self._passes += 1
        if drafted in self._arms:
            arm = self._arms[drafted]
            # One slow pass, a pause of the machine, is no news.
            seen = min(seconds, 3 * arm.seconds) if arm.seconds else seconds
            arm.seconds, arm.measured = self._blend(arm.seconds, seen), self._passes
        if drafted:
            self._learn(drafted, emitted)
        if self._best() != before:
            self._since, self._wait = 0, 1
        elif probed:
            self._since, self._wait = 0, min(2 * self._wait, self._patience)
        else:
            self._since += 1

    def _learn(self, drafted: int, emitted: int) -> None:
        """A draft tells of every length: a shorter one gives its part, a longer one fails at the same place."""
        for length in self._ladder[1:]:
            arm = self._arms[length]
            blended = self._blend(arm.tokens, min(emitted, length + 1))
            # All accepted: a longer draft would have given at least as many.
            unknown = emitted > drafted and length > drafted
            arm.tokens = max(arm.tokens, blended) if unknown else blended

    def _blend(self, old: float, new: float) -> float:
        return old + self._weight * (new - old) if old else new

    def _best(self) -> int:
        known = [length for length in self._ladder[1:] if self._arms[length].known]
        if not known or not self._arms[0].known:
            return 0
        best = min(known, key=lambda length: self._arms[length].seconds_per_token)
        plain = self._arms[0].seconds_per_token
        return best if self._arms[best].seconds_per_token < plain * (1 - self._margin) else 0

    def _probe(self) -> int:
        """The neighbour of the best length that was not measured for longest."""
        at = self._ladder.index(self._best())
        beside = [self._ladder[near] for near in (at + 1, at - 1) if 0 <= near < len(self._ladder)]
        return min(beside, key=lambda length: self._arms[length].measured)
