"""Text in pieces: stop strings, and token ids to text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import load as load_tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from mlx_panel.engine.detokenize import Detokenizer, Vocabulary
from mlx_panel.parse.stops import StopStrings

from .models import tokenizer as write_tokenizer

FEW = st.text("ab\n", max_size=12)


def stream(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    parser, out = StopStrings(stops), ""
    for piece in pieces:
        text, stopped = parser.feed(piece)
        out += text
        if stopped:
            return out, True
    text, stopped = parser.flush()
    return out + text, stopped


@given(st.lists(st.text("ab\n", max_size=4), max_size=4), st.lists(FEW, max_size=8))
def test_stops_equal_the_naive_cut(stops: list[str], pieces: list[str]) -> None:
    whole = "".join(pieces)
    places = [whole.find(stop) for stop in stops if stop and stop in whole]
    assert stream(stops, pieces) == (whole[: min(places)] if places else whole, bool(places))


def test_stops_hold_back_only_what_could_still_stop() -> None:
    parser = StopStrings(["</end>"])
    assert parser.feed("a < b </e") == ("a < b ", False)
    assert parser.feed("m> c") == ("</em> c", False)
    assert parser.feed("</end> rest") == ("", True)
    assert parser.feed("more") == ("", True)


def test_an_earlier_longer_stop_wins_over_a_complete_shorter_one() -> None:
    assert stream(["abcd", "c"], list("xabcd")) == ("x", True)
    assert stream(["abcd", "c"], list("xabce")) == ("xab", True)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("bpe")
    write_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def table(bpe) -> Vocabulary:
    return Vocabulary(bpe)


def say(detokenizer: Detokenizer, ids: list[int]) -> str:
    return "".join(map(detokenizer.add, ids)) + detokenizer.flush()


def whole(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@given(ids=st.lists(st.integers(0, 390), max_size=40))
def test_any_tokens_decode_as_all_at_once(bpe, table: Vocabulary, ids: list[int]) -> None:
    assert say(table.detokenizer(), ids) == whole(bpe, ids)


@given(text=st.text(max_size=30) | st.text("😀👩‍é \n<|im_end>", max_size=30))
def test_any_text_survives(bpe, table: Vocabulary, text: str) -> None:
    ids = bpe.encode(text, add_special_tokens=False)
    # Only a text that spells a special token loses it.
    assert say(table.detokenizer(), ids) == whole(bpe, ids)
    assert any(id in table.special for id in ids) or whole(bpe, ids) == text


def test_no_character_leaves_in_pieces(bpe, table: Vocabulary) -> None:
    detokenizer = table.detokenizer()
    pieces = [detokenizer.add(id) for id in bpe.encode(" 🦜", add_special_tokens=False)]
    assert len(pieces) > 2
    assert [piece for piece in pieces if piece] == [" ", "🦜"]


def test_special_tokens_go_by_id_and_their_spelling_stays(bpe, table: Vocabulary) -> None:
    end, think = bpe.convert_tokens_to_ids(["<|im_end|>", "<think>"])
    spelled = [id for char in "<|im_end|>" for id in bpe.encode(char, add_special_tokens=False)]
    assert say(table.detokenizer(), [think, end, *spelled, 10**6]) == "<think><|im_end|>"


PIECES = [
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{byte:02X}>" for byte in range(256)),
    "▁Hel",
    "lo",
    "▁",
    "▁▁x",
    "\n",
    "▁wörld",
]


def sentencepiece(decoder) -> PreTrainedTokenizerFast:
    made = Tokenizer(models.BPE({piece: id for id, piece in enumerate(PIECES)}, [], byte_fallback=True))
    made.decoder = decoder
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


LLAMA = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]


def test_sentencepiece_keeps_the_first_space() -> None:
    vocabulary = Vocabulary(sentencepiece(decoders.Sequence(LLAMA)))
    ids = [
        PIECES.index(piece)
        for piece in ("<s>", "▁Hel", "lo", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "▁▁x", "</s>")
    ]
    assert vocabulary.kind == "sentencepiece"
    assert say(vocabulary.detokenizer(), ids) == " Hello😀  x"


@given(
    ids=st.lists(st.sampled_from([id for id in range(3, len(PIECES)) if not 131 <= id < 259]), max_size=20)
)
def test_an_unknown_decoder_is_asked_in_windows(ids: list[int]) -> None:
    tokenizer = sentencepiece(decoders.Sequence([*LLAMA[:3], decoders.Replace("x", "y")]))
    vocabulary = Vocabulary(tokenizer)
    assert vocabulary.kind == "window"
    assert say(vocabulary.detokenizer(), ids) == whole(tokenizer, ids)
