"""The fewest tokens a text can have, found without encoding it.

Encoding runs at one or two megabytes a second in the worker's thread, while every other request waits. A prompt that
cannot fit is recognised here in milliseconds: what a text holds of some kind of character, divided by the most that
a token of the vocabulary holds of it, is a number of tokens the text cannot do without.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable
from typing import Any

from .detokenize import byte_level

_SPACE = "\u2581"
# Runs of spaces or of dashes make tokens so long that bytes alone say little; letters and digits come in short ones.
_KINDS = {
    "bytes": bytes(range(256)),
    "letters": string.ascii_letters.encode(),
    "digits": string.digits.encode(),
    "signs": string.punctuation.encode(),
    "others": bytes(range(128, 256)),
}
_DELETED = [bytes(set(range(256)) - set(kept)) for kept in _KINDS.values()]
_KEEP_ALL = {"ByteLevel", "Metaspace", "Digits", "Split", "Punctuation", "UnicodeScripts"}
_REWRITE = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase"}
# What these leave of a text is at least a quarter of its bytes: 𝐀 and A, or ΐ and its four parts.
_SHRINK = 4


class Floor:
    """Called with a text, gives a number of tokens that its encoding never falls below.

    It is 0 for a tokenizer that may drop parts of a text, or merge them, in ways that are not known here. Build once
    per model: it walks the vocabulary.
    """

    def __init__(self, tokenizer: Any):
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        vocab = tokenizer.get_vocab()
        self._known = backend is not None and _keeps_all(backend, vocab)
        if self._known:
            added = getattr(tokenizer, "added_tokens_decoder", {}).values()
            self._rewrites = any(part["type"] in _REWRITE for part in _parts(backend.normalizer))
            self._swallows = any(token.lstrip or token.rstrip for token in added)
            self._most = _most(_spellings(vocab, map(str, added), _is_byte_level(backend)))

    def __repr__(self) -> str:
        most = dict(zip(_KINDS, self._most, strict=True)) if self._known else "unknown"
        return f"<Floor {most}>"

    def __call__(self, text: str) -> int:
        """Raises UnicodeEncodeError for a text with a lone surrogate, which no tokenizer takes."""
        if not self._known:
            text.encode()
            return 0
        if self._swallows:
            # An added token may take the space around it along, however much there is.
            text = "".join(text.split())
        held = _held(text.replace(_SPACE, " ").encode())
        if self._rewrites and not text.isascii():
            held = _after_rewriting(held, len(text))
        return max(-(-count // most) for count, most in zip(held, self._most, strict=True))


def _held(data: bytes) -> list[int]:
    """How many bytes of each kind."""
    return [len(data.translate(None, deleted)) for deleted in _DELETED]


def _after_rewriting(held: list[int], characters: int) -> list[int]:
    """The least that can be left: a character outside ASCII may become one of ASCII, or take one into itself."""
    size, letters, digits, signs, others = held
    outside = characters - (size - others)
    return [
        size // _SHRINK,
        max(letters - outside, 0),
        max(digits - outside, 0),
        max(signs - outside, 0),
        0,
    ]


def _most(tokens: Iterable[bytes]) -> list[int]:
    """The most bytes of each kind in one token, at least 1."""
    longest_first = sorted(set(tokens), key=len, reverse=True)
    return [_most_of(deleted, longest_first) for deleted in _DELETED]


def _most_of(deleted: bytes, longest_first: list[bytes]) -> int:
    most = 1
    for token in longest_first:
        if len(token) <= most:
            break
        most = max(most, len(token.translate(None, deleted)))
    return most


def _spellings(vocab: dict[str, int], added: Iterable[str], bytes_as_letters: bool) -> Iterable[bytes]:
    to_bytes = byte_level() if bytes_as_letters else str.encode
    yield from (to_bytes(token.replace(_SPACE, " ")) for token in vocab)
    yield from (token.replace(_SPACE, " ").encode() for token in added)


def _keeps_all(backend: Any, vocab: dict[str, int]) -> bool:
    """Whether every byte of a text, once normalised, is in one of its tokens, and its normaliser is a known one."""
    model = backend.model
    plain = type(model).__name__ == "BPE" and not (
        model.continuing_subword_prefix or model.end_of_word_suffix
    )
    whole = _has_all_bytes(vocab, _is_byte_level(backend), plain and model.byte_fallback)
    splits = all(map(_splits_only, _parts(backend.pre_tokenizer)))
    return plain and whole and splits and all(map(_is_known, _parts(backend.normalizer)))


def _is_byte_level(backend: Any) -> bool:
    return any(part["type"] == "ByteLevel" for part in _parts(backend.pre_tokenizer))


def _has_all_bytes(vocab: dict[str, int], bytes_as_letters: bool, fallback: bool) -> bool:
    """Whether no character is unknown to the vocabulary: unknown ones may be dropped, or fused into one token."""
    if bytes_as_letters:
        to_bytes = byte_level()
        return len({to_bytes(token) for token in vocab if len(token) == 1}) == 256
    return fallback and all(f"<0x{byte:02X}>" in vocab for byte in range(256))


def _splits_only(part: dict) -> bool:
    return part["type"] in _KEEP_ALL and part.get("behavior") != "Removed"


def _is_known(part: dict) -> bool:
    if part["type"] == "Replace":
        return part["pattern"] == {"String": " "} and part["content"] != ""
    return part["type"] in _REWRITE | {"Prepend"}


def _parts(step: Any) -> list[dict]:
    """The parts of a normaliser or pre-tokeniser of the `tokenizers` library, sequences flattened."""
    return [] if step is None else _flat(json.loads(step.__getstate__()))


def _flat(state: dict) -> list[dict]:
    inner = state.get("normalizers", state.get("pretokenizers"))
    return [state] if inner is None else [part for one in inner for part in _flat(one)]
