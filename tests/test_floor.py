"""The fewest tokens of a text: never above the true number, and high enough to be of use."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mlx_panel.engine.floor import Floor

ALPHABET = pre_tokenizers.ByteLevel.alphabet()
TEXT = (
    st.text(max_size=60)
    | st.text("ab 1=\n", max_size=60)
    | st.text("e\u0301\u03b1\u0314\u0342\u0345\u212a\uff21\U0001d400\u1100\u1161\u11a8<\u0338 ", max_size=60)
    | st.text("▁ a\u3000é<|end|>", max_size=60)
    | st.lists(st.sampled_from(["<|end|>", "    ", "\n\u3000", "hello", "▁", "ab"])).map("".join)
)


def byte_level(normalizer=None, **added: bool) -> PreTrainedTokenizerFast:
    vocab = {letter: id for id, letter in enumerate(sorted(ALPHABET))}
    merges = [
        ("h", "e"),
        ("l", "l"),
        ("he", "ll"),
        ("hell", "o"),
        ("Ġ", "Ġ"),
        ("ĠĠ", "ĠĠ"),
        ("=", "="),
        ("1", "1"),
    ]
    vocab |= {"".join(pair): len(vocab) + n for n, pair in enumerate(merges)}
    made = Tokenizer(models.BPE(vocab, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.normalizer = normalizer
    made.add_tokens([AddedToken("<|end|>", special=True, **added)])
    return PreTrainedTokenizerFast(tokenizer_object=made)


def sentencepiece(normalizer=None, missing: str = "") -> PreTrainedTokenizerFast:
    pieces = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "a",
        "b",
        "é",
        "ab",
        "▁▁",
        "▁▁▁▁",
        "▁a",
    ]
    merges = [("a", "b"), ("▁", "▁"), ("▁▁", "▁▁"), ("▁", "a")]
    vocab = {piece: id for id, piece in enumerate(piece for piece in pieces if piece != missing)}
    made = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizer or normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


KNOWN = {
    "byte-level": byte_level(),
    "composing": byte_level(normalizers.NFC()),
    "folding": byte_level(normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
    "swallowing": byte_level(lstrip=True, rstrip=True),
    "sentencepiece": sentencepiece(),
}
UNKNOWN = {
    "stripping": byte_level(normalizers.Strip()),
    "replacing": byte_level(normalizers.Replace(Regex("a+"), "a")),
    "shrinking": sentencepiece(normalizers.Replace("ab", "")),
    "incomplete": sentencepiece(missing="<0x41>"),
}
FLOORS = {name: Floor(tokenizer) for name, tokenizer in (KNOWN | UNKNOWN).items()}


@pytest.mark.parametrize("name", KNOWN)
def test_the_floor_never_exceeds_the_true_number(name: str) -> None:
    @given(TEXT)
    def check(text: str) -> None:
        assert FLOORS[name](text) <= len(KNOWN[name].encode(text, add_special_tokens=False))

    check()


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_tokenizer_that_may_drop_text_has_no_floor(name: str) -> None:
    assert FLOORS[name]("hello " * 1000) == 0
    assert repr(FLOORS[name]) == "<Floor unknown>"


@pytest.mark.parametrize(
    ("name", "text", "fewest"),
    [
        ("byte-level", "hello" * 100, 100),
        ("byte-level", "11" * 100, 100),
        # Seven bytes of the longest token, which is the added one.
        ("byte-level", " " * 700, 100),
        ("composing", "hello" * 100, 100),
        ("composing", "hello" * 100 + "é", 100),
        ("composing", "é" * 1400, 100),
        ("swallowing", "<|end|>" + " " * 700, 1),
        ("swallowing", "hello " * 100, 100),
        ("sentencepiece", "ab" * 100, 67),
        ("sentencepiece", "é" * 100, 100),
    ],
)
def test_the_floor_is_the_text_in_its_longest_tokens(name: str, text: str, fewest: int) -> None:
    assert FLOORS[name](text) == fewest
    assert len(KNOWN[name].encode(text, add_special_tokens=False)) >= fewest


def test_twelve_megabytes_are_quick_and_a_lone_surrogate_is_no_text() -> None:
    text = "hello, 1 = é\n" * 920_000
    for name in KNOWN:
        started = time.perf_counter()
        assert FLOORS[name](text) > 700_000
        assert time.perf_counter() - started < 1
    for floor in (FLOORS["byte-level"], FLOORS["stripping"]):
        with pytest.raises(UnicodeEncodeError):
            floor("\ud800")
