"""The KV caches of requests, alone and in a batch: made, joined, parted, counted. One cache a layer, quantised or not.

A request's own caches are mlx-lm's. In a batch, caches of keys and values become those of `slots.py`; others (the
states of recurrent layers) become what mlx-lm makes of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    KVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from ..errors import InvalidParameter, ModelLoadFailed
from ..sizing import Shape
from .slots import STEP, QuantizedCache, QuantizedSlotCache, SlotCache, WindowSlotCache, arrays_of

BITS = (0, 4, 8)
GROUP_SIZES = (32, 64, 128)
NO_LIMIT = 1 << 30
SLOTS: dict[type, type[SlotCache]] = {
    KVCache: SlotCache,
    QuantizedCache: QuantizedSlotCache,
    RotatingKVCache: WindowSlotCache,
}


def make_caches(model: Any, *, kv_bits: int = 0, kv_group_size: int = 64) -> list[Any]:
    """Empty caches of one request, one a layer. With `kv_bits` 4 or 8 those that mlx-lm can quantise are.

    Caches of sliding windows and states stay as they are; `kv_dtype` tells what came of it.
    """
    made = make_prompt_cache(model)
    return [_quantized(cache, kv_bits, kv_group_size) for cache in made] if kv_bits else made


def _quantized(cache: Any, bits: int, group_size: int) -> Any:
    if type(cache) is CacheList:
        return CacheList(*(_quantized(part, bits, group_size) for part in cache.caches))
    return QuantizedCache(group_size, bits) if type(cache) is KVCache else cache


def reserve(caches: Sequence[Any], tokens: int) -> None:
    """Let a request's caches grow to `tokens` at once: growing bit by bit copies all that is there each time."""
    for cache in _flat(caches):
        if isinstance(cache, KVCache | QuantizedCache):
            cache.step = -(-tokens // STEP) * STEP


# --- batches -----------------------------------------------------------------------------------------------------


def merge(rows: Sequence[list[Any]]) -> list[Any]:
    """Batch caches, one a layer, of the requests' own caches, which are copied."""
    return [_merged(caches) for caches in zip(*rows, strict=True)]


def _merged(caches: Sequence[Any]) -> Any:
    kind = type(caches[0])
    if kind is CacheList:
        return CacheList(*map(_merged, zip(*(cache.caches for cache in caches), strict=True)))
    return SLOTS.get(kind, kind).merge(caches)


def extend(batch: list[Any], more: list[Any]) -> list[Any]:
    """`batch` with the rows of `more` after its own. `batch` is changed and returned."""
    for cache, other in zip(_flat(batch), _flat(more), strict=True):
        cache.extend(other)
    return batch


def paddable(rows: Sequence[list[Any]], tokens: int) -> bool:
    """Whether requests can take up to `tokens` tokens in one pass, the shorter ones padded: see `settle`.

    States of recurrent layers would take the padding in, and a window that is full would lose what it overwrites.
    """
    return min(map(revocable, rows)) >= tokens


def settle(batch: list[Any], lengths: Sequence[int]) -> None:
    """After a pass that was padded on the right: how many tokens each row of `batch` really has."""
    for cache in _flat(batch):
        cache.settle(lengths)


def keep(batch: list[Any], rows: Sequence[int]) -> list[Any]:
    """`batch` with these rows in this order; `without` names the cheapest one. `batch` is changed and returned."""
    for cache in _flat(batch):
        cache.filter(rows if isinstance(cache, SlotCache) else mx.array(list(rows), dtype=mx.int32))
    return batch


def without(rows: int, gone: Collection[int]) -> list[int]:
    """The order for `keep` that moves the fewest of `rows` rows: the last ones take the places of those gone."""
    left = rows - len(set(gone))
    movers = (row for row in range(left, rows) if row not in gone)
    return [next(movers) if row in gone else row for row in range(left)]


def extract(batch: list[Any], row: int) -> list[Any]:
    """One row's caches as a request's own, copied and evaluated."""
    made = [_extracted(cache, row) for cache in batch]
    # Unevaluated, they would hold on to the batch as it is now, and its next step had to copy it.
    leaves: Any = tree_flatten([cache.state for cache in _flat(made)])
    mx.eval([leaf for _, leaf in leaves if isinstance(leaf, mx.array)])
    return made


def _extracted(cache: Any, row: int) -> Any:
    if type(cache) is CacheList:
        return CacheList(*(_extracted(part, row) for part in cache.caches))
    if type(cache) is not ArraysCache:
        return cache.extract(row)
    # mlx-lm's own `extract` gives slices, which keep the whole batch alive.
    made, alone = ArraysCache(len(cache.cache)), mx.array([row])
    made.cache = [None if array is None else array[alone] for array in cache.cache]
    return made


# --- tokens that are taken back ---------------------------------------------------------------------------------


def revocable(caches: Sequence[Any]) -> int:
    """How many tokens the caches could take now and give back: none in states, in a window until it is full."""
    return min(map(_revocable, _flat(caches)), default=0)


def _revocable(cache: Any) -> int:
    if isinstance(cache, WindowSlotCache):
        return max(0, cache.window - cache.size())
    if isinstance(cache, RotatingKVCache):
        return max(0, int(cache.max_size) - 1 - int(cache.offset))
    return NO_LIMIT if isinstance(cache, KVCache | QuantizedCache | SlotCache) else 0


def trim(caches: Sequence[Any], tokens: int) -> None:
    """Forget the last `tokens` tokens of every row."""
    if tokens:
        for cache in _flat(caches):
            cache.trim(tokens)


# --- figures -----------------------------------------------------------------------------------------------------


def nbytes(caches: Sequence[Any]) -> int:
    """Bytes the caches hold, free room included."""
    return sum(cache.nbytes for cache in _flat(caches) if not cache.empty())


def shape(caches: Sequence[Any]) -> Shape:
    """What the caches of one sequence take, read from such that hold some tokens; quantised ones as they are."""
    tokens = fixed = window = windowed = 0
    for cache in (cache for cache in _flat(caches) if not cache.empty()):
        if isinstance(cache, RotatingKVCache):
            window = max(window, int(cache.max_size))
            windowed += cache.nbytes // arrays_of(cache)[0].shape[2]
        elif isinstance(cache, KVCache | QuantizedCache):
            tokens += cache.nbytes // arrays_of(cache)[0].shape[2]
        else:
            fixed += cache.nbytes
    return Shape(weights=0, kv_token=tokens, kv_fixed=fixed, kv_window=window, kv_window_token=windowed)


def kv_dtype(caches: Sequence[Any]) -> str:
    """How keys and values are stored, read from the arrays: "float32", "8-bit (group 64)", or several of these joined.

    The states of recurrent layers count only where there is nothing else. Empty caches hold nothing: "".
    """
    full = [cache for cache in _flat(caches) if not cache.empty()]
    kinds = [kind for cache in full if hasattr(cache, "keys") for kind in _kinds(cache)]
    kinds = kinds or [_name(array) for cache in full for array in cache.cache if array is not None]
    return " + ".join(sorted(dict.fromkeys(kinds), reverse=True))


def _kinds(cache: Any) -> list[str]:
    if not isinstance(cache.keys, tuple | list):
        return [_name(cache.keys)]
    packed, scales, _ = cache.keys
    # The arrays tell how many bits a scale serves; the group is the cache's word, which its attention computes with.
    return [
        f"{packed.shape[-1] * 32 // (scales.shape[-1] * cache.group_size)}-bit (group {cache.group_size})"
    ]


def _name(array: mx.array) -> str:
    return str(array.dtype).removeprefix("mlx.core.")


def _flat(caches: Sequence[Any]) -> Iterator[Any]:
    for cache in caches:
        if type(cache) is CacheList:
            yield from _flat(cache.caches)
        else:
            yield cache


# --- what a model allows -----------------------------------------------------------------------------------------


def check(model: Any, kv_bits: int, kv_group_size: int) -> None:
    """Compute a token in a batch as the settings say, to learn of what cannot work before a request does.

    Raises InvalidParameter for a setting that no model could have, ModelLoadFailed for one this model cannot.
    """
    if kv_bits not in BITS:
        raise InvalidParameter("kv_bits is 0 (off), 4 or 8.", field="kv_bits")
    if kv_bits and kv_group_size not in GROUP_SIZES:
        raise InvalidParameter("kv_group_size is 32, 64 or 128.", field="kv_group_size")
    plain = make_caches(model)
    if not all(type(cache) in SLOTS or hasattr(cache, "merge") for cache in _flat(plain)):
        raise ModelLoadFailed("the caches of this architecture cannot be batched")
    _try(model, plain, "this model cannot compute a batch")
    if kv_bits:
        _check_widths(plain, kv_group_size)
        _try(
            model,
            make_caches(model, kv_bits=kv_bits, kv_group_size=kv_group_size),
            "with a quantised KV cache",
        )


def _try(model: Any, caches: list[Any], verdict: str) -> None:
    try:
        mx.eval(model(mx.array([[0, 0]]), cache=caches))
        mx.eval(model(mx.array([[0], [0]]), cache=merge([caches, caches])))
    except (ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelLoadFailed(f"{verdict}: {reason}") from error


def _check_widths(plain: list[Any], group_size: int) -> None:
    caches = [cache for cache in _flat(plain) if type(cache) is KVCache]
    if not caches:
        raise ModelLoadFailed("no KV cache of this model can be quantised; set kv_bits to 0")
    widths = sorted({array.shape[-1] for cache in caches for array in arrays_of(cache)})
    fitting = [size for size in GROUP_SIZES if not any(width % size for width in widths)]
    if group_size not in fitting:
        advice = f"set kv_group_size to {fitting[-1]}" if fitting else "set kv_bits to 0"
        raise ModelLoadFailed(
            f"keys and values of {' and '.join(map(str, widths))} numbers cannot be quantised in groups of "
            f"{group_size}; {advice}"
        )
