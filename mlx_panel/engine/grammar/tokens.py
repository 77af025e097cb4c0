"""A tokenizer as llguidance is to see it: the bytes that this engine makes of each token, and nothing else.

llguidance can read a fast tokenizer's file itself. What counts here is the text that a client gets, so it is told the
pieces of `Vocabulary`, whatever kind of tokenizer they come from; that is also faster (0.1 s for 49,152 tokens, 0.3 s).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llguidance import LLTokenizer

from ...errors import UnsupportedParameter
from ..detokenize import Vocabulary


class Tokens:
    """What `LLTokenizer` asks of a tokenizer: `tokens` are their bytes, special ones have their name."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Any, eos: int):
        self.eos_token_id = eos
        self._vocabulary = Vocabulary(tokenizer)
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        size, special = self._vocabulary.size, self._vocabulary.special
        self.special_token_ids = sorted(token for token in special if token < size)
        self.tokens = list(map(self._vocabulary.piece, range(size)))
        for token in self.special_token_ids:
            self.tokens[token] = str(tokenizer.convert_ids_to_tokens(token)).encode()
        self._by_bytes: dict[bytes, int] = {}

    def __repr__(self) -> str:
        return f"<Tokens {self._vocabulary!r}>"

    def __call__(self, text: str) -> list[int]:
        """The usual tokens of a text that is forced; exactly its bytes, or llguidance would force something else.

        What a tokenizer adds or rewrites (a space in front, a marker for a special token) makes its tokens unusable;
        then each is the longest that fits.
        """
        wanted = text.encode()
        ids = self._encoded(text)
        if b"".join(map(self._vocabulary.piece, ids)) == wanted:
            return ids
        return self._longest(wanted)

    def _encoded(self, text: str) -> list[int]:
        if self._backend is not None:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _longest(self, wanted: bytes) -> list[int]:
        if not self._by_bytes:
            special = self._vocabulary.special
            self._by_bytes = {
                piece: token for token, piece in enumerate(self.tokens) if piece and token not in special
            }
        most = max(map(len, self._by_bytes), default=0)
        ids, start = [], 0
        while start < len(wanted):
            ends = range(min(len(wanted), start + most), start, -1)
            end = next((end for end in ends if wanted[start:end] in self._by_bytes), None)
            if end is None:
                # A byte that no token says: nothing is forced from here on.
                break
            ids.append(self._by_bytes[wanted[start:end]])
            start = end
        return ids


def tokenizer(made: Any, vocabulary: int, eos: Sequence[int]) -> LLTokenizer:
    """For mlx-lm's wrapper `made` around a tokenizer, and logits over so many tokens of which `eos` end an answer.

    Raises UnsupportedParameter for a model without an end: nothing could tell that its answer is complete.
    """
    if not eos:
        raise UnsupportedParameter(
            "This model has no end of sequence, so its answers cannot be held to a form."
        )
    tokens = Tokens(made, eos[0])
    return LLTokenizer(
        tokens,  # type: ignore[arg-type]
        n_vocab=max(vocabulary, len(tokens.tokens), max(eos) + 1),
        eos_token=list(eos),
    )
