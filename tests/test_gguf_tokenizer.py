"""The tokenizer of an imported model is that of the model's makers."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx_lm import load
from tokenizers import Tokenizer

from mlx_panel.hub.gguf import import_gguf
from mlx_panel.hub.gguf_file import read_gguf
from mlx_panel.hub.gguf_tokenizer import read_tokenizer

from .gguf_files import TEMPLATE, Sample

TEXTS = [
    "It's  2026-11-20!",
    "x=[i**2 for i in range(10)]\n\n\t #ok",
    "naïve cafe\u0301 – 東京 🙂",
    "<|im_start|>a<|im_end|>",
    "",
]


def imported(sample: Sample, folder: Path) -> Path:
    return Path(import_gguf(sample.write(folder / "tiny.gguf"), folder / "models").path)


@pytest.mark.parametrize("pre", ["smollm", "gpt-2", "llama-bpe", "qwen2"])
def test_tokenizer_is_that_of_the_makers(pre: str, tmp_path: Path):
    sample = Sample(pre=pre)
    ours = read_tokenizer(read_gguf(sample.write(tmp_path / "tiny.gguf")))

    @settings(max_examples=150, deadline=None)
    @given(st.text(st.sampled_from("aehst TY2069'\n\t.=*[]éï東🙂\u0301"), max_size=40))
    def check(text: str) -> None:
        assert ours.encode(text).ids == sample.tokenizer.encode(text).ids

    check()
    for text in TEXTS:
        ids = sample.tokenizer.encode(text).ids
        assert ours.encode(text).ids == ids
        assert ours.decode(ids, skip_special_tokens=False) == sample.tokenizer.decode(
            ids, skip_special_tokens=False
        )


def test_mlx_lm_opens_the_tokenizer_with_its_template(tmp_path: Path):
    sample = Sample()
    _, tokenizer = load(str(imported(sample, tmp_path)))
    for text in TEXTS:
        assert tokenizer.encode(text) == sample.tokenizer.encode(text).ids
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "2026"}], return_dict=False)
    assert sample.tokenizer.decode(ids, skip_special_tokens=False) == "<|im_start|>user\n2026<|im_end|>\n"
    assert tokenizer.chat_template == TEMPLATE


def test_bos_is_added_where_the_file_says_so(tmp_path: Path):
    sample = Sample(metadata={"tokenizer.ggml.add_bos_token": True})
    tokenizer = Tokenizer.from_file(str(imported(sample, tmp_path) / "tokenizer.json"))
    assert tokenizer.encode("a").ids[0] == 1
    assert tokenizer.encode("a", add_special_tokens=False).ids[0] != 1


PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
PIECES += ["▁", "a", "b", "c", "ab", "bc", "▁a", "▁ab", "abc", "ca", "aa", "▁▁"]
SCORES = [0.0] * 259 + [-20.0, -21.0, -22.0, -23.0, -3.0, -2.0, -5.0, -4.0, -1.0, -6.0, -7.0, -8.0]
SENTENCEPIECE = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.tokens": PIECES,
    "tokenizer.ggml.scores": SCORES,
    "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * 12,
    "tokenizer.ggml.merges": None,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.add_bos_token": None,
}


def sentencepiece_ids(text: str) -> list[int]:
    """SentencePiece's own rule: join the neighbours whose union scores best, the leftmost of equals."""
    pieces = list("▁" + text.replace(" ", "▁")) if text else []
    while True:
        unions = [
            (SCORES[PIECES.index(a + b)], -i)
            for i, (a, b) in enumerate(itertools.pairwise(pieces))
            if a + b in PIECES
        ]
        if not unions:
            break
        at = -max(unions)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    known = [[PIECES.index(p)] if p in PIECES else [3 + byte for byte in p.encode()] for p in pieces]
    return [1] + [id for ids in known for id in ids]


def test_sentencepiece_vocabulary(tmp_path: Path):
    file = Sample(metadata=SENTENCEPIECE).write(tmp_path / "tiny.gguf")
    tokenizer = read_tokenizer(read_gguf(file))

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.text(st.sampled_from("abc é"), max_size=12))
    def check(text: str) -> None:
        ids = tokenizer.encode(text).ids
        assert ids == sentencepiece_ids(text)
        assert tokenizer.decode(ids) == text

    check()
