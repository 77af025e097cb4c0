"""Logit bias and the three penalties of a batch's rows as arrays on the device, so that no step waits for its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from .contract import RowSpec
from .penalties import past, tally

# Columns added when the kept tokens reach the end of their array.
STRIDE = 256


class _Past(NamedTuple):
    """Per edited row and token: what is added, how often it is in the repetition window and in the answer."""

    bias: mx.array
    near: mx.array
    often: mx.array


class Counts:
    """The rows whose logits are changed. Rows are counted in the batch, slots among the edited rows only.

    A dense array of counts for each edited row (12 bytes for each token of the vocabulary): a drawn token is added
    without anyone knowing it yet.
    """

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._specs: list[RowSpec] = []
        self._fresh: list[RowSpec] = []
        self._past: _Past | None = None
        self._history: mx.array | None = None
        self._length: list[int] = []

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<Counts {len(self)} rows>"

    def join(self, row: int, spec: RowSpec) -> None:
        self._rows.append(row)
        self._specs.append(spec)
        self._fresh.append(spec)
        self._length.append(past(spec).size)

    def keep(self, rows: Sequence[int]) -> None:
        place = {row: number for number, row in enumerate(rows)}
        slots = [slot for slot, row in enumerate(self._rows) if row in place]
        settled = len(self._rows) - len(self._fresh)
        old = mx.array([slot for slot in slots if slot < settled], mx.int32)
        if self._past is not None:
            self._past = _Past(*(array[old] for array in self._past))
        if self._history is not None:
            self._history = self._history[old]
        self._fresh = [self._specs[slot] for slot in slots if slot >= settled]
        self._specs = [self._specs[slot] for slot in slots]
        self._length = [self._length[slot] for slot in slots]
        self._rows = [place[self._rows[slot]] for slot in slots]

    def arrays(self) -> list[mx.array]:
        """What a step leaves to the next; to be computed with it, or the graph would grow without end."""
        past = [] if self._past is None else list(self._past)
        return past if self._history is None else [*past, self._history]

    def apply(self, logits: mx.array) -> mx.array:
        """`logits` (rows, vocabulary) with every edited row changed: bias, repetition, presence, frequency."""
        if not self._rows:
            return logits
        self._settle(logits.shape[-1])
        assert self._past is not None
        rows = mx.array(self._rows)
        values = logits[rows] + self._past.bias
        factor = mx.where(self._past.near > 0, self._column("repetition_penalty"), 1.0)
        values = mx.where(values < 0, values * factor, values / factor)
        values = values - self._past.often * self._column("frequency_penalty")
        values = values - (self._past.often > 0) * self._column("presence_penalty")
        if self._rows == list(range(len(logits))):
            return values
        edited = logits + 0
        edited[rows] = values
        return edited

    def record(self, tokens: mx.array) -> None:
        """All rows of the batch have drawn these tokens (rows,)."""
        counted = [slot for slot, spec in enumerate(self._specs) if spec.counts]
        if not counted:
            return
        assert self._past is not None
        slots = mx.array(counted)
        drawn = tokens[mx.array([self._rows[slot] for slot in counted])]
        bias, near, count = self._past
        near, count = near.at[slots, drawn].add(1), count.at[slots, drawn].add(1)
        self._past = _Past(bias, self._moved(near, tokens), count)

    def _column(self, field: str) -> mx.array:
        return mx.array([[getattr(spec.sampling, field)] for spec in self._specs], mx.float32)

    def _settle(self, vocab: int) -> None:
        """Make the arrays of the rows that have joined since the last draw."""
        if not self._fresh:
            return
        shape = (len(self._fresh), vocab)
        bias, near, count = np.zeros(shape, np.float32), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for slot, spec in enumerate(self._fresh):
            tokens, *values = tally(spec)
            inside = tokens < vocab
            for dense, value in zip((bias, near, count), values, strict=True):
                dense[slot, tokens[inside]] = value[inside]
        new = _Past(mx.array(bias), mx.array(near), mx.array(count))
        old = self._past
        self._past = (
            new
            if old is None
            else _Past(*(mx.concatenate(list(pair)) for pair in zip(old, new, strict=True)))
        )
        self._remember()
        self._fresh = []

    def _remember(self) -> None:
        """The windows of the rows that have joined, behind those of the others."""
        pasts = [past(spec) for spec in self._fresh]
        width = max([*self._length, self._width()]) + STRIDE
        new = np.zeros((len(pasts), width), np.int32)
        for row, tokens in zip(new, pasts, strict=True):
            row[: tokens.size] = tokens
        self._widen(width)
        fresh = mx.array(new)
        self._history = fresh if self._history is None else mx.concatenate([self._history, fresh])

    def _width(self) -> int:
        return 0 if self._history is None else self._history.shape[1]

    def _widen(self, width: int) -> None:
        if self._history is not None and width > self._width():
            self._history = mx.pad(self._history, [(0, 0), (0, width - self._width())])

    def _moved(self, near: mx.array, tokens: mx.array) -> mx.array:
        """The window counts without the tokens that fall out of their row's window now."""
        moving = [slot for slot, spec in enumerate(self._specs) if spec.windowed]
        if not moving:
            return near
        if max(self._length) >= self._width():
            self._widen(self._width() + STRIDE)
        assert self._history is not None
        drawn = tokens[mx.array([self._rows[slot] for slot in moving])]
        self._history[mx.array(moving), mx.array([self._length[slot] for slot in moving])] = drawn
        for slot in moving:
            self._length[slot] += 1
        full = [slot for slot in moving if self._length[slot] > self._specs[slot].sampling.repetition_context]
        if not full:
            return near
        first = [self._length[slot] - 1 - self._specs[slot].sampling.repetition_context for slot in full]
        slots = mx.array(full)
        return near.at[slots, self._history[slots, mx.array(first)]].add(-1)
