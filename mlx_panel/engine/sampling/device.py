"""The sampler for a GPU: mlx, lazily, without a wait and without a sort.

The tokens stay on the device: the next forward pass is launched before they are known. A threshold is found by
reading the row 32 times, with sums only. Nothing here was measured on a GPU, so it is not known how that compares with
one sort there; the results are tested on a CPU, with the same operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from .contract import RowLogprobs, RowSpec, Taken
from .counts import Counts
from .led import Led, applying, kept, packed
from .streams import Streams

# As in the CPU's form, so that both find the same token.
BLOCK = 256
# Rounds that find any one of the 2**32 images of a float32.
BITS = 32
NO_LIMIT = 1 << 30


class _Open(NamedTuple):
    """The rows that are not greedy, and their parameters as columns; `least` is the logarithm of `min_p`."""

    rows: mx.array
    inverse: mx.array
    top_p: mx.array
    top_k: mx.array
    least: mx.array
    nucleus: bool
    counted: bool
    floored: bool


class _Plan(NamedTuple):
    rows: int = 0
    open: _Open | None = None
    chosen: Any = None
    asked: tuple[tuple[int, int], ...] = ()
    guided: tuple[tuple[int, Led], ...] = ()


class DeviceSampler:
    """Draws on mlx's default device. See `contract.Sampler`; `inputs()` of its draws never waits.

    With guides `begin` launches the forward pass, waits for the tokens of the draw before, and asks the guides while
    the device computes.

    A row's uniforms are those of the CPU's form, and a row without `top_p`, `top_k` and `min_p` gets the same token
    there, rounding aside. A draw takes the first two of them.
    """

    def __init__(self) -> None:
        self._specs: list[RowSpec] = []
        self._streams = Streams()
        self._counts = Counts()
        self._led: list[Led | None] = []
        self._open: DeviceDraw | None = None
        self._apply = applying()
        self._plan = _Plan()

    def __len__(self) -> int:
        return len(self._specs)

    def __repr__(self) -> str:
        return f"<DeviceSampler {len(self)} rows, {len(self._counts)} edited>"

    def join(self, rows: Sequence[RowSpec]) -> None:
        self._streams.join(rows)
        for spec in rows:
            if spec.weighs:
                self._counts.join(len(self._specs), spec)
            self._specs.append(spec)
            self._led.append(None if spec.guide is None else Led(spec.guide))
        self._plan = self._planned()

    def keep(self, rows: Sequence[int]) -> None:
        self._specs = [self._specs[row] for row in rows]
        self._led = kept(self._led, rows)
        self._streams.keep(rows)
        self._counts.keep(rows)
        self._plan = self._planned()

    def begin(self, logits: mx.array) -> DeviceDraw:
        raw = logits.astype(mx.float32)
        edited = self._counts.apply(raw)
        uniforms = self._streams.draw()
        plan = self._plan
        if plan.guided:
            edited = self._allowed(edited)
        tokens = mx.argmax(edited, axis=-1).astype(mx.int32)
        # What NaN does to a largest value differs between devices.
        bad = ~(mx.isfinite(mx.max(edited, axis=-1)) & ~mx.any(mx.isnan(edited), axis=-1))
        if plan.open is not None:
            drawn = _draw(edited, plan.open, mx.array(uniforms[plan.chosen, :2].astype(np.float32)))
            tokens[plan.open.rows] = drawn
        tokens = mx.where(bad, 0, tokens)
        self._counts.record(tokens)
        draw = DeviceDraw(tokens, bad, plan, _logprobs(raw, tokens, plan.asked))
        mx.async_eval(tokens, bad, *draw.extra, *self._counts.arrays())
        self._open = draw if plan.guided else None
        return draw

    def _allowed(self, logits: mx.array) -> mx.array:
        """`logits` (rows, vocabulary) under the guides' masks."""
        mx.async_eval(logits)
        if self._open is not None:
            self._open.advance()
        told = [(row, led.mask()) for row, led in self._plan.guided]
        held = [(row, mask) for row, mask in told if mask is not None]
        if not held:
            return logits
        masks = packed([mask for _, mask in held], logits.shape[-1])
        if len(held) == len(logits):
            return self._apply(logits, masks)
        rows = mx.array([row for row, _ in held])
        changed = logits + 0
        changed[rows] = self._apply(logits[rows], masks)
        return changed

    def _planned(self) -> _Plan:
        chosen = [row for row, spec in enumerate(self._specs) if not spec.greedy]
        asked = tuple(
            (row, spec.logprobs) for row, spec in enumerate(self._specs) if spec.logprobs is not None
        )
        guided = tuple((row, led) for row, led in enumerate(self._led) if led is not None)
        opened = _open(chosen, self._specs) if chosen else None
        return _Plan(len(self), opened, np.array(chosen, np.intp), asked, guided)


def _open(rows: list[int], specs: Sequence[RowSpec]) -> _Open:
    chosen = [specs[row].sampling for row in rows]
    return _Open(
        mx.array(rows),
        mx.array([[max(1 / sampling.temperature, 1e-30)] for sampling in chosen]),
        mx.array([[sampling.top_p if sampling.top_p < 1 else float("inf")] for sampling in chosen]),
        mx.array([[min(sampling.top_k, NO_LIMIT) or NO_LIMIT] for sampling in chosen]),
        mx.log(mx.array([[sampling.min_p] for sampling in chosen])),
        any(sampling.top_p < 1 for sampling in chosen),
        any(sampling.top_k for sampling in chosen),
        any(sampling.min_p for sampling in chosen),
    )


class DeviceDraw:
    """See `contract.Draw`."""

    lazy = True

    def __init__(
        self,
        tokens: mx.array,
        bad: mx.array,
        plan: _Plan,
        extra: tuple[mx.array, ...],
    ):
        self._tokens = tokens
        self._bad = bad
        self._asked = plan.asked
        self._guided = plan.guided
        self.extra = extra

    def __repr__(self) -> str:
        return f"<DeviceDraw {self._tokens.shape[0]} rows>"

    def inputs(self) -> mx.array:
        return self._tokens

    def advance(self) -> None:
        """Tell the guides what was drawn, unless that has been done. Waits for the tokens."""
        guided, self._guided = self._guided, ()
        if guided:
            ids: Any = self._tokens.tolist()
            flags: Any = self._bad.tolist()
            for row, led in guided:
                if not flags[row]:
                    led.accept(ids[row])

    def take(self) -> Taken:
        self.advance()
        ids: Any = self._tokens.tolist()
        flags: Any = self._bad.tolist()
        told: dict[int, RowLogprobs] = {}
        if self._asked:
            columns: Any = [array.tolist() for array in self.extra]
            for (row, wanted), mine, token, value in zip(self._asked, *columns, strict=True):
                if not flags[row]:
                    told[row] = RowLogprobs.of(mine, token, value, wanted)
        return Taken(ids, [row for row, flag in enumerate(flags) if flag], told)


def _draw(edited: mx.array, rows: _Open, uniforms: mx.array) -> mx.array:
    logits = edited if len(rows.rows) == len(edited) else edited[rows.rows]
    shifted = logits - mx.max(logits, axis=-1, keepdims=True)
    weights = mx.exp(shifted * rows.inverse)
    if rows.nucleus or rows.counted:
        images = _images(shifted)
        edge = _edge(shifted, images, rows)
        allowed = images >= edge
        if rows.counted:
            allowed = allowed & _within(images, edge, rows.top_k)
        weights = mx.where(allowed, weights, 0)
    if rows.floored:
        weights = mx.where(shifted >= rows.least, weights, 0)
    return _among_blocks(weights, uniforms)


def _images(values: mx.array) -> mx.array:
    """Integers in the order of the floats: a negative float's bits count backwards. Adding 0 makes 0 of -0."""
    bits = (values + 0.0).view(mx.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _edge(shifted: mx.array, images: mx.array, rows: _Open) -> mx.array:
    """The smallest image (rows, 1) above which there is less than `top_p` of the probability and fewer than `top_k`.

    By bisection over all images; exact up to the addition of the probabilities.
    """
    chances = mx.exp(shifted)
    limit = rows.top_p * mx.sum(chances, axis=-1, keepdims=True)
    high = mx.max(images, axis=-1, keepdims=True)
    low = mx.full(high.shape, -(2**31), mx.int32)
    for _ in range(BITS):
        middle = (low & high) + ((low ^ high) >> 1)
        above = images > middle
        fits = mx.array(True)
        if rows.nucleus:
            fits = fits & (mx.sum(mx.where(above, chances, 0), axis=-1, keepdims=True) < limit)
        if rows.counted:
            fits = fits & (mx.sum(above, axis=-1, keepdims=True) < rows.top_k)
        low, high = mx.where(fits, low, middle + 1), mx.where(fits, middle, high)
    return high


def _within(images: mx.array, edge: mx.array, top_k: mx.array) -> mx.array:
    """Of the tokens that tie at the edge, those of the lowest ids for which `top_k` has room."""
    ties = images == edge
    room = top_k - mx.sum(images > edge, axis=-1, keepdims=True)
    return ~ties | (mx.cumsum(ties.astype(mx.int32), axis=-1) <= room)


def _among_blocks(weights: mx.array, uniforms: mx.array) -> mx.array:
    """One index of each row, drawn in proportion to `weights` (rows, n): first a block, then a token in the block.

    Two uniforms and two short sums: a running sum in float32 over a whole vocabulary would be too coarse.
    """
    padded = mx.pad(weights, [(0, 0), (0, -weights.shape[-1] % BLOCK)]).reshape(len(weights), -1, BLOCK)
    block = _inverse_cdf(mx.sum(padded, axis=-1), uniforms[:, :1])
    inside = mx.take_along_axis(padded, block[:, :, None], axis=1)[:, 0]
    return (block * BLOCK + _inverse_cdf(inside, uniforms[:, 1:]))[:, 0]


def _inverse_cdf(weights: mx.array, uniforms: mx.array) -> mx.array:
    """One index (rows, 1) of each row, never one of weight 0 where there is another."""
    width = weights.shape[-1]
    sums = mx.cumsum(weights, axis=-1)
    # Sums added in parallel need not rise everywhere: the first allowed index beyond the mark is sought.
    beyond = (sums > uniforms * sums[:, -1:]) & (weights > 0)
    first = mx.min(mx.where(beyond, mx.arange(width), width), axis=-1, keepdims=True)
    return mx.where(first < width, first, mx.argmax(weights, axis=-1, keepdims=True)).astype(mx.int32)


def _logprobs(raw: mx.array, tokens: mx.array, asked: tuple[tuple[int, int], ...]) -> tuple[mx.array, ...]:
    """For the rows that asked: the drawn token's log-probability, the likeliest tokens and theirs."""
    if not asked:
        return ()
    rows = mx.array([row for row, _ in asked])
    most = min(max(wanted for _, wanted in asked), raw.shape[-1])
    logits = raw[rows]
    scores = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    own = mx.take_along_axis(scores, tokens[rows][:, None], axis=-1)[:, 0]
    if not most:
        return own, mx.zeros((len(asked), 0), mx.int32), mx.zeros((len(asked), 0))
    likely = mx.sort(mx.argpartition(-scores, most - 1, axis=-1)[:, :most], axis=-1)
    values = mx.take_along_axis(scores, likely, axis=-1)
    order = mx.argsort(-values, axis=-1)
    return own, mx.take_along_axis(likely, order, axis=-1), mx.take_along_axis(values, order, axis=-1)
