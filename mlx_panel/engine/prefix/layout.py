"""How a model's KV caches are cut into blocks of tokens and put together again.

Layers whose cache holds one entry a token (`KVCache`, `QuantizedKVCache`, also inside a `CacheList`) are cut. Arrays
of one shape and dtype, of all layers, share one array in a block: few large buffers instead of many small ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import msgspec
from mlx_lm.models.cache import CacheList, KVCache, QuantizedKVCache

TOKEN_AXIS = 2
# mlx-lm's caches grow by so many tokens, and copy everything each time.
STEP = KVCache.step


class Group(msgspec.Struct, frozen=True):
    """`rows` arrays of one dtype and one shape, in which the number of tokens stands as 0."""

    rows: int
    shape: tuple[int, ...]
    dtype: str


class Leaf(msgspec.Struct, frozen=True):
    """One cache: the name of its class and, where it is cut, the group and row of each of its arrays."""

    kind: str
    arrays: tuple[tuple[int, int], ...] = ()


class Layout(msgspec.Struct, frozen=True):
    """What a block of a model consists of."""

    leaves: tuple[Leaf, ...]
    groups: tuple[Group, ...]


def leaves(caches: Sequence[Any]) -> list[Any]:
    """The single caches, those inside a `CacheList` included."""
    return [
        leaf
        for cache in caches
        for leaf in (leaves(cache.caches) if isinstance(cache, CacheList) else [cache])
    ]


def is_cut(leaf: Any) -> bool:
    return isinstance(leaf, KVCache | QuantizedKVCache)


def arrays(leaf: Any) -> list[mx.array]:
    """The arrays of a cut cache, (1, heads, tokens or more, width) each; none in one that no layer uses."""
    if leaf.keys is None:
        return []
    if isinstance(leaf, QuantizedKVCache):
        return [*leaf.keys, *leaf.values]  # type: ignore[misc]
    return [leaf.keys, leaf.values]


def layout(caches: Sequence[Any]) -> Layout:
    """The layout of these single caches (`leaves`)."""
    rows: dict[tuple[tuple[int, ...], str], int] = {}
    order: dict[tuple[tuple[int, ...], str], int] = {}
    found = []
    for leaf in caches:
        places = []
        for array in arrays(leaf) if is_cut(leaf) else ():
            sort = (_shape(array), str(array.dtype).removeprefix("mlx.core."))
            group = order.setdefault(sort, len(order))
            places.append((group, rows.get(sort, 0)))
            rows[sort] = rows.get(sort, 0) + 1
        found.append(Leaf(type(leaf).__name__, tuple(places)))
    return Layout(tuple(found), tuple(Group(rows[sort], *sort) for sort in order))


def _shape(array: mx.array) -> tuple[int, ...]:
    shape = list(array.shape)
    shape[TOKEN_AXIS] = 0
    return tuple(shape)


def cut(caches: Sequence[Any], layout: Layout, start: int, end: int) -> list[mx.array]:
    """Tokens `start` to `end` of all cut caches, one array per group; nothing is computed yet."""
    rows: list[list[mx.array]] = [[] for _ in layout.groups]
    for leaf, known in zip(caches, layout.leaves, strict=True):
        for array, (group, _) in zip(arrays(leaf) if known.arrays else (), known.arrays, strict=True):
            rows[group].append(array[:, :, start:end])
    # A stack of one is no copy, and would keep the whole cache alive.
    return [mx.stack(parts) if len(parts) > 1 else mx.contiguous(parts[0][None]) for parts in rows]


def join(
    fresh: Sequence[Any], layout: Layout, pieces: Sequence[Sequence[mx.array]], length: int, room: int
) -> list[mx.array]:
    """Fill the empty caches `fresh` with the first `length` tokens of `pieces`, in order.

    Each array gets room for `room` tokens at least, so that the rest of the prompt does not make it move. Returns the
    new arrays, not computed yet.
    """
    space = -(-max(room, length) // STEP) * STEP
    made: list[mx.array] = []
    for leaf, known in zip(fresh, layout.leaves, strict=True):
        if known.arrays:
            filled = [
                _joined(layout.groups[g], [piece[g][row] for piece in pieces], length, space)
                for g, row in known.arrays
            ]
            _fill(leaf, filled, length)
            made += filled
    return made


def _joined(group: Group, parts: list[mx.array], length: int, space: int) -> mx.array:
    extra = sum(part.shape[TOKEN_AXIS] for part in parts) - length
    if extra > 0:
        parts = [*parts[:-1], parts[-1][:, :, : parts[-1].shape[TOKEN_AXIS] - extra]]
    shape = list(group.shape)
    shape[TOKEN_AXIS] = space - length
    return mx.concatenate([*parts, mx.zeros(shape, parts[0].dtype)], axis=TOKEN_AXIS)


def _fill(leaf: Any, filled: list[mx.array], length: int) -> None:
    half = len(filled) // 2
    keys, values = tuple(filled[:half]), tuple(filled[half:])
    leaf.keys, leaf.values = (keys, values) if half > 1 else (*keys, *values)
    leaf.offset = length
