"""Texts to token ids, by the folder's own tokenizer, cut to the model's limit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Encoding, Tokenizer

# Characters of a text that are looked at first, for each token of the limit; a token has about four.
CHARACTERS = 16


class Tokens(NamedTuple):
    """A text's token ids, special ones included and cut to the limit; the text has `whole` of them, at least."""

    ids: list[int]
    whole: int


class Texts:
    """The tokenizer of a folder. `prompt` stands before every text; `limit` counts all tokens of one."""

    def __init__(self, folder: Path, limit: int, prompt: str = ""):
        self.prompt = prompt
        self._tokenizer = _tokenizer(folder)
        self._tokenizer.no_padding()
        self.cut(limit)
        self._special = self._tokenizer.num_special_tokens_to_add(False)
        # Without one a text is a single word, which cannot be cut.
        self._has_words = self._tokenizer.pre_tokenizer is not None

    def __repr__(self) -> str:
        return f"<Texts of {self._tokenizer.get_vocab_size()} tokens, limit {self.limit}>"

    def cut(self, limit: int) -> None:
        """Another limit."""
        self.limit = limit
        self._tokenizer.enable_truncation(limit)

    def encode(self, texts: Sequence[str]) -> list[Tokens]:
        """The tokens of several texts. Of a very long one only the beginning is looked at, if that reaches the limit."""
        whole = [self.prompt + text for text in texts]
        found = [
            self._tokens(one) for one in self._tokenizer.encode_batch_fast([*map(self._beginning, whole)])
        ]
        for number, text in enumerate(whole):
            if found[number].whole <= self.limit and len(self._beginning(text)) < len(text):
                found[number] = self._tokens(self._tokenizer.encode_batch_fast([text])[0])
        return found

    def _beginning(self, text: str) -> str:
        """The text up to a space between words, if it is so long that it is likely over the limit."""
        end = CHARACTERS * self.limit
        if len(text) <= end or not self._has_words:
            return text
        space = text.rfind(" ", 0, end)
        return text[:space] if space > 0 and text[space - 1].isalnum() else text

    def _tokens(self, encoding: Encoding) -> Tokens:
        more = sum(len(part.ids) - self._special for part in encoding.overflowing)
        return Tokens(encoding.ids, len(encoding.ids) + more)


def _tokenizer(folder: Path) -> Tokenizer:
    """The folder's `tokenizer.json`; folders of older tools have only what transformers makes one of."""
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    from transformers import AutoTokenizer

    made: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    return made.backend_tokenizer
