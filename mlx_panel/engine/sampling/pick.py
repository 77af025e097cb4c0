"""Drawing without a sort, in numpy: rows of logits in, one token each out.

A row's allowed tokens are an upper set of its logits: those with less than `top_p` of the probability above them, the
`top_k` likeliest, those of at least `min_p` times the likeliest's probability. As in mlx-lm all three look at the model's own
distribution, the temperature shapes what they leave, and all tokens that tie at the end of `top_p` stay; of those that
tie at the end of `top_k` the lower ids do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]

# Tokens summed at once: a row of 49,152 is 192 sums and one block.
BLOCK = 256
_ONES = np.ones(BLOCK, np.float32)
# Logits worked on at once, in whole rows: it bounds the work space, and numpy's calls do not count. Measured on two
# cores with 1 MB of cache each: 2**18 to 2**21 are alike within a tenth, for vocabularies of 49,152 to 152,064.
ELEMENTS = 1 << 19
# Draws of a row that may be refused before its allowed tokens are sorted out. A token is refused with probability
# 1 - top_p at most, then about half as often again and again.
ROUNDS = 7
SMALLEST = float(np.finfo(np.float32).min)


class Shape(NamedTuple):
    """The parameters of rows that are drawn together, one value for each; `least` is the logarithm of `min_p`."""

    inverse: Floats
    top_p: NDArray[np.float64]
    top_k: Indices
    least: Floats

    def part(self, rows: slice) -> Shape:
        return Shape(self.inverse[rows], self.top_p[rows], self.top_k[rows], self.least[rows])


class Picked(NamedTuple):
    """A token for each row, and whether its distribution was unusable."""

    ids: Indices
    bad: NDArray[np.bool_]


class Scratch:
    """Work space for some rows of a vocabulary: allocating it anew at each step would cost more than the arithmetic."""

    def __init__(self, vocab: int):
        padded = -(-vocab // BLOCK) * BLOCK
        self.vocab = vocab
        self.rows = max(1, ELEMENTS // max(padded, 1))
        self._arrays = np.zeros((3, self.rows, padded), np.float32)

    def __repr__(self) -> str:
        return f"<Scratch {self.rows} x {self.vocab}, {self._arrays.nbytes >> 20} MB>"

    def take(self, rows: int) -> tuple[Floats, Floats, Floats]:
        """Three arrays (rows, vocabulary padded to whole blocks); what pads the last two is zero."""
        first, second, third = self._arrays[:, :rows]
        return first, second, third


def greedy(logits: Floats) -> Picked:
    ids = logits.argmax(-1)
    return Picked(ids, ~np.isfinite(logits[np.arange(len(ids)), ids]))


def open_ended(logits: Floats, shape: Shape, uniforms: NDArray[np.float64], scratch: Scratch) -> Picked:
    """Draw from rows without `top_k`: from the whole vocabulary first; what is not allowed is drawn again.

    A refused token is the row's new pivot: the next draw is among likelier tokens only. The allowed tokens being an
    upper set, all of them are likelier than a refused one, so their conditional distribution stays what it was
    (Xing, Ye et al., "Sorting-Free GPU Kernels for LLM Sampling", flashinfer.ai, 2025). A row is through after
    1 + log(1 / top_p) draws or so.
    """
    count, vocab = logits.shape
    top = logits.max(-1)
    bad = ~np.isfinite(top)
    shifted, chances, weights = scratch.take(count)
    shifted = np.subtract(logits, top[:, None], out=shifted[:, :vocab])
    nucleus = bool((shape.top_p < 1).any())
    hot = bool((shape.inverse != 1).any())
    if nucleus or not hot:
        np.exp(shifted, out=chances[:, :vocab])
    if hot:
        shifted *= shape.inverse[:, None]
        np.exp(shifted, out=weights[:, :vocab])
    else:
        weights = chances
    limits = shape.top_p * block_sums(chances).sum(-1, dtype=np.float64) if nucleus else None
    field = _Field(logits, chances[:, :vocab], limits, top + shape.least, shifted)
    ids = among_blocks(weights, uniforms)
    left = np.flatnonzero(field.refused(ids) & ~bad)
    if left.size:
        _again(field, weights[:, :vocab], ids, left, uniforms)
    return Picked(ids, bad)


class _Field(NamedTuple):
    """What decides whether a token is allowed. `limits` is the probability that may be above it, where any is set."""

    logits: Floats
    chances: Floats
    limits: NDArray[np.float64] | None
    floor: Floats
    spare: Floats

    def refused(self, ids: Indices) -> NDArray[np.bool_]:
        pivots = self.logits[np.arange(len(ids)), ids]
        refused = pivots < self.floor
        if self.limits is not None:
            likelier = np.greater(self.logits, pivots[:, None], out=self.spare)
            refused |= np.vecdot(likelier, self.chances) >= self.limits
        return refused

    def part(self, rows: Indices) -> _Field:
        limits = None if self.limits is None else self.limits[rows]
        return _Field(
            self.logits[rows], self.chances[rows], limits, self.floor[rows], self.spare[: len(rows)]
        )


def _again(
    field: _Field, weights: Floats, ids: Indices, left: Indices, uniforms: NDArray[np.float64]
) -> None:
    """Draw again, into `ids`, for the rows `left`, each from the tokens above the one that was refused."""
    for turn in range(1, ROUNDS):
        part = field.part(left)
        refused = part.logits[np.arange(len(left)), ids[left]]
        # `floor` itself is allowed, so the pivot lies just below it.
        pivots = np.maximum(refused, np.nextafter(part.floor, np.float32(-np.inf)))
        likelier = np.greater(part.logits, pivots[:, None], out=part.spare)
        drawn = among_blocks(np.multiply(likelier, weights[left]), uniforms[left, 2 * turn : 2 * turn + 2])
        ids[left] = drawn
        left = left[part.refused(drawn)]
        if not left.size:
            return
    for row in left:
        ids[row] = _exactly(field, weights, row, ids[row], uniforms[row, 2 * ROUNDS :])


def _exactly(field: _Field, weights: Floats, row: int, refused: int, uniforms: NDArray[np.float64]) -> int:
    """The rare row that is still open after so many draws: sort what is likelier than its last pivot."""
    logits, chances = field.logits[row], field.chances[row]
    likelier = np.flatnonzero(logits > logits[refused])
    scores = -np.sort(-logits[likelier])
    order = likelier[np.argsort(-logits[likelier], kind="stable")]
    above = np.cumsum(chances[order], dtype=np.float64) - chances[order]
    least = field.floor[row]
    if field.limits is not None:
        least = max(least, scores[np.count_nonzero(above < field.limits[row]) - 1])
    allowed = likelier[logits[likelier] >= least]
    return int(allowed[inverse_cdf(weights[row, allowed][None], uniforms[:1])[0]])


def likeliest(logits: Floats, shape: Shape, uniforms: NDArray[np.float64], scratch: Scratch) -> Picked:
    """Draw from rows with `top_k`: a partition finds the smallest logit of the `top_k`, the rest is about few tokens."""
    count = len(logits)
    top = logits.max(-1)
    ids, table = likeliest_of(logits, shape.top_k, top + shape.least)
    table -= top[:, None]
    if (shape.top_p < 1).any():
        table[table < _nucleus_floor(logits, top, table, shape.top_p, scratch)[:, None]] = -np.inf
    chosen = inverse_cdf(np.exp(table * shape.inverse[:, None]), uniforms[:, 0])
    return Picked(ids[np.arange(count), chosen], ~np.isfinite(top))


def likeliest_of(logits: Floats, top_k: Indices, floor: Floats) -> tuple[Indices, Floats]:
    """Ids and logits (rows, n) of the `top_k` likeliest of each row that are not under `floor`, ids ascending.

    Rows with fewer are filled up with id 0 and logit -inf.
    """
    count, vocab = logits.shape
    rows, tokens = _candidates(logits, np.minimum(top_k, vocab), floor)
    place = np.arange(rows.size) - np.searchsorted(rows, np.arange(count))[rows]
    shape = count, int(place.max(initial=0)) + 1
    ids, table = np.zeros(shape, np.intp), np.full(shape, -np.inf, np.float32)
    ids[rows, place] = tokens
    table[rows, place] = logits[rows, tokens]
    return ids, table


def _candidates(logits: Floats, top_k: Indices, floor: Floats) -> tuple[Indices, Indices]:
    """Row and token of the `top_k` likeliest of each row that are not under `floor`, ascending."""
    count, vocab = logits.shape
    last = vocab - top_k
    part = np.partition(logits, np.unique(last), axis=-1)
    edge = np.maximum(np.maximum(part[np.arange(count), last], floor), SMALLEST)
    rows, tokens = np.divmod(np.flatnonzero(logits >= edge[:, None]), vocab)
    held = np.bincount(rows, minlength=count)
    if (held <= top_k).all():
        return rows, tokens
    # Some tie with the last: the lower ids stay, as many as there is room for.
    tie = logits[rows, tokens] == edge[rows]
    before = np.concatenate([[0], np.cumsum(tie)])
    rank = before[:-1] - before[np.searchsorted(rows, np.arange(count))][rows]
    room = top_k - (held - np.bincount(rows, weights=tie, minlength=count)).astype(np.intp)
    stays = ~tie | (rank < room[rows])
    return rows[stays], tokens[stays]


def _nucleus_floor(
    logits: Floats, top: Floats, table: Floats, top_p: NDArray[np.float64], scratch: Scratch
) -> Floats:
    """The smallest of each row's scores in `table` that `top_p` of the whole vocabulary leaves."""
    limits = np.where(top_p < 1, top_p, np.inf) * mass(logits, top, scratch)
    scores = -np.sort(-table, axis=-1)
    weights = np.exp(scores)
    above = weights.cumsum(-1, dtype=np.float64) - weights
    kept = (above < limits[:, None]).sum(-1)
    floor: Floats = scores[np.arange(len(scores)), kept - 1]
    return floor


def mass(logits: Floats, top: Floats, scratch: Scratch) -> NDArray[np.float64]:
    """The sums of exp(logits - top), what a row's exponentials are divided by to be probabilities."""
    shifted, chances, _ = scratch.take(len(logits))
    vocab = logits.shape[1]
    np.exp(np.subtract(logits, top[:, None], out=shifted[:, :vocab]), out=chances[:, :vocab])
    return block_sums(chances).sum(-1, dtype=np.float64)


def block_sums(weights: Floats) -> Floats:
    """Sums (rows, blocks) of BLOCK neighbours. A dot product with ones is three times as fast as `sum` along an axis."""
    sums: Floats = np.vecdot(weights.reshape(len(weights), -1, BLOCK), _ONES)
    return sums


def among_blocks(weights: Floats, uniforms: NDArray[np.float64]) -> Indices:
    """One index of each row of `weights` (rows, n), drawn in proportion: first a block, then a token in the block.

    Two uniforms, so that neither step works on the rounding errors of the other.
    """
    count, width = weights.shape
    if width % BLOCK:
        weights = np.pad(weights, ((0, 0), (0, -width % BLOCK)))
    blocks = inverse_cdf(block_sums(weights), uniforms[:, 0])
    inside = weights.reshape(count, -1, BLOCK)[np.arange(count), blocks]
    return blocks * BLOCK + inverse_cdf(inside, uniforms[:, 1])


def inverse_cdf(weights: Floats, uniforms: NDArray[np.float64]) -> Indices:
    """One index of each row of `weights` (rows, n), drawn in proportion to them; never one of weight 0.

    A row without weight gives 0.
    """
    sums = weights.cumsum(-1, dtype=np.float64)
    total = sums[:, -1:]
    indices: Indices = ((sums <= uniforms[:, None] * total) & (sums < total)).sum(-1)
    return indices
