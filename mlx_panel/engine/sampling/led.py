"""Rows that follow a guide: what it allows is added to their logits as 0, what it forbids as minus infinity.

Adding keeps what is wrong with a model's output: a NaN stays one, and infinity minus infinity becomes one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ..guide import Guide, GuideLost, Mask, words

# Narrower than any logits, and what lies beyond a mask is not allowed.
NOTHING: Mask = np.zeros(0, np.uint32)
# What a byte of a mask adds to the logits of its eight tokens: (256, 8), 8 KB. Measured for 49,152 and 151,936 tokens:
# looking bytes up here 15 and 47 µs, unpacking bits and `where` 28 and 330, a boolean index 74 and 420.
ADDED: NDArray[np.float32] = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little"), 0, -np.inf
).astype(np.float32)
KERNEL = """
    uint token = thread_position_in_grid.x;
    uint row = thread_position_in_grid.y;
    uint place = row * logits_shape[1] + token;
    uint word = masks[row * masks_shape[1] + token / 32];
    out[place] = (word >> (token % 32)) & 1 ? logits[place] : logits[place] - INFINITY;
"""
Apply = Callable[[mx.array, mx.array], mx.array]


class Led:
    """A row's guide. `here` until the row leaves: a guide is not told of tokens that its row does not take."""

    def __init__(self, guide: Guide):
        self.here = True
        self._guide = guide
        self._lost = False

    def __repr__(self) -> str:
        return f"<Led {self._guide!r}{', lost' if self._lost else ''}>"

    def mask(self) -> Mask | None:
        """What the row may go on with, None for anything. Nothing once the guide is lost."""
        if self._lost:
            return NOTHING
        try:
            return self._guide.mask()
        except GuideLost:
            self._lost = True
            return NOTHING

    def accept(self, token: int) -> None:
        """The row has drawn this. A guide that is lost with it lets the row fail at its next draw, if there is one."""
        if not self.here or self._lost:
            return
        try:
            self._guide.accept(token)
        except GuideLost:
            self._lost = True


def kept(led: Sequence[Led | None], rows: Sequence[int]) -> list[Led | None]:
    """Those of the rows that stay, in this order; the others are told that theirs are not here any more."""
    staying = set(rows)
    for row, one in enumerate(led):
        if one is not None and row not in staying:
            one.here = False
    return [led[row] for row in rows]


class Spread:
    """Masks applied to rows of logits in numpy, with work space that is kept."""

    def __init__(self) -> None:
        self._added: NDArray[np.float32] = np.zeros((0, 8), np.float32)

    def __call__(self, logits: NDArray[np.float32], mask: Mask) -> None:
        """Change one row (vocabulary,) in place."""
        octets = mask.view(np.uint8)
        if len(self._added) != octets.size:
            self._added = np.zeros((octets.size, 8), np.float32)
        # Without a mode numpy checks every index.
        np.take(ADDED, octets, axis=0, out=self._added, mode="clip")
        added = self._added.reshape(-1)[: logits.size]
        logits[: added.size] += added
        logits[added.size :] = -np.inf


def packed(masks: Sequence[Mask], vocabulary: int) -> mx.array:
    """Masks as rows (masks, words) uint32 of a vocabulary's width; what a mask lacks is not allowed."""
    rows = np.zeros((len(masks), words(vocabulary)), np.uint32)
    for row, mask in zip(rows, masks, strict=True):
        row[: mask.size] = mask[: row.size]
    return mx.array(rows)


def plain(logits: mx.array, masks: mx.array) -> mx.array:
    """`logits` (rows, vocabulary) float32 under `masks` (rows, words): any device."""
    bits = (masks[..., None] >> mx.arange(32, dtype=mx.uint32)) & 1
    allowed = bits.reshape(len(masks), -1)[:, : logits.shape[-1]]
    return logits + mx.where(allowed > 0, 0.0, -mx.inf)


def on_metal() -> Apply:
    """As `plain`, in one pass over the logits and without what it unpacks in between. Not run on Metal by its tests."""
    kernel: Any = mx.fast.metal_kernel(
        name="allow", input_names=["logits", "masks"], output_names=["out"], source=KERNEL
    )

    def apply(logits: mx.array, masks: mx.array) -> mx.array:
        rows, vocabulary = logits.shape
        made: list[mx.array] = kernel(
            inputs=[logits, masks],
            grid=(vocabulary, rows, 1),
            threadgroup=(256, 1, 1),
            output_shapes=[logits.shape],
            output_dtypes=[mx.float32],
        )
        return made[0]

    return apply


def applying() -> Apply:
    """The form for mlx's default device."""
    metal = mx.metal.is_available() and mx.default_device().type == mx.DeviceType.gpu
    return on_metal() if metal else plain
