"""What a model takes in memory, predicted: pure functions of its shape. Sizes are bytes, contexts tokens."""

from __future__ import annotations

import msgspec


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's size follows from, read from its files.

    `weights` as they lie in memory once loaded (a Linux CPU computes half precision in float32); `kv_token` bytes of
    unquantised KV cache a token and sequence; `kv_values` the values of these, for quantised caches; `kv_fixed` bytes a
    sequence that do not grow (recurrent states), `kv_window` tokens after which a rotating part stops growing and
    `kv_window_token` its bytes a token; `activation_token` bytes of transient memory a prompt token of one pass takes.
    """

    weights: int
    kv_token: int = 0
    kv_values: int = 0
    kv_fixed: int = 0
    kv_window: int = 0
    kv_window_token: int = 0
    activation_token: int = 0
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

    On macOS the physical footprint, which the system's memory pressure counts, elsewhere the resident set. `baseline`
    is that of the process before it had the model. `predicted` is what was expected of that load.
    """

    loaded: int = 0
    peak: int = 0
    baseline: int = 0
    predicted: int = 0
    at: float = 0.0
