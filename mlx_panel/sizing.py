"""What a model takes in memory, predicted: pure functions of its shape. Sizes are bytes, contexts tokens."""

from __future__ import annotations

import re

import msgspec

# A KV cache grows by so many tokens (mlx-lm's `KVCache.step`).
STEP = 256
# No context is longer: where a model takes no more memory for more tokens.
MOST = 1 << 30
# No machine has more; a number beyond it may not be one for others.
MOST_BYTES = 1 << 60
UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}  # fmt: skip
LIMIT = 'must be "auto", a size such as "24GB" or "800MB", or a share such as "75%"'


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's size follows from, read from its files.

    `weights` as they lie in memory once loaded (a Linux CPU computes half precision in float32); `kv_token` bytes of
    unquantised KV cache a token and sequence; `kv_values` the values of these, for quantised caches; `kv_fixed` bytes a
    sequence that do not grow (recurrent states), `kv_window` tokens after which a rotating part stops growing and
    `kv_window_token` its bytes a token; `activation_token` bytes of transient memory a prompt token of one pass takes,
    and `activation_pair` for each token it looks at (where attention is not fused). `tokenizer` is what the vocabulary
    takes in the process.
    """

    weights: int
    kv_token: int = 0
    kv_values: int = 0
    kv_fixed: int = 0
    kv_window: int = 0
    kv_window_token: int = 0
    activation_token: int = 0
    activation_pair: int = 0
    tokenizer: int = 0
    context_length: int = 0


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """What is to fit beside the weights: `batch` sequences of `context` tokens, one pass of `prefill_step` prompt tokens,
    and `cache` bytes of prompts seen before. `process` is what a worker takes before it has a model."""

    context: int
    batch: int = 1
    prefill_step: int = 1024
    kv_bits: int = 0
    kv_group_size: int = 64
    cache: int = 0
    process: int = 0


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction by its parts."""

    weights: int = 0
    kv: int = 0
    transient: int = 0
    cache: int = 0
    process: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.transient + self.cache + self.process


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker really took: its footprint when the model was loaded, and the most it ever had; `at` Unix seconds.

    `footprint.py` says what is counted. `baseline` is that of the process before it had the model. `predicted` is what
    was expected of that load.
    """

    loaded: int = 0
    peak: int = 0
    baseline: int = 0
    predicted: int = 0
    at: float = 0.0


def size(shape: Shape, room: Room) -> Size:
    """What a model takes with this much room, by its parts."""
    tokens = stepped(room.context)
    kv = kv_bytes(shape, room.context, room.batch, room.kv_bits, room.kv_group_size)
    # One pass has no more tokens than all the prompts together, and one of each when they decode.
    width = max(min(room.prefill_step, tokens * room.batch), room.batch)
    transient = width * (shape.activation_token + shape.activation_pair * tokens)
    # A window takes a whole chunk in before it forgets what is behind it.
    transient += min(room.prefill_step, tokens) * shape.kv_window_token
    return Size(
        weights=shape.weights,
        kv=kv,
        transient=transient,
        cache=room.cache,
        process=room.process + shape.tokenizer,
    )


def stepped(tokens: int) -> int:
    """The tokens that a KV cache has room for once it holds this many."""
    return -(-tokens // STEP) * STEP


def kv_bytes(shape: Shape, tokens: int, sequences: int = 1, bits: int = 0, group: int = 64) -> int:
    """Bytes of the KV caches of so many sequences of so many tokens each.

    With `bits` what can be quantised holds its values in so many bits, and a scale and a bias for every `group` of them
    in the model's dtype. Sliding windows and states are never quantised.
    """
    token = shape.kv_token
    if bits and shape.kv_values:
        scales = 2 * (shape.kv_token // shape.kv_values) * shape.kv_values // group
        token = shape.kv_values * bits // 8 + scales
    room = stepped(tokens)
    return sequences * (room * token + min(room, shape.kv_window) * shape.kv_window_token + shape.kv_fixed)


def largest_context(shape: Shape, room: Room, available: int, sequences: int = 1) -> int:
    """The most tokens that each of so many sequences can have with `size` in `available` bytes; `room` gives the rest.

    0 where none fits, the model's context (or 2^30) where memory is not what limits it.
    """

    def fits(tokens: int) -> bool:
        wanted = msgspec.structs.replace(room, context=tokens, batch=sequences)
        return size(shape, wanted).total <= available

    low, high = 0, shape.context_length or MOST
    if fits(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def parse_limit(text: str, recommended: int) -> int:
    """Bytes of "auto" (all that is recommended), "24GB", "800MB", "1.5GiB", or a share of what is recommended: "75%".

    Raises ValueError that says what it must be.
    """
    words = text.strip().lower()
    if words == "auto":
        return recommended
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|[kmgt]i?b)", words)
    if found is None:
        raise ValueError(LIMIT)
    number, unit = float(found[1]), found[2]
    if unit == "%" and not 0 < number <= 100:
        raise ValueError("a share of the memory must be more than 0% and at most 100%")
    limit = recommended * number / 100 if unit == "%" else number * UNITS[unit]
    if not 1 <= limit < MOST_BYTES:
        raise ValueError(LIMIT)
    return int(limit)
