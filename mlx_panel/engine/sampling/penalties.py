"""Logit bias and the three penalties of a batch's rows, as one sorted list of (row, token) entries in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .contract import RowSpec

TOKEN_BITS = 32
TOKEN = (1 << TOKEN_BITS) - 1


class Edit(NamedTuple):
    """Changes to single logits. `slot` counts the edited rows; all arrays have one value for each entry."""

    slot: NDArray[np.int64]
    token: NDArray[np.int64]
    bias: NDArray[np.float32]
    factor: NDArray[np.float32]
    minus: NDArray[np.float32]

    def apply(self, logits: NDArray[np.float32]) -> None:
        """Change `logits` (slots, vocabulary) in place: bias, repetition, presence and frequency, in mlx-lm's order.

        Tokens outside the vocabulary are left out.
        """
        slot, token, bias, factor, minus = self
        if token.size and token.max() >= logits.shape[1]:
            inside = token < logits.shape[1]
            slot, token, bias, factor, minus = (array[inside] for array in self)
        value = logits[slot, token] + bias
        logits[slot, token] = np.where(value < 0, value * factor, value / factor) - minus


def tally(
    spec: RowSpec,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
    """A row's first entries: tokens (ascending), their bias, how often each is in the window and in the answer."""
    sampling = spec.sampling
    biases = {token: bias for token, bias in sampling.logit_bias.items() if token < TOKEN}
    bias = np.fromiter(biases, np.int64, len(biases))
    near = window(spec) if sampling.repetition_penalty != 1 else bias[:0]
    answer = np.asarray(spec.answer if spec.counts else (), np.int64)
    tokens, place = np.unique(np.concatenate([bias, near, answer]), return_inverse=True)
    added = np.zeros(tokens.size, np.float32)
    added[place[: bias.size]] = list(biases.values())
    cut = bias.size + near.size
    return (
        tokens,
        added,
        np.bincount(place[bias.size : cut], minlength=tokens.size).astype(np.int32),
        np.bincount(place[cut:], minlength=tokens.size).astype(np.int32),
    )


def window(spec: RowSpec) -> NDArray[np.int64]:
    """The tokens the repetition penalty looks at: the last `repetition_context` of prompt and answer, 0 for all."""
    tokens = np.concatenate([np.asarray(spec.prompt, np.int64), np.asarray(spec.answer, np.int64)])
    return tokens[-spec.sampling.repetition_context :]


def past(spec: RowSpec) -> NDArray[np.int64]:
    """What has to be kept of a row's tokens to know which one leaves its repetition window next."""
    return window(spec) if spec.windowed else np.zeros(0, np.int64)


class Penalties:
    """The rows whose logits are changed, and what of their past that takes.

    A row is known by its serial number, which grows from row to row; its place among the edited rows is its slot. The
    entries are sorted by slot and token, so that a drawn token is found by bisection and every step is a handful of
    numpy calls, however many rows and tokens there are.
    """

    def __init__(self) -> None:
        self.serials: NDArray[np.int64] = np.zeros(0, np.int64)
        self._specs: list[RowSpec] = []
        self._keys: NDArray[np.int64] = np.zeros(0, np.int64)
        self._bias: NDArray[np.float32] = np.zeros(0, np.float32)
        self._near: NDArray[np.int32] = np.zeros(0, np.int32)
        self._count: NDArray[np.int32] = np.zeros(0, np.int32)
        self._history: NDArray[np.int64] = np.zeros((0, 0), np.int64)
        self._length: NDArray[np.int64] = np.zeros(0, np.int64)
        self._columns()

    def __len__(self) -> int:
        return len(self._specs)

    def __repr__(self) -> str:
        return f"<Penalties {len(self)} rows, {self._keys.size} entries>"

    def _columns(self) -> None:
        samplings = [spec.sampling for spec in self._specs]
        self._repetition = np.array([sampling.repetition_penalty for sampling in samplings], np.float32)
        self._presence = np.array([sampling.presence_penalty for sampling in samplings], np.float32)
        self._frequency = np.array([sampling.frequency_penalty for sampling in samplings], np.float32)
        self._counted = np.array([spec.counts for spec in self._specs], bool)
        self._context = np.array(
            [min(s.repetition_context, TOKEN) if s.repetition_penalty != 1 else 0 for s in samplings],
            np.int64,
        )

    def join(self, rows: Sequence[tuple[int, RowSpec]]) -> None:
        """Append rows, each with its serial number, larger than those before."""
        if not rows:
            return
        specs = [spec for _, spec in rows]
        tokens, bias, near, count = zip(*map(tally, specs), strict=True)
        keys = [slot << TOKEN_BITS | own for slot, own in enumerate(tokens, len(self))]
        self._keys = np.concatenate([self._keys, *keys])
        self._bias = np.concatenate([self._bias, *bias])
        self._near = np.concatenate([self._near, *near])
        self._count = np.concatenate([self._count, *count])
        self._remember([past(spec) for spec in specs])
        self.serials = np.append(self.serials, [serial for serial, _ in rows])
        self._specs += specs
        self._columns()

    def _remember(self, pasts: list[NDArray[np.int64]]) -> None:
        self._widen(max(past.size for past in pasts))
        new = np.zeros((len(pasts), self._history.shape[1]), np.int64)
        for row, past in zip(new, pasts, strict=True):
            row[: past.size] = past
        self._history = np.concatenate([self._history, new])
        self._length = np.append(self._length, [past.size for past in pasts])

    def _widen(self, width: int) -> None:
        missing = width - self._history.shape[1]
        if missing > 0:
            self._history = np.pad(self._history, ((0, 0), (0, max(missing, self._history.shape[1], 64))))

    def keep(self, serials: NDArray[np.int64]) -> None:
        """Drop the rows whose serial number is not among these."""
        kept = np.isin(self.serials, serials)
        if kept.all():
            return
        slot = self._keys >> TOKEN_BITS
        entries = kept[slot]
        self._keys = (np.cumsum(kept) - 1)[slot[entries]] << TOKEN_BITS | self._keys[entries] & TOKEN
        self._bias, self._near, self._count = (
            array[entries] for array in (self._bias, self._near, self._count)
        )
        self._history, self._length, self.serials = (
            array[kept] for array in (self._history, self._length, self.serials)
        )
        self._specs = [spec for spec, stays in zip(self._specs, kept, strict=True) if stays]
        self._columns()

    def edit(self) -> Edit:
        """What is to be changed in the next draw."""
        slot = self._keys >> TOKEN_BITS
        factor = np.where(self._near > 0, self._repetition[slot], np.float32(1))
        minus = self._count * self._frequency[slot] + (self._count > 0) * self._presence[slot]
        return Edit(slot, self._keys & TOKEN, self._bias, factor, minus)

    def record(self, serials: NDArray[np.int64], tokens: NDArray[np.int64]) -> None:
        """These rows have drawn these tokens. Rows that have left meanwhile are passed over."""
        slots = np.searchsorted(self.serials, serials)
        here = slots < len(self)
        here[here] = self.serials[slots[here]] == serials[here]
        here[here] = self._counted[slots[here]]
        slots, tokens = slots[here], tokens[here]
        if slots.size:
            found = self._entries(slots << TOKEN_BITS | tokens)
            self._count[found] += 1
            self._near[found] += 1
            self._move_windows(slots, tokens)

    def _entries(self, keys: NDArray[np.int64]) -> NDArray[np.intp]:
        """Where the entries of these keys (ascending) are; those that are missing are made."""
        places = np.searchsorted(self._keys, keys)
        inside = places < self._keys.size
        known = np.zeros(keys.size, bool)
        known[inside] = self._keys[places[inside]] == keys[inside]
        if not known.all():
            at, new = places[~known], keys[~known]
            self._keys = np.insert(self._keys, at, new)
            self._bias = np.insert(self._bias, at, np.float32(0))
            self._near = np.insert(self._near, at, np.int32(0))
            self._count = np.insert(self._count, at, np.int32(0))
            places = np.searchsorted(self._keys, keys)
        return places

    def _move_windows(self, slots: NDArray[np.intp], tokens: NDArray[np.int64]) -> None:
        """Take the tokens that fall out of their row's repetition window out of the count."""
        moving = self._context[slots] > 0
        slots, tokens = slots[moving], tokens[moving]
        if not slots.size:
            return
        length, context = self._length[slots], self._context[slots]
        self._widen(int(length.max()) + 1)
        self._history[slots, length] = tokens
        self._length[slots] += 1
        full = length >= context
        gone = self._history[slots[full], (length - context)[full]]
        self._near[self._entries(slots[full] << TOKEN_BITS | gone)] -= 1
