"""The prefix cache: what is restored computes what a cold prefill computes, and budgets, files and reports are kept."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from mlx_lm.models import falcon_h1, gemma3_text, lfm2, llama, mamba
from mlx_lm.models.cache import KVCache, QuantizedKVCache, RotatingKVCache, make_prompt_cache
from mlx_lm.utils import load_tokenizer

from mlx_panel.engine.detokenize import Vocabulary
from mlx_panel.engine.prefix.cache import Match, PrefixCache
from mlx_panel.engine.prefix.disk import DiskTier
from mlx_panel.engine.prefix.explain import explain, spans, token_lengths
from mlx_panel.engine.prefix.files import Tensor, encode
from mlx_panel.engine.prefix.key import ModelKey, model_key
from mlx_panel.engine.prefix.states import restore, snapshot
from mlx_panel.messages import Message
from mlx_panel.tuning import CacheReport

from .models import COMMON, FALCON, LFM2, VOCABULARY, randomized, tiny_model

SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 24}
MAMBA = {
    "state_size": 16,
    "conv_kernel": 4,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_rank": 8,
}
GEMMA = {"sliding_window": 24, "sliding_window_pattern": 2}
# Module, configuration, bits of the KV cache.
KINDS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "full": (llama, {}, 0),
    "bfloat16": (llama, {}, 0),
    "quantised": (llama, {}, 8),
    "sliding window": (llama, SLIDING, 0),
    "gemma3": (gemma3_text, GEMMA, 0),
    "sliding window, quantised": (gemma3_text, GEMMA, 8),
    "hybrid": (lfm2, LFM2, 0),
    "list of caches": (falcon_h1, FALCON, 0),
    "recurrent": (mamba, MAMBA, 0),
}
KEY = ModelKey("model", "tokenizer", "float32")
MEGABYTE = 1 << 20


class Kind:
    """A tiny model and its caches of one sequence."""

    def __init__(self, name: str):
        module, config, self.bits = KINDS[name]
        arguments = COMMON | {"model_type": module.__name__.rpartition(".")[2]} | config
        self.model = randomized(module.Model(module.ModelArgs.from_dict(arguments)), seed=3)
        self.tolerance = 2e-2 if self.bits else 2e-4
        if name == "bfloat16":
            self.model.set_dtype(mx.bfloat16)
            self.tolerance = 0.1

    def caches(self) -> list[Any]:
        made = make_prompt_cache(self.model)
        return [QuantizedKVCache(32, self.bits) if self.bits and type(c) is KVCache else c for c in made]

    def logprobs(self, tokens: Sequence[int], caches: list[Any]) -> np.ndarray:
        """Of the token after these: float32, (vocabulary,)."""
        logits = self.model(mx.array([list(tokens)]), cache=caches)[0, -1].astype(mx.float32)
        return np.array(logits - mx.logsumexp(logits))

    def prefill(self, prefix: PrefixCache, tokens: Sequence[int], chunk: int = 50) -> np.ndarray:
        """As an engine does it: what is known is restored, the rest computed in chunks and stored."""
        match = prefix.find(tokens)
        caches, position = match.caches or self.caches(), match.tokens
        stored, stops = position, prefix.stops(tokens)
        while position < len(tokens) - 1:
            end = min([len(tokens) - 1, position + chunk, *(stop for stop in stops if stop > position)])
            self.logprobs(tokens[position:end], caches)
            position = end
            if prefix.wants(position, stored, stops):
                prefix.store(tokens[:position], caches)
                stored = position
        found = self.logprobs(tokens[position:], caches)
        prefix.store(tokens, caches)
        return found


@pytest.fixture(scope="module")
def kind() -> Callable[[str], Kind]:
    made: dict[str, Kind] = {}
    return lambda name: made.setdefault(name, Kind(name))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., DiskTier]]:
    """Makes tiers on one folder; all are closed afterwards."""
    opened: list[DiskTier] = []

    def make(key: ModelKey = KEY, budget: int = 64 * MEGABYTE) -> DiskTier:
        opened.append(DiskTier(tmp_path / "prefix", key, budget=budget))
        return opened[-1]

    yield make
    for tier in opened:
        tier.close()


def draw(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCABULARY, count).tolist()


def restored_equals_cold(kind: Kind, match: Match, tokens: list[int]) -> None:
    """What follows a restored beginning is what follows the same tokens computed at once, for some steps too."""
    cold = kind.caches()
    assert match.caches is not None
    rest, wanted = tokens[match.tokens :], kind.logprobs(tokens, cold)
    for _ in range(6):
        given_ = kind.logprobs(rest, match.caches)
        np.testing.assert_allclose(given_, wanted, atol=kind.tolerance)
        rest = [int(wanted.argmax())]
        wanted = kind.logprobs(rest, cold)


# --- restored state is right -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_restored_state_computes_what_a_cold_prefill_computes(
    name: str, kind: Callable[[str], Kind], disk: Callable[..., DiskTier]
) -> None:
    model, first = kind(name), draw(230)
    prefix = PrefixCache(KEY, model.caches, budget=64 * MEGABYTE, disk=disk())
    model.prefill(prefix, first)
    second = first + draw(40, seed=1)
    for _ in range(2):
        # Twice: what the first one does with its caches must not reach the store.
        match = prefix.find(second)
        assert (match.tokens, match.tier, match.nearest, match.left) == (230, "memory", 230, False)
        restored_equals_cold(model, match, second)
    prefix.close()

    again = PrefixCache(KEY, model.caches, budget=64 * MEGABYTE, disk=disk())
    match = again.find(second)
    # Whole blocks are on disk, and snapshots wherever they were taken.
    assert (match.tokens, match.tier) == (230 if again.snapshots else 192, "disk")
    restored_equals_cold(model, match, second)
    assert again.find(second).tier == "memory"
    assert again.figures.refused == 0


@pytest.mark.parametrize("name", KINDS)
def test_a_prompt_that_goes_on_differently(
    name: str, kind: Callable[[str], Kind], disk: Callable[..., DiskTier]
) -> None:
    model, first = kind(name), draw(230)
    prefix = PrefixCache(KEY, model.caches, budget=64 * MEGABYTE, disk=disk())
    model.prefill(prefix, first)
    other = [*first[:219], (first[219] + 1) % VOCABULARY, *draw(30, seed=2)]
    for tier in ("memory", "disk"):
        match = prefix.find(other)
        # A snapshot was taken where the prompt's last words begin; blocks are cut at any token, but only whole ones
        # are on disk.
        known = 219 if tier == "memory" or prefix.snapshots else 192
        assert (match.tokens, match.tier) == (213 if prefix.snapshots else known, tier)
        assert (match.nearest, match.left) == (known, known == 219)
        restored_equals_cold(model, match, other)
        same = prefix.find(first)
        assert same.tokens == (213 if prefix.snapshots else 229 if tier == "memory" else 192)
        restored_equals_cold(model, same, first)
        prefix.close()
        prefix = PrefixCache(KEY, model.caches, budget=64 * MEGABYTE, disk=disk())


@pytest.mark.parametrize("name", KINDS)
def test_caches_that_go_on_do_not_reach_what_was_stored(name: str, kind: Callable[[str], Kind]) -> None:
    """Decode steps write into the arrays in place: those stored from, and those restored."""
    model, tokens = kind(name), draw(60)
    prefix, caches = PrefixCache(KEY, model.caches, budget=64 * MEGABYTE), model.caches()
    # The sliding windows of these models are full, and not a token longer, after the first 24.
    model.logprobs(tokens[:24], caches)
    prefix.store(tokens[:24], caches)
    for token in (1, 2, 3):
        model.logprobs([token], caches)
    for _ in range(2):
        match = prefix.find(tokens[:25])
        assert match.tokens == 24
        restored_equals_cold(model, match, tokens[:25])


def test_a_sliding_window_with_a_kept_start_goes_on_as_it_was() -> None:
    """The only caches of this kind that no tiny model of mlx-lm makes."""
    for sizes in ([5, 9, 1, 1, 3], [20, 1, 1, 1], [1] * 13, [3, 2]):
        left, right = RotatingKVCache(8, keep=2), RotatingKVCache(8, keep=2)
        numbers = mx.arange(100, dtype=mx.float32).reshape(1, 1, 100, 1)
        at = 0
        for size in sizes:
            left.update_and_fetch(*[numbers[:, :, at : at + size]] * 2)
            at += size
        taken = snapshot([left])
        restore([right], taken.spec, taken.arrays)
        for size in (1, 1, 4, 1, 1, 7):
            seen = [
                cache.update_and_fetch(*[numbers[:, :, at : at + size]] * 2)[0] for cache in (left, right)
            ]
            at += size
            # The order inside a window is the cache's own affair.
            wanted, found = (sorted(array.flatten().tolist()) for array in seen)
            assert found == wanted
            assert found[:2] == [0, 1]


# --- what is kept: budget, order, longest beginning ------------------------------------------------------------------


def tiny_caches(tokens: Sequence[int] = ()) -> list[Any]:
    """A cache whose contents tell which tokens it holds: at each position a hash of all tokens up to there."""
    cache, hashes, value = KVCache(), [], 7
    for token in tokens:
        value = (value * 31 + token + 1) % 8191
        hashes.append([float(value), float(token)])
    if hashes:
        array = mx.array(hashes).reshape(1, 1, len(hashes), 2)
        cache.update_and_fetch(array, array + 1)
    return [cache]


def holds(match: Match, tokens: Sequence[int]) -> bool:
    """Whether the caches hold exactly the beginning of these tokens."""
    wanted = tiny_caches(tokens[: match.tokens])[0]
    (found,) = match.caches or tiny_caches()
    pairs = zip(found.keys_and_values(), wanted.keys_and_values(), strict=True) if match.tokens else ()
    return found.offset == match.tokens and all(mx.array_equal(*pair).item() for pair in pairs)


def lies_in(prefix: PrefixCache) -> int:
    """The bytes really held, counted anew; every block must hang on one that is held."""
    tree = prefix._tree
    total, nodes = 0, [tree.root]
    while nodes:
        node = nodes.pop()
        for block in node.following():
            assert block in tree
            assert block.parent is node
            total += block.nbytes + (block.snapshot.nbytes if block.snapshot else 0)
            assert block.nbytes > sum(array.nbytes for array in block.arrays)
            nodes.append(block)
    return total


PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=22)
DEEDS = st.lists(st.tuples(st.sampled_from(["store", "find"]), PROMPTS), max_size=25)
LONG = st.lists(st.integers(0, 2), min_size=8, max_size=40)
LONG_DEEDS = st.lists(st.tuples(st.sampled_from(["store", "store", "find"]), LONG), min_size=5, max_size=25)


def common(left: Sequence[int], right: Sequence[int]) -> int:
    pairs = zip(left, right, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))


@settings(max_examples=60, deadline=None)
@given(DEEDS)
def test_finds_the_longest_known_beginning_to_the_token(deeds: list[tuple[str, list[int]]]) -> None:
    prefix = PrefixCache(KEY, tiny_caches, budget=MEGABYTE, block=4, least=1)
    stored: list[list[int]] = []
    for deed, tokens in deeds:
        if deed == "store":
            prefix.store(tokens, tiny_caches(tokens))
            stored.append(tokens)
            continue
        match = prefix.find(tokens)
        longest = max((common(tokens, known) for known in stored), default=0)
        assert match.tokens == min(longest, len(tokens) - 1)
        assert match.nearest == (longest or None)
        more = any(common(tokens, known) == longest and len(known) > longest for known in stored)
        assert match.left == (more and longest < len(tokens))
        assert holds(match, tokens)


@settings(max_examples=60, deadline=None)
@given(LONG_DEEDS, st.integers(500, 8000), st.lists(st.integers(0, 6000), max_size=3))
def test_the_budget_is_kept_at_all_times(
    deeds: list[tuple[str, list[int]]], budget: int, changes: list[int]
) -> None:
    prefix = PrefixCache(KEY, tiny_caches, budget=budget, block=4, least=1)
    for number, (deed, tokens) in enumerate(deeds):
        if deed == "store":
            prefix.store(tokens, tiny_caches(tokens))
        else:
            assert holds(prefix.find(tokens), tokens)
        if number % 7 == 6 and changes:
            prefix.budget = changes.pop()
        assert prefix.figures.bytes == lies_in(prefix) <= prefix.budget


@pytest.mark.parametrize("seed", range(4))
def test_the_least_recently_used_goes_first(seed: int) -> None:
    """Five prompts with nothing in common, room for three: the cache holds what a list of the last three holds."""
    prompts = {name: [name * 10 + index % 7 for index in range(12)] for name in range(5)}
    probe = PrefixCache(KEY, tiny_caches, budget=MEGABYTE, block=4, least=1)
    probe.store(prompts[0], tiny_caches(prompts[0]))
    prefix = PrefixCache(KEY, tiny_caches, budget=3 * probe.figures.bytes, block=4, least=1)
    recent: list[int] = []
    random = np.random.default_rng(seed)
    for name, store in zip(random.integers(0, 5, 100).tolist(), random.random(100) < 0.4, strict=True):
        tokens = prompts[name]
        if store:
            prefix.store(tokens, tiny_caches(tokens))
        else:
            assert prefix.find(tokens).tokens == (len(tokens) - 1 if name in recent else 0)
        if store or name in recent:
            recent = [*(other for other in recent if other != name), name][-3:]
        assert prefix.figures.bytes == lies_in(prefix)


def test_a_prompt_larger_than_the_budget_keeps_its_beginning() -> None:
    tokens = [index % 90 for index in range(400)]
    prefix = PrefixCache(KEY, tiny_caches, budget=10_000, block=16, least=1)
    for end in (100, 200, 300, 400):
        prefix.store(tokens[:end], tiny_caches(tokens[:end]))
        assert prefix.figures.bytes <= 10_000
    match = prefix.find(tokens)
    assert 100 < match.tokens < 300
    assert match.tokens % 16 == 0
    assert holds(match, tokens)
    prefix.budget = 0
    assert prefix.figures.bytes == prefix.figures.blocks == 0
    assert prefix.find(tokens).tokens == 0


def test_snapshots_are_taken_where_conversations_part(kind: Callable[[str], Kind]) -> None:
    model, tokens = kind("hybrid"), draw(300)
    prefix = PrefixCache(KEY, model.caches, budget=64 * MEGABYTE)
    assert prefix.stops(tokens, ends=[40, 120, 200, 290]) == [40, 200, 290]
    assert prefix.stops(list(range(5000))) == [1024, 2048, 3072, 4096, 4983]
    assert len(prefix.stops(list(range(50_000)))) <= 9
    assert PrefixCache(KEY, kind("full").caches, budget=MEGABYTE).stops(tokens) == []

    caches = model.caches()
    for start, end in ((0, 40), (40, 200)):
        model.logprobs(tokens[start:end], caches)
        prefix.store(tokens[:end], caches)
    system_alone = tokens[:40] + draw(50, seed=4)
    match = prefix.find(system_alone)
    assert match.tokens == 40
    restored_equals_cold(model, match, system_alone)
    assert prefix.find(tokens[:200] + draw(9, seed=5)).tokens == 200


def test_snapshots_count_and_go_before_the_blocks_they_stand_on(kind: Callable[[str], Kind]) -> None:
    model, tokens = kind("gemma3"), draw(256)
    caches = model.caches()
    prefix = PrefixCache(KEY, model.caches, budget=64 * MEGABYTE)
    for end in (64, 128, 192, 256):
        model.logprobs(tokens[end - 64 : end], caches)
        prefix.store(tokens[:end], caches)
    assert prefix.figures.bytes == lies_in(prefix)
    assert prefix.find([*tokens[:128], 1, 2, 3]).tokens == 128
    prefix.budget = prefix.figures.bytes - 1
    # The oldest snapshot is gone, all blocks are there: 64 is not found any more, 128 still is.
    assert prefix.figures.blocks == 4
    assert prefix.find([*tokens[:64], 1, 2, 3]).tokens == 0
    assert prefix.find([*tokens[:128], 1, 2, 3]).tokens == 128


def test_caches_that_hold_something_else_are_an_error() -> None:
    prefix = PrefixCache(KEY, tiny_caches, budget=MEGABYTE)
    with pytest.raises(ValueError, match="hold 3 tokens, not 4"):
        prefix.store([1, 2, 3, 4], tiny_caches([1, 2, 3]))


def test_other_caches_than_before_start_anew(caplog: pytest.LogCaptureFixture) -> None:
    tokens, prefix = draw(40), PrefixCache(KEY, tiny_caches, budget=MEGABYTE, least=1)
    prefix.store(tokens, tiny_caches(tokens))
    wider = KVCache()
    wider.update_and_fetch(*mx.ones((2, 1, 1, 40, 3)))
    prefix.store(tokens, [wider])
    match = prefix.find(tokens)
    assert match.tokens == 39
    assert match.caches is not None
    assert match.caches[0].keys.shape[-1] == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]


# --- on disk ---------------------------------------------------------------------------------------------------------


def on_disk(make: Callable[..., DiskTier], budget: int = MEGABYTE) -> PrefixCache:
    return PrefixCache(KEY, tiny_caches, budget=budget, disk=make(), block=16, least=1)


def write(make: Callable[..., DiskTier], *prompts: list[int]) -> list[Path]:
    """Store prompts and wait for their files, in the order of their blocks."""
    prefix = on_disk(make)
    for tokens in prompts:
        prefix.store(tokens, tiny_caches(tokens))
    prefix.close()
    assert prefix.disk is not None
    return sorted(prefix.disk.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)


def test_files_are_for_their_owner_alone_and_read_as_safetensors(
    disk: Callable[..., DiskTier], tmp_path: Path
) -> None:
    (tmp_path / "prefix" / KEY.digest()).mkdir(parents=True, mode=0o755)
    before = os.umask(0)
    try:
        files = write(disk, draw(70))
    finally:
        os.umask(before)
    assert len(files) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700, "also one that was there already"
    DiskTier(tmp_path / "new", KEY, budget=MEGABYTE).close()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    arrays, metadata = mx.load(str(files[0]), return_metadata=True)
    assert arrays["slices.0"].shape == (2, 1, 1, 16, 2)
    assert metadata["key"] == KEY.digest() == files[0].parent.name


def spoil(path: Path, how: str) -> None:
    raw = bytearray(path.read_bytes())
    if how == "a byte of the data":
        raw[-5] ^= 1
    elif how == "a digit of the tokens":
        at = raw.index(b'"tokens":"') + 12
        raw[at] = ord("1") if raw[at] != ord("1") else ord("2")
    elif how == "a shape":
        at = raw.index(b"[2,1,1,16,2]")
        raw[at : at + 12] = b"[2,1,2,16,1]"
    elif how == "cut off":
        raw = raw[: len(raw) // 2]
    elif how == "empty":
        raw = bytearray()
    elif how == "a later format":
        raw = bytearray(bytes(raw).replace(b"mlx-panel prefix 1", b"mlx-panel prefix 9"))
    elif how == "another model's":
        raw = bytearray(bytes(raw).replace(KEY.digest().encode(), b"0" * 32))
    elif how == "a nest":
        raw = bytearray((100_000).to_bytes(8, "little") + b"[" * 100_000)
    elif how == "an array too many":
        (size,) = struct.unpack("<Q", raw[:8])
        table, data = json.loads(raw[8 : 8 + size]), bytes(raw[8 + size :])
        meta = {name: word for name, word in table.pop("__metadata__").items() if name != "checksum"}
        whole = {
            name: Tensor(of["dtype"], of["shape"], memoryview(data[slice(*of["data_offsets"])]))
            for name, of in table.items()
        }
        parts = whole | {f"slices.{len(whole)}": Tensor("U8", (4,), memoryview(data[:4]))}
        raw = bytearray(b"".join(encode(meta, parts)))
    elif how == "no safetensors":
        raw = bytearray(b"hello, " * 100)
    path.write_bytes(raw)


@pytest.mark.parametrize(
    "how",
    [
        "a byte of the data",
        "a digit of the tokens",
        "a shape",
        "cut off",
        "empty",
        "a later format",
        "another model's",
        "no safetensors",
        "a nest",
        "an array too many",
    ],
)
def test_a_bad_block_is_refused_and_computed_again(
    how: str, disk: Callable[..., DiskTier], caplog: pytest.LogCaptureFixture
) -> None:
    tokens = draw(100)
    files = write(disk, tokens)
    spoil(files[2], how)
    prefix = on_disk(disk)
    match = prefix.find(tokens)
    assert (match.tokens, match.tier) == (32, "disk")
    assert holds(match, tokens)
    assert prefix.figures.refused == 1
    (record,) = caplog.records
    assert record.getMessage().startswith(f"refused the cached block {files[2].name}: it")
    assert record.levelname == "WARNING"
    prefix.store(tokens, tiny_caches(tokens))
    prefix.close()
    again = on_disk(disk)
    assert again.find(tokens).tokens == 96
    assert again.figures.refused == 0


def test_a_block_under_another_name_is_refused(disk: Callable[..., DiskTier]) -> None:
    """Its tokens decide what it is, not what it is called."""
    left, right = draw(16), draw(16, seed=1)
    files = write(disk, left, right)
    names = [path.name for path in files]
    spare = files[0].read_bytes()
    files[0].write_bytes(files[1].read_bytes())
    files[1].write_bytes(spare)
    prefix = on_disk(disk)
    assert prefix.find([*left, 1]).tokens == prefix.find([*right, 1]).tokens == 0
    assert prefix.figures.refused == 2
    prefix.close()
    assert not [name for name in names if (files[0].parent / name).exists()]


def test_another_key_is_another_folder(disk: Callable[..., DiskTier], tmp_path: Path) -> None:
    tokens = draw(64)
    files = write(disk, tokens)
    other = ModelKey("model", "tokenizer", "float32/kv8g64")
    prefix = PrefixCache(other, tiny_caches, budget=MEGABYTE, disk=disk(key=other), block=16, least=1)
    assert prefix.find(tokens) == Match(0, None, "none", None, False)
    # A file that was copied from one folder to the other is whole, and still not this model's.
    for path in files:
        (path.parent.parent / other.digest() / path.name).write_bytes(path.read_bytes())
    prefix = PrefixCache(other, tiny_caches, budget=MEGABYTE, disk=disk(key=other), block=16, least=1)
    assert prefix.find(tokens).tokens == 0
    assert prefix.figures.refused == 1

    folder = tiny_model(tmp_path / "model")
    key = model_key(folder, kv_bits=0, kv_group_size=64, dtype="float32")
    assert key == model_key(folder, kv_bits=0, kv_group_size=32, dtype="float32")
    assert key != model_key(folder, kv_bits=8, kv_group_size=64, dtype="float32")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        path = folder / name
        before = path.read_bytes()
        path.write_bytes(before.replace(b"{", b"{ ", 1))
        assert model_key(folder, kv_bits=0, kv_group_size=64, dtype="float32") != key
        path.write_bytes(before)
    assert model_key(folder, kv_bits=0, kv_group_size=64, dtype="float32") == key
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert model_key(folder, kv_bits=0, kv_group_size=64, dtype="float32") != key


def test_room_on_disk_is_made_from_the_ends_of_what_was_used_longest_ago(
    disk: Callable[..., DiskTier],
) -> None:
    prompts = [draw(64, seed=seed) for seed in range(6)]
    size = sum(path.stat().st_size for path in write(disk, prompts[0]))
    prefix = on_disk(disk, budget=0)
    for tokens in prompts[1:3]:
        prefix.store(tokens, tiny_caches(tokens))
    assert prefix.figures.blocks == 0, "nothing is kept in memory, nothing written"
    prefix.close()
    write(disk, *prompts[1:3])

    first = on_disk(disk)
    assert first.find([*prompts[0], 1]).tokens == 64
    first.close()
    tier = disk(budget=3 * size)
    last = PrefixCache(KEY, tiny_caches, budget=MEGABYTE, disk=tier, block=16, least=1)
    for tokens in prompts[3:5]:
        last.store(tokens, tiny_caches(tokens))
    last.close()
    files = list(tier.folder.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in files) == tier.nbytes <= 3 * size
    kept = on_disk(disk)
    found = [kept.find([*tokens, 1]).tokens for tokens in prompts]
    # The one that was read again outlives those written after it.
    assert found == [64, 0, 0, 64, 64, 0]
    kept.close()

    smaller = disk()
    smaller.budget = size
    smaller.close()
    kept = on_disk(disk)
    found = [kept.find([*tokens, 1]).tokens for tokens in prompts]
    # What remains of a prompt is its beginning: no file is left that nothing leads to.
    assert sum(found) // 16 == len(list(tier.folder.glob("*.safetensors"))) == 3
    assert found[1:3] == [0, 0]


def test_two_processes_share_a_folder(disk: Callable[..., DiskTier], tmp_path: Path) -> None:
    """One writes and is killed at it, again and again; the other never sees half a block or a wrong one."""
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.test_prefix import KEY, MEGABYTE, draw, tiny_caches\n"
        "from mlx_panel.engine.prefix.cache import PrefixCache\n"
        "from mlx_panel.engine.prefix.disk import DiskTier\n"
        "tier = DiskTier(Path(sys.argv[1]), KEY, budget=64 * MEGABYTE)\n"
        "prefix = PrefixCache(KEY, tiny_caches, budget=MEGABYTE, disk=tier, block=16, least=1)\n"
        "print('ready', flush=True)\n"
        "for seed in range(int(sys.argv[2]), 100_000):\n"
        "    tokens = draw(200, seed=seed)\n"
        "    prefix.store(tokens, tiny_caches(tokens))\n"
    )
    found = 0
    for start in (0, 50):
        with subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "prefix"), str(start)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            prefix = on_disk(disk)
            assert prefix.disk is not None
            while len(list(prefix.disk.folder.glob("*.safetensors"))) < 100 + 2 * start:
                assert process.poll() is None
            process.kill()
        prefix = on_disk(disk)
        for seed in range(start, start + 20):
            tokens = draw(200, seed=seed)
            match = prefix.find(tokens)
            assert holds(match, tokens)
            found += match.tokens
        assert prefix.figures.refused == 0
    assert found > 0


@pytest.mark.parametrize("name", ["full", "hybrid"])
def test_little_memory_and_much_disk(
    name: str, kind: Callable[[str], Kind], disk: Callable[..., DiskTier]
) -> None:
    """What does not fit into memory is restored from disk all the same, each time."""
    model, tokens = kind(name), draw(230)
    prefix = PrefixCache(KEY, model.caches, budget=64 * MEGABYTE, disk=disk())
    model.prefill(prefix, tokens)
    most = prefix.figures.bytes
    prefix.close()
    for budget in (0, most // 2, most - 1):
        prefix = PrefixCache(KEY, model.caches, budget=budget, disk=disk())
        for _ in range(2):
            match = prefix.find([*tokens, 1])
            assert (match.tokens, match.tier) == (230 if prefix.snapshots else 192, "disk")
            restored_equals_cold(model, match, [*tokens, 1])
            assert prefix.figures.bytes == lies_in(prefix) <= budget
            if budget == most - 1:
                break


def test_files_that_vanish_are_a_miss(disk: Callable[..., DiskTier]) -> None:
    tokens = draw(64)
    files = write(disk, tokens)
    prefix = on_disk(disk)
    files[1].unlink()
    match = prefix.find([*tokens, 1])
    assert (match.tokens, prefix.figures.refused) == (16, 0)
    prefix.store(tokens, tiny_caches(tokens))
    prefix.clear()
    prefix.close()
    assert prefix.disk is not None
    assert list(prefix.disk.folder.iterdir()) == []


def test_what_is_too_much_for_the_writer_is_written_later(
    disk: Callable[..., DiskTier], tmp_path: Path
) -> None:
    tokens = draw(160)
    tier = DiskTier(tmp_path / "prefix", KEY, budget=MEGABYTE, pending=3000)
    prefix = PrefixCache(KEY, tiny_caches, budget=MEGABYTE, disk=tier, block=16, least=1)
    for _ in range(100):
        prefix.store(tokens, tiny_caches(tokens))
        if tier.blocks == 10:
            break
        tier._writer.submit(lambda: None).result()
    prefix.close()
    assert on_disk(disk).find(tokens).tokens == 159


def test_where_a_prompt_differs_from_one_on_disk_is_known_to_the_token(disk: Callable[..., DiskTier]) -> None:
    tokens = draw(64)
    write(disk, tokens)
    prefix = on_disk(disk)
    other = [*tokens[:37], (tokens[37] + 1) % VOCABULARY, *draw(40, seed=8)]
    match = prefix.find(other)
    assert (match.tokens, match.tier, match.nearest, match.left) == (37, "disk", 37, True)
    assert holds(match, other)


# --- why a prompt was not reused -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(tiny_model(tmp_path_factory.mktemp("model")))


def rendered(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, list[int]]:
    turns = [{"role": message.role, "content": message.content or ""} for message in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return text, tokenizer.encode(text, add_special_tokens=False)


SYSTEM = (
    "You are a little model which knew nothing at all, once upon a time, and the capital of Italy is Rome."
)
TALK = (
    Message("system", SYSTEM),
    Message("user", "What is the capital of France? A little model asks."),
    Message("assistant", "The capital of France is Paris."),
    Message("user", "And the capital of Italy, once upon a time?"),
)


def changed(number: int, old: str, new: str) -> list[Message]:
    message = TALK[number]
    assert old in (message.content or "")
    return [
        *TALK[:number],
        Message(message.role, (message.content or "").replace(old, new)),
        *TALK[number + 1 :],
    ]


@pytest.mark.parametrize(
    ("messages", "outcome", "number"),
    [
        (changed(0, "Rome", "Home"), "changed", 0),
        (changed(0, "You", "Now"), "first", None),
        (changed(1, "asks", "tells"), "changed", 1),
        (changed(1, "What", "That"), "changed", 1),
        (changed(2, "Paris", "Rome"), "changed", 2),
        (changed(3, "time", "day"), "hit", None),
        ([*TALK, Message("assistant", "Rome."), Message("user", "Why?")], "hit", None),
        ([TALK[0], Message("user", "Something else.")], "hit", None),
        ([TALK[0], TALK[1], *TALK], "changed", None),
        (list(TALK), "hit", None),
    ],
)
def test_a_report_names_the_message_that_changed(
    messages: list[Message], outcome: str, number: int | None, tokenizer: Any
) -> None:
    prefix = PrefixCache(KEY, tiny_caches, budget=MEGABYTE)
    _, known = rendered(tokenizer, TALK)
    prefix.store(known, tiny_caches(known))
    text, tokens = rendered(tokenizer, messages)
    lengths = token_lengths(tokens, Vocabulary(tokenizer), tokenizer)
    match = prefix.find(tokens)
    report = explain(match, "id", len(tokens), lambda: spans(text, messages, lengths))
    assert (report.outcome, report.message) == (outcome, number)
    assert report.role == (None if number is None else messages[number].role)
    assert report.cached_tokens == match.tokens
    if outcome == "changed":
        assert report.diverged_at == common(known, tokens) < len(known)
    else:
        assert report.diverged_at is None


def test_nothing_known_and_a_raw_prompt() -> None:
    prefix = PrefixCache(KEY, tiny_caches, budget=MEGABYTE)
    tokens = draw(80)
    first = prefix.find(tokens)
    assert explain(first, "id", 80, list) == CacheReport("id", 80, 0, "none", "first")
    prefix.store(tokens, tiny_caches(tokens))
    other = [*tokens[:50], *draw(30, seed=3)]
    report = explain(prefix.find(other), "id", 80, list)
    assert report == CacheReport("id", 80, 50, "memory", "changed", 50)


WORDS = st.text(alphabet="ab Ωé😀\n<|im_end|>user", max_size=12)


@settings(max_examples=80, deadline=None)
@given(turns=st.lists(st.tuples(st.sampled_from(["user", "assistant"]), WORDS), min_size=1, max_size=5))
def test_spans_hold_their_messages(turns: list[tuple[Any, str]], tokenizer: Any) -> None:
    messages = [Message(role, content) for role, content in turns]
    text, tokens = rendered(tokenizer, messages)
    vocabulary = Vocabulary(tokenizer)
    lengths = token_lengths(tokens, vocabulary, tokenizer)
    assert sum(lengths) == len(text.encode())
    edges = [0, *np.cumsum(lengths).tolist()]
    found = spans(text, messages, lengths)
    assert [span.message for span in found] == [
        at for at, (_, content) in enumerate(turns) if content.strip()
    ]
    for span in found:
        content = turns[span.message][1].encode()
        inside = text.encode()[edges[span.start] : edges[span.end]]
        assert content in inside
        assert content not in inside[lengths[span.start] :]
        assert content not in inside[: -lengths[span.end - 1]]
    # A token before the text, as some tokenizers put one, moves everything by one.
    moved = spans(text, messages, [3, *lengths])
    assert [(span.start, span.end) for span in moved] == [(span.start + 1, span.end + 1) for span in found]


def test_what_waits_to_be_written_is_forgotten_too(disk: Callable[..., DiskTier]) -> None:
    prefix = on_disk(disk)
    assert prefix.disk is not None
    held = threading.Event()
    prefix.disk._writer.submit(held.wait)
    prefix.store(draw(64, 1), tiny_caches(draw(64, 1)))
    prefix.flush()
    prefix.clear()
    prefix.store(draw(48, 2), tiny_caches(draw(48, 2)))
    held.set()
    prefix.close()
    again = on_disk(disk)
    assert again.find(draw(64, 1)).tokens == 0
    assert again.find([*draw(48, 2), 1]).tokens == 48
    assert again.disk is not None
    assert len(list(again.disk.folder.iterdir())) == 3
