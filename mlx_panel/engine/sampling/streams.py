"""Each row's own random numbers: a stream that depends on the row's seed and the draw's number, and on nothing else."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .contract import RowSpec

# Uniforms set aside for one draw. A draw takes two at a time and rarely more than two; what it leaves stays unused,
# so that draw k never depends on how the draws before it went.
LANES = 16
# Draws made ready at once; a refill costs some microseconds.
AHEAD = 32
# Philox makes four 64-bit words with each count.
COUNTS = LANES // 4


class Streams:
    """Uniforms in [0, 1) for a batch, a row at a time: Philox4x64 (Salmon et al., SC 2011) keyed by the row's seed.

    Being counter-based, it starts anywhere: a row that resumes at draw k goes on as if it had made the first k.
    """

    def __init__(self) -> None:
        self._sources: list[np.random.Generator | None] = []
        self._table: NDArray[np.float64] = np.zeros((0, AHEAD, LANES))
        self._next: NDArray[np.intp] = np.zeros(0, np.intp)
        self._steps: NDArray[np.intp] = np.zeros(0, np.intp)

    def __repr__(self) -> str:
        return f"<Streams {len(self._sources)} rows, {int(self._steps.sum())} random>"

    def join(self, specs: Sequence[RowSpec]) -> None:
        """Append rows. The next draw of each is number len(answer); greedy rows need no numbers and get zeros."""
        sources = [_source(spec) for spec in specs]
        first = np.zeros((len(specs), AHEAD, LANES))
        for table, source in zip(first, sources, strict=True):
            if source is not None:
                source.random(out=table)
        self._sources += sources
        self._table = np.concatenate([self._table, first])
        self._next = np.append(self._next, np.zeros(len(specs), np.intp))
        self._steps = np.append(self._steps, [source is not None for source in sources]).astype(np.intp)

    def keep(self, rows: Sequence[int]) -> None:
        self._sources = [self._sources[row] for row in rows]
        chosen = np.asarray(rows, np.intp)
        self._table, self._next = self._table[chosen], self._next[chosen]
        self._steps = self._steps[chosen]

    def draw(self) -> NDArray[np.float64]:
        """The uniforms (rows, LANES) of every row's next draw."""
        for row in np.flatnonzero(self._next == AHEAD):
            source = self._sources[row]
            assert source is not None
            self._table[row] = source.random((AHEAD, LANES))
            self._next[row] = 0
        uniforms = self._table[np.arange(len(self._next)), self._next]
        self._next = self._next + self._steps
        return uniforms


def _source(spec: RowSpec) -> np.random.Generator | None:
    if spec.greedy:
        return None
    seed = spec.sampling.seed
    key = secrets.randbits(128) if seed is None else seed % (1 << 64)
    return np.random.Generator(np.random.Philox(key=key, counter=len(spec.answer) * COUNTS))
