"""Snapshots of caches that cannot be cut by token: sliding windows, recurrent and convolutional states.

A cache's `state`, as mlx-lm defines it, is a tree of arrays and plain values. Here it becomes a list of arrays and a
JSON text that says where each one belongs, so that the same form serves in memory and on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import msgspec
from mlx_lm.models.cache import RotatingKVCache

from .blocks import Snapshot

_TOKEN_AXIS = 2


def snapshot(caches: Sequence[Any]) -> Snapshot:
    """The state of these single caches; arrays are lazy and share nothing that their owner may overwrite.

    Raises TypeError for a cache whose state holds anything but arrays and plain values.
    """
    arrays: list[mx.array] = []
    trees = [[type(cache).__name__, _frozen(_state(cache), arrays)] for cache in caches]
    return Snapshot(msgspec.json.encode(trees).decode(), arrays)


def restore(caches: Sequence[Any], spec: str, arrays: Sequence[mx.array]) -> None:
    """Set the state of empty caches of the same classes. Raises ValueError where they do not match the snapshot."""
    trees = msgspec.json.decode(spec)
    if [kind for kind, _ in trees] != [type(cache).__name__ for cache in caches]:
        raise ValueError("the snapshot is of other caches")
    for cache, (_, tree) in zip(caches, trees, strict=True):
        cache.state = _thawed(tree, arrays)


def _state(cache: Any) -> Any:
    return _window(cache) if isinstance(cache, RotatingKVCache) and cache.keys is not None else cache.state


def _window(cache: RotatingKVCache) -> tuple[Any, ...]:
    """A sliding window in the order of its tokens and without those that no later token can see."""
    keys, values = (_tail(cache, cache._temporal_order(array)) for array in (cache.keys, cache.values))
    return keys, values, cache.offset, cache.keep, cache.max_size, keys.shape[_TOKEN_AXIS]


def _tail(cache: RotatingKVCache, ordered: mx.array) -> mx.array:
    surplus = ordered.shape[_TOKEN_AXIS] - cache.max_size
    if surplus <= 0:
        return ordered
    kept = ordered[:, :, cache.keep + surplus :]
    return mx.concatenate([ordered[:, :, : cache.keep], kept], axis=_TOKEN_AXIS) if cache.keep else kept


def _frozen(value: Any, arrays: list[mx.array]) -> dict[str, Any]:
    if isinstance(value, mx.array):
        # A new array object: assigning into the owner's one would be seen here.
        arrays.append(mx.contiguous(value))
        return {"array": len(arrays) - 1}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_frozen(part, arrays) for part in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"plain": value}
    raise TypeError(f"a cache's state holds a {type(value).__name__}")


def _thawed(tree: dict[str, Any], arrays: Sequence[mx.array]) -> Any:
    ((sort, value),) = tree.items()
    if sort == "array":
        return mx.contiguous(arrays[value])
    if sort == "plain":
        return value
    parts = [_thawed(part, arrays) for part in value]
    return tuple(parts) if sort == "tuple" else parts
