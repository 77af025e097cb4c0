"""KV caches in a batch: every row computes what it would compute alone, whoever joins or leaves."""

from __future__ import annotations

from itertools import count
from typing import Any

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from mlx_lm.models import falcon_h1, gemma3_text, gpt_bigcode, gpt_oss, lfm2, llama, mamba
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, QuantizedKVCache, make_prompt_cache

from mlx_panel.engine import kv
from mlx_panel.engine.slots import SlotCache
from mlx_panel.errors import InvalidParameter, ModelLoadFailed

from .models import COMMON, FALCON, LFM2, VOCABULARY, randomized

WINDOW = 8
GEMMA = COMMON | {"model_type": "gemma3_text", "sliding_window": WINDOW, "sliding_window_pattern": 2}
ARCHITECTURES = {
    "llama": lambda: llama.Model(llama.ModelArgs.from_dict(COMMON | {"model_type": "llama"})),
    "gemma3": lambda: gemma3_text.Model(gemma3_text.ModelArgs.from_dict(GEMMA)),
    "lfm2": lambda: lfm2.Model(lfm2.ModelArgs.from_dict(COMMON | {"model_type": "lfm2"} | LFM2)),
    "falcon_h1": lambda: falcon_h1.Model(
        falcon_h1.ModelArgs.from_dict(COMMON | {"model_type": "falcon_h1"} | FALCON)
    ),
}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: randomized(build(), seed=3) for name, build in ARCHITECTURES.items()}


def reference(model: Any, kv_bits: int) -> list[Any]:
    """mlx-lm's own caches of one sequence."""

    def quantized(cache: Any) -> Any:
        if hasattr(cache, "caches"):
            cache.caches = tuple(map(quantized, cache.caches))
        return QuantizedKVCache(32, kv_bits) if type(cache) is KVCache else cache

    caches = make_prompt_cache(model)
    return [quantized(cache) for cache in caches] if kv_bits else caches


class Request:
    """A sequence that runs alone in mlx-lm's caches: what the batch has to agree with."""

    def __init__(self, model: Any, kv_bits: int, prompt: list[int]):
        self.model = model
        self.reference = reference(model, kv_bits)
        self.caches = kv.make_caches(model, kv_bits=kv_bits, kv_group_size=32)
        self.logits = self._last(prompt, self.reference)
        self._last(prompt, self.caches)

    def _last(self, tokens: list[int], caches: list[Any]) -> mx.array:
        return self.model(mx.array([tokens]), cache=caches)[0, -1]

    def step(self) -> int:
        """The next token; afterwards `logits` are those that follow it."""
        token = int(mx.argmax(self.logits))
        self.logits = self._last([token], self.reference)
        return token


class Batch:
    """The rows in a batch, each beside its reference."""

    def __init__(self, model: Any, kv_bits: int):
        self.model, self.kv_bits = model, kv_bits
        self.requests: list[Request] = []
        self.caches: list[Any] = []

    def join(self, *prompts: list[int]) -> None:
        self._enter([Request(self.model, self.kv_bits, prompt) for prompt in prompts])

    def _enter(self, requests: list[Request]) -> None:
        merged = kv.merge([request.caches for request in requests])
        self.caches = kv.extend(self.caches, merged) if self.requests else merged
        self.requests += requests

    def keep(self, rows: list[int]) -> None:
        self.caches = kv.keep(self.caches, rows) if rows else []
        self.requests = [self.requests[row] for row in rows]

    def leave_and_return(self, row: int) -> None:
        request = self.requests[row]
        request.caches = kv.extract(self.caches, row)
        self.keep(kv.without(len(self.requests), {row}))
        self._enter([request])

    def step(self) -> None:
        """One token for every row; its logits are those of the row alone."""
        if not self.requests:
            return
        tokens = mx.array([[request.step()] for request in self.requests])
        logits = self.model(tokens, cache=self.caches)[:, -1]
        alone = mx.stack([request.logits for request in self.requests])
        np.testing.assert_allclose(np.array(logits), np.array(alone), rtol=2e-3, atol=2e-3)


def words(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed * 1000 + length).integers(0, VOCABULARY, length).tolist()


@pytest.mark.parametrize("kv_bits", [0, 4, 8])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_rows_of_a_batch_compute_what_they_compute_alone(
    models: dict[str, Any], name: str, kv_bits: int
) -> None:
    batch = Batch(models[name], kv_bits)
    batch.join(words(5), words(17))
    for _ in range(3):
        batch.step()
    batch.join(words(1), words(2 * WINDOW + 1), words(9))
    batch.step()
    batch.keep([4, 0, 3])
    for _ in range(WINDOW + 1):
        batch.step()
    batch.leave_and_return(1)
    batch.step()
    batch.keep([2])
    batch.step()


@pytest.mark.parametrize("kv_bits", [0, 8])
def test_rows_outgrow_their_slots(models: dict[str, Any], kv_bits: int) -> None:
    batch = Batch(models["llama"], kv_bits)
    batch.join(words(3), words(254))
    for _ in range(4):
        batch.step()
    batch.join(words(520), *(words(2, seed) for seed in range(6)))
    batch.step()
    big = kv.nbytes(batch.caches)
    batch.keep([0, 1])
    batch.step()
    assert kv.nbytes(batch.caches) <= big / 4, "room is given back"


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.lists(st.integers(1, 2 * WINDOW + 2), min_size=1, max_size=3)),
        st.tuples(st.just("keep"), st.permutations(range(6))),
        st.tuples(st.just("return"), st.integers(0, 5)),
        st.tuples(st.just("step"), st.integers(1, WINDOW)),
    ),
    max_size=8,
)


@pytest.mark.parametrize("name", ["gemma3", "lfm2"])
@settings(max_examples=25, deadline=None)
@given(operations=OPERATIONS, dropped=st.integers(0, 3), kv_bits=st.sampled_from([0, 8]))
def test_any_order_of_joining_and_leaving(
    models: dict[str, Any], name: str, operations: list[Any], dropped: int, kv_bits: int
) -> None:
    batch, seeds = Batch(models[name], kv_bits), count()
    for act, what in operations:
        rows = len(batch.requests)
        if act == "join":
            batch.join(*(words(length, next(seeds)) for length in what))
        elif act == "keep":
            batch.keep([row for row in what if row < rows][dropped:])
        elif act == "return" and what < rows:
            batch.leave_and_return(what)
        elif act == "step":
            for _ in range(what):
                batch.step()
    batch.step()


@given(rows=st.integers(0, 40), gone=st.sets(st.integers(0, 39)))
def test_the_order_without_some_rows_moves_the_fewest(rows: int, gone: set[int]) -> None:
    gone = {row for row in gone if row < rows}
    order = kv.without(rows, gone)
    assert sorted(order) == sorted(set(range(rows)) - gone)
    assert sum(to != row for to, row in enumerate(order)) == sum(row < len(order) for row in gone)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 9))
def test_masks_are_mlx_lms(lengths: list[int], tokens: int, window: int) -> None:
    caches = []
    for length in lengths:
        caches.append(KVCache())
        if length:
            caches[-1].update_and_fetch(mx.zeros((1, 1, length, 8)), mx.zeros((1, 1, length, 8)))
    batch = SlotCache.merge(caches)
    for size in (None, window):
        mask = batch.make_mask(tokens, return_array=True, window_size=size)
        for row, length in enumerate(lengths):
            expected = np.zeros((tokens, max(lengths) + tokens), bool)
            expected[:, : length + tokens] = create_causal_mask(tokens, length, window_size=size)
            assert np.array_equal(np.array(mask)[row, 0], expected)


def test_nothing_of_a_row_stays_for_the_next(models: dict[str, Any]) -> None:
    batch = Batch(models["llama"], 0)
    batch.join(words(5), words(40))
    for cache in batch.caches:
        cache.keys[1] = cache.values[1] = mx.nan
    batch.keep([0])
    batch.join(words(3))
    batch.step()


def test_an_extracted_row_is_a_copy(models: dict[str, Any]) -> None:
    batch = Batch(models["llama"], 8)
    batch.join(words(5), words(7))
    kept = kv.extract(batch.caches, 1)
    before = [np.array(array) for cache in kept for array in (*cache.keys, *cache.values)]
    batch.step()
    after = [np.array(array) for cache in kept for array in (*cache.keys, *cache.values)]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert [cache.offset for cache in kept] == [7, 7]


def test_several_tokens_at_once_and_back(models: dict[str, Any]) -> None:
    """What speculative decoding does: verify a few tokens, forget some, go on."""
    model = models["llama"]
    for kv_bits in (0, 8):
        request = Request(model, kv_bits, words(6))
        batch = kv.merge([request.caches, Request(model, kv_bits, words(9)).caches])
        guess = words(4, seed=1)
        model(mx.array([guess, guess]), cache=batch)
        assert [cache.trim(4) for cache in batch] == [4, 4]
        tokens = [request.step() for _ in range(3)]
        logits = model(mx.array([tokens, tokens]), cache=batch)[0, -1]
        np.testing.assert_allclose(np.array(logits), np.array(request.logits), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "kv_bits", "dtype", "told"),
    [
        ("llama", 0, mx.float32, "float32"),
        ("llama", 0, mx.bfloat16, "bfloat16"),
        ("llama", 4, mx.float32, "4-bit (group 32)"),
        ("gemma3", 8, mx.bfloat16, "bfloat16 + 8-bit (group 32)"),
        ("lfm2", 8, mx.float32, "8-bit (group 32)"),
        ("falcon_h1", 4, mx.float32, "4-bit (group 32)"),
    ],
)
def test_the_dtype_told_is_that_of_the_arrays(name: str, kv_bits: int, dtype: Any, told: str) -> None:
    model = ARCHITECTURES[name]()
    model.set_dtype(dtype)
    caches = kv.make_caches(model, kv_bits=kv_bits, kv_group_size=32)
    assert kv.kv_dtype(caches) == ""
    assert kv.nbytes(caches) == 0
    model(mx.array([words(5)]), cache=caches)
    assert kv.kv_dtype(caches) == told
    assert kv.kv_dtype(kv.merge([caches, caches])) == told
    assert kv.nbytes(kv.merge([caches, caches])) > 0


def test_quantised_caches_are_smaller(models: dict[str, Any]) -> None:
    sizes = []
    for kv_bits in (0, 8, 4):
        batch = Batch(models["llama"], kv_bits)
        batch.join(words(300), words(20))
        sizes.append(kv.nbytes(batch.caches))
    # 32 bits a number; 8 or 4 and two float32 for 32 numbers.
    assert [size / sizes[0] for size in sizes] == [1, 10 / 32, 6 / 32]


def test_what_a_model_cannot_do_is_said_before_a_request(models: dict[str, Any]) -> None:
    for name, model in models.items():
        kv.check(model, 0, 64)
        kv.check(model, 8, 32)
        with pytest.raises(ModelLoadFailed, match="in groups of 128; set kv_group_size to 32"):
            kv.check(model, 8, 128)
        with pytest.raises(InvalidParameter):
            kv.check(model, 5, 64)
        with pytest.raises(InvalidParameter):
            kv.check(model, 4, 48)
        assert name


def test_architectures_that_cannot(models: dict[str, Any]) -> None:
    sinks = gpt_oss.Model(
        gpt_oss.ModelArgs.from_dict(
            COMMON
            | {
                "model_type": "gpt_oss",
                "sliding_window": WINDOW,
                "num_local_experts": 2,
                "num_experts_per_tok": 1,
            }
        )
    )
    kv.check(sinks, 0, 64)
    with pytest.raises(ModelLoadFailed, match=r"quantised KV cache: .*sinks"):
        kv.check(sinks, 8, 32)
    odd = llama.Model(llama.ModelArgs.from_dict(COMMON | {"model_type": "llama", "head_dim": 20}))
    with pytest.raises(ModelLoadFailed, match="set kv_bits to 0"):
        kv.check(odd, 8, 32)
    states = COMMON | {"model_type": "mamba", "state_size": 16, "conv_kernel": 4, "time_step_rank": 4}
    states |= {"use_bias": False, "use_conv_bias": True}
    with pytest.raises(ModelLoadFailed, match="no KV cache"):
        kv.check(mamba.Model(mamba.ModelArgs.from_dict(states)), 8, 32)
    numbers = {
        "model_type": "gpt_bigcode",
        "n_positions": 64,
        "n_embd": 64,
        "n_head": 2,
        "n_layer": 1,
        "n_inner": 64,
    }
    numbers |= {"layer_norm_epsilon": 1e-5, "vocab_size": VOCABULARY}
    with pytest.raises(ModelLoadFailed, match="cannot compute a batch: "):
        kv.check(gpt_bigcode.Model(gpt_bigcode.ModelArgs.from_dict(numbers)), 0, 64)
