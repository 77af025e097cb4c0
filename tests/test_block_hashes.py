"""Keyed hashes of prompts' blocks, and the made-up prompts that share their beginnings as those did."""

from __future__ import annotations

import hashlib
import itertools
import secrets
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from mlx_panel.audit.replay_key import replay_key
from mlx_panel.bench.mimic import Mimic, Vocabulary, hashes
from mlx_panel.engine.block_hashes import BLOCK_TOKENS, HASH_BYTES, PURPOSE, block_hashes
from mlx_panel.inquiry import Past

from .models import tokenizer as tiny_tokenizer

KEY = bytes(range(32))
BLOCK = 4
# Few token ids and short pieces, so that prompts often begin alike and go on differently.
prompts = st.lists(st.lists(st.integers(0, 2), max_size=14), min_size=2, max_size=6)
keys = st.binary(min_size=16, max_size=32)
ids = st.lists(st.integers(0, 2**32 - 1), max_size=100)


def split(found: bytes) -> list[bytes]:
    return [found[at : at + HASH_BYTES] for at in range(0, len(found), HASH_BYTES)]


def common(one: list, other: list) -> int:
    """How many first elements are the same."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


# --- the hashes ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(ids, keys)
def test_each_hash_is_that_of_the_one_before_and_its_block(tokens: list[int], key: bytes) -> None:
    wanted, before = [], b""
    for at in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        content = b"".join(token.to_bytes(4, "little") for token in tokens[at : at + BLOCK_TOKENS])
        before = hashlib.blake2b(before + content, key=key, digest_size=8, person=PURPOSE).digest()
        wanted.append(before)
    assert split(block_hashes(tokens, key)) == wanted


@settings(deadline=None)
@given(prompts, keys)
def test_prompts_share_as_many_hashes_as_whole_blocks(asked: list[list[int]], key: bytes) -> None:
    for one, other in itertools.combinations(asked, 2):
        whole = min(common(one, other), len(one), len(other)) // BLOCK
        found = [split(block_hashes(tokens, key, block=BLOCK)) for tokens in (one, other)]
        assert common(*found) == whole
        # What differs once differs ever after, also where the tokens are the same again.
        assert not set(found[0][whole:]) & set(found[1][whole:])


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=BLOCK, max_size=40), keys, keys)
def test_other_keys_give_unlike_hashes(tokens: list[int], key: bytes, other: bytes) -> None:
    mine, theirs = (set(split(block_hashes(tokens, one, block=BLOCK))) for one in (key, other))
    assert (key == other) == bool(mine & theirs)


def test_without_a_key_nothing_is_hashed() -> None:
    assert block_hashes(range(100), b"") == b""
    assert block_hashes(range(BLOCK_TOKENS - 1), KEY) == b""
    assert len(block_hashes(range(100), KEY)) == 3 * HASH_BYTES


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    key = replay_key(tmp_path)
    file = tmp_path / "replay.key"
    assert (len(key), file.stat().st_mode & 0o777) == (32, 0o600)
    assert replay_key(tmp_path) == key == file.read_bytes()
    file.unlink()
    assert replay_key(tmp_path) != key
    file.write_bytes(b"short")
    assert len(replay_key(tmp_path)) == 32


# --- prompts of them ---------------------------------------------------------------------------------------------


def past(tokens: list[int], block: int = BLOCK) -> Past:
    found = block_hashes(tokens, KEY, block=block)
    return Past(0.0, "m", len(tokens), 1, block_tokens=block, blocks=found.hex())


@settings(deadline=None)
@given(prompts)
def test_made_up_prompts_begin_alike_for_exactly_as_long(asked: list[list[int]]) -> None:
    """Where two prompts had k whole blocks in common, theirs have k blocks in common and not a word more."""
    asked = [one for one in asked if one]
    mimic = Mimic(Vocabulary(), "salt")
    made = [mimic.numbers(past(tokens)) for tokens in asked]
    assert [len(one) for one in made] == [len(one) for one in asked]
    for (one, new), (other, again) in itertools.combinations(zip(asked, made, strict=True), 2):
        whole = common(one, other) // BLOCK * BLOCK
        if len(one) == len(other) == whole:
            assert new == again
        else:
            assert common(new, again) == whole


@settings(deadline=None)
@given(prompts)
def test_what_the_cache_gave_then_says_how_prompts_go_on(asked: list[list[int]]) -> None:
    """With what came from a cache then, prompts are alike to the token: within blocks, and to their ends."""
    asked = [one for one in asked if one]
    mimic, made, longest = Mimic(Vocabulary(), "salt"), [], []
    for place, tokens in enumerate(asked):
        shared = max((common(tokens, before) for before in asked[:place]), default=0)
        made.append(mimic.numbers(msgspec.structs.replace(past(tokens), cached_tokens=shared)))
        longest.append(shared)
    for place, new in enumerate(made):
        shared = max((common(new, before) for before in made[:place]), default=0)
        assert longest[place] <= shared <= longest[place] + 2  # a word more or two may be chance


def test_the_same_salt_gives_the_same_prompts_and_another_gives_others() -> None:
    asked = [past(list(range(10))), past(list(range(8)))]
    first, again, other = (
        [Mimic(Vocabulary(), salt).prompt(one) for one in asked] for salt in ("a", "a", "b")
    )
    assert first == again
    assert not set(first) & set(other)


def test_what_a_log_holds_in_excess_does_no_harm() -> None:
    one = Past(0.0, "m", 10, 1, block_tokens=4, blocks="ab" * 8 * 5)  # more hashes than its prompt has blocks
    assert len(hashes(one)) == 2
    assert len(Mimic(Vocabulary()).numbers(one)) == 10
    assert hashes(Past(0.0, "m", 10, 1, blocks="ab" * 8)) == []


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 64, 300])
def test_prompts_have_as_many_tokens_as_then(tmp_path: Path, length: int) -> None:
    tiny_tokenizer(tmp_path)
    byte_level = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for tokenizer, special in ((byte_level, 0), (with_bos(), 1)):
        vocabulary = Vocabulary(tokenizer)
        assert (vocabulary.exact, vocabulary.special) == (True, special)
        mimic = Mimic(vocabulary, "salt")
        tokens = list(range(length))
        text = mimic.prompt(past(tokens, BLOCK_TOKENS))
        if length > special:
            assert len(tokenizer.encode(text).ids) == length
        longer = mimic.prompt(past([*tokens, *range(50)], BLOCK_TOKENS))
        shared = common(tokenizer.encode(text).ids, tokenizer.encode(longer).ids)
        assert shared == max(special, length // BLOCK_TOKENS * BLOCK_TOKENS)


def with_bos() -> Tokenizer:
    """A tokenizer of the kind of Llama 2: spaces are letters, and a mark comes before every text."""
    words = ["<s>", "<unk>", *(f"▁{word.strip()}" for word in Vocabulary().words)]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    made.normalizer = normalizers.Prepend("▁")
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return made


def test_a_tokenizer_without_words_is_taken_as_it_is() -> None:
    letters = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1}, "<unk>"))
    vocabulary = Vocabulary(letters)
    assert not vocabulary.exact
    prompt = Mimic(vocabulary, secrets.token_hex(4)).prompt(past(list(range(40))))
    assert len(prompt.split()) == 40
