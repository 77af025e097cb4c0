"""KV caches of a batch whose rows come and go: every row has a slot, and no join or leave copies another row's slot.

mlx-lm's batch caches end all rows at one column, so a row that joins or leaves copies the whole batch. Here a row
begins at column 0 of its slot and ends where it ends. A joining row is written into a free slot, a leaving one is
overwritten by the last. What models ask of a cache is the same: `offset`, `make_mask` and `update_and_fetch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap
from typing import Any, Self

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.cache import KVCache, QuantizedKVCache, RotatingKVCache

# A key or value store: one array (slots, heads, columns, width), or the three of a quantised one.
Store = Any
STEP = 256


class QuantizedCache(QuantizedKVCache):
    """mlx-lm's quantised cache of one sequence, with the size that merging and counting need."""

    def size(self) -> int:
        return int(self.offset)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in arrays_of(self))


def arrays_of(cache: Any) -> list[mx.array]:
    """The arrays of a cache with `keys` and `values`, none while it is empty."""
    leaves: Any = tree_flatten((cache.keys, cache.values)) if cache.keys is not None else []
    return [array for _, array in leaves]


class SlotCache:
    """Keys and values of the rows of a batch in one layer, rows 0 to `rows` - 1 in that order.

    `lengths` are the rows' tokens. Room grows in steps of 256 columns, and by a quarter of the slots; what is not
    used any more is given back when it is more than half. A single sequence's cache is given and taken as mlx-lm's
    `KVCache`.
    """

    def __init__(self) -> None:
        self.keys: Store = None
        self.values: Store = None
        self._set([])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.rows} rows up to {max(self.lengths, default=0)}, {self.nbytes} bytes>"

    @classmethod
    def merge(cls, singles: Sequence[Any]) -> Self:
        """A batch of the given sequences, which are copied."""
        made = cls.like(singles[0])
        full = [single for single in singles if single.keys is not None]
        if full:
            longest = max(single.offset for single in full)
            made._grow(len(singles), longest, made._laid_out(full[0]))
        for single in singles:
            if single.keys is not None:
                made._place(made.rows, made._laid_out(single))
            made._set([*made.lengths, int(single.offset)])
        return made

    @classmethod
    def like(cls, single: Any) -> Self:
        """An empty batch for sequences such as this one."""
        return cls()

    # --- what a model asks -----------------------------------------------------------------------------------

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Store, Store]:
        """Append `keys` and `values` (rows, heads, tokens, width); all keys and values, unused columns among them."""
        tokens = keys.shape[2]
        news = self._stored(keys), self._stored(values)
        self._grow(self.rows, max(self.lengths) + tokens, news)
        self._write(news, tokens)
        self._set([length + tokens for length in self.lengths])
        rows, end = self.rows, self._columns(max(self.lengths))
        stores: Any = tree_map(lambda array: array[:rows, :, :end], (self.keys, self.values))
        return stores

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:
        """What each of the `N` next tokens may look at: (rows, 1, N, columns), or what says the same in less."""
        if self._level and window_size is None and not return_array:
            return None if N == 1 else "causal"
        columns = mx.arange(self._columns(max(self.lengths) + N))
        ends = self.offset[:, None, None, None] + mx.arange(N)[:, None]
        mask = columns <= ends
        return mask if window_size is None else mask & (columns > ends - window_size)

    # --- rows ------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        return len(self.lengths)

    def extend(self, other: SlotCache) -> None:
        """Append the rows of another batch, which are copied."""
        lengths = [*self.lengths, *other.lengths]
        if other.keys is not None:
            news = tree_map(lambda array: array[: other.rows], (other.keys, other.values))
            self._grow(len(lengths), max(lengths), news)
            self._place(self.rows, news)
        self._set(lengths)

    def filter(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order. Only rows that change their place are copied."""
        moves = [(to, row) for to, row in enumerate(rows) if to != row]
        if moves:
            to, back = (mx.array(list(column)) for column in zip(*moves, strict=True))
            for array in arrays_of(self):
                array[to] = array[back]
        self._set([self.lengths[row] for row in rows])
        self._shrink()

    def extract(self, row: int) -> Any:
        """A row's sequence, copied."""
        if self.keys is None:
            return self._single(None, None, 0)
        # Indexing by an array copies; a slice of the slots would keep the whole batch alive.
        alone = mx.array([row])
        end = self._columns(self.lengths[row])
        keys, values = tree_map(lambda array: array[alone][:, :, :end], (self.keys, self.values))
        return self._single(keys, values, self.lengths[row])

    def is_trimmable(self) -> bool:
        return True

    def trim(self, tokens: int) -> int:
        """Forget the last `tokens` of every row; how many that were."""
        tokens = min(tokens, min(self.lengths))
        self._set([length - tokens for length in self.lengths])
        return tokens

    def settle(self, lengths: Sequence[int]) -> None:
        """Say how many tokens the rows really have, after a pass that was padded on the right."""
        self._set(list(lengths))

    # --- figures ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> list[mx.array]:
        """The arrays, to be evaluated."""
        return arrays_of(self)

    @property
    def nbytes(self) -> int:
        """Bytes held, free room included."""
        return sum(array.nbytes for array in arrays_of(self))

    def size(self) -> int:
        return max(self.lengths, default=0)

    def empty(self) -> bool:
        return self.keys is None

    # --- inside ----------------------------------------------------------------------------------------------

    def _set(self, lengths: list[int]) -> None:
        self.lengths = lengths
        # Made anew each time: a sum on the old one would be a chain that models without rope never evaluate.
        self.offset = mx.array(lengths, dtype=mx.int32)
        self._level = len(set(lengths)) == 1

    def _stored(self, array: mx.array) -> Store:
        return array

    def _columns(self, tokens: int) -> int:
        """Columns that so many tokens take."""
        return tokens

    def _column(self, token: Any) -> Any:
        """Where token number `token` lies."""
        return token

    def _laid_out(self, single: Any) -> tuple[Store, Store]:
        """A sequence's keys and values (1, heads, columns, width) as they lie in a slot."""
        stores: Any = tree_map(lambda array: array[:, :, : single.offset], (single.keys, single.values))
        return stores

    def _single(self, keys: Store, values: Store, tokens: int) -> Any:
        made = KVCache()
        made.keys, made.values, made.offset = keys, values, tokens
        return made

    def _grow(self, rows: int, tokens: int, like: tuple[Store, Store]) -> None:
        """Make room for so many rows and tokens of keys and values such as `like`."""
        columns = self._room(tokens)
        if self.keys is None:
            self.keys, self.values = tree_map(lambda array: _empty(array, rows, columns), like)
            return
        slots, _, room, _ = arrays_of(self)[0].shape
        self._resize(slots if rows <= slots else rows + rows // 4, max(room, columns))

    def _shrink(self) -> None:
        """Give room back that is more than twice what is used."""
        if self.keys is None:
            return
        if not self.rows:
            self.keys = self.values = None
            return
        slots, _, room, _ = arrays_of(self)[0].shape
        columns = self._room(max(self.lengths))
        self._resize(self.rows if 2 * self.rows < slots else slots, columns if 2 * columns < room else room)

    def _room(self, tokens: int) -> int:
        return self._columns(-(-max(tokens, 1) // STEP) * STEP)

    def _resize(self, slots: int, room: int) -> None:
        def resized(array: mx.array) -> mx.array:
            new = _empty(array, slots, room)
            new[: array.shape[0], :, : array.shape[2]] = array[:slots, :, :room]
            return new

        if (slots, room) != arrays_of(self)[0].shape[0:4:2]:
            self.keys, self.values = tree_map(resized, (self.keys, self.values))

    def _place(self, row: int, news: tuple[Store, Store]) -> None:
        """Write whole slots from `row` on: what another request left behind could hold NaN, which no mask hides."""

        def place(array: mx.array, new: mx.array) -> None:
            room = array.shape[2]
            padding = [(0, 0), (0, 0), (0, max(0, room - new.shape[2])), (0, 0)]
            array[row : row + new.shape[0]] = mx.pad(new[:, :, :room], padding)

        self._pairwise(place, news)

    def _write(self, news: tuple[Store, Store], tokens: int) -> None:
        rows, start = self.rows, self._column(self.lengths[0])
        at = self._column(self.offset[:, None] + mx.arange(tokens))
        row = mx.arange(rows)[:, None]

        def write(array: mx.array, new: mx.array) -> None:
            if self._level:
                array[:rows, :, start : start + tokens] = new
            else:
                array[row, :, at] = new.swapaxes(1, 2)

        self._pairwise(write, news)

    def _pairwise(self, act: Any, news: tuple[Store, Store]) -> None:
        leaves: Any = tree_flatten(news)
        list(starmap(act, zip(arrays_of(self), (array for _, array in leaves), strict=True)))


def _empty(like: mx.array, slots: int, columns: int) -> mx.array:
    return mx.zeros((slots, like.shape[1], columns, like.shape[3]), like.dtype)


class QuantizedSlotCache(SlotCache):
    """The same, stored in `bits` bits with a scale and a bias for every `group_size` values.

    mlx-lm's attention takes its quantised path for a cache that has `bits`. A single sequence's cache is a
    `QuantizedCache`.
    """

    def __init__(self, bits: int, group_size: int):
        super().__init__()
        self.bits, self.group_size = bits, group_size

    @classmethod
    def like(cls, single: Any) -> Self:
        return cls(single.bits, single.group_size)

    def _stored(self, array: mx.array) -> Store:
        return mx.quantize(array, group_size=self.group_size, bits=self.bits)

    def _single(self, keys: Store, values: Store, tokens: int) -> Any:
        made = QuantizedCache(self.group_size, self.bits)
        made.keys, made.values, made.offset = keys, values, tokens
        return made


class WindowSlotCache(SlotCache):
    """The same for a layer that looks back at most `window` tokens: token n lies in column n modulo `window`.

    A row of a batch takes one token at a time once it is longer than the window. A single sequence's cache is mlx-lm's
    `RotatingKVCache`.
    """

    def __init__(self, window: int):
        super().__init__()
        self.window = window

    @classmethod
    def like(cls, single: Any) -> Self:
        return cls(single.max_size)

    def make_mask(self, N: int, return_array: bool = False, window_size: int | None = None) -> Any:
        size = min(window_size or self.window, self.window)
        longest = max(self.lengths) + N
        if longest <= size:
            return super().make_mask(N, return_array)
        columns = mx.arange(self._columns(longest))
        ends = self.offset[:, None, None, None] + mx.arange(N)[:, None]
        # A column's age is how many tokens ago it was written; what is older than the row was never written.
        ages = (ends - columns) % self.window
        return (ages <= ends) & (ages < size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Store, Store]:
        if keys.shape[2] > 1 and max(self.lengths) + keys.shape[2] > self.window:
            raise ValueError("a batch past its attention window takes one token at a time")
        return super().update_and_fetch(keys, values)

    def is_trimmable(self) -> bool:
        return max(self.lengths, default=0) <= self.window

    def _columns(self, tokens: int) -> int:
        return min(tokens, self.window)

    def _column(self, token: Any) -> Any:
        return token % self.window

    def _laid_out(self, single: Any) -> tuple[Store, Store]:
        kept = min(single.offset, self.window)
        shift = (single.offset - kept) % self.window

        return tuple(
            _rolled(single._temporal_order(array)[:, :, -kept:], shift)
            for array in (single.keys, single.values)
        )

    def _single(self, keys: Store, values: Store, tokens: int) -> Any:
        made = RotatingKVCache(self.window)
        if keys is not None:
            shift = -(tokens - min(tokens, self.window)) % self.window
            made.keys, made.values = _rolled(keys, shift), _rolled(values, shift)
            made.offset, made._idx = tokens, made.keys.shape[2]
        return made


def _rolled(array: Any, shift: int) -> Any:
    return mx.roll(array, shift, 2) if shift else array
