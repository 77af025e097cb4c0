"""Token ids to text, piece by piece, exactly: nothing is stripped, cleaned or rewritten.

A `Vocabulary` is built once per model; each request gets a decoder of its own from it. A token is a piece of a byte
string, not of a text: one emoji may be four tokens. Bytes are held until they are a whole character, and become
U+FFFD only when they cannot become one any more.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

_SPACE = "\u2581"
_PLAIN_SPM = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
_HELD_TOKENS = 8
NOTHING: Mapping[int, str] = MappingProxyType({})


class Detokenizer(Protocol):
    """Incremental: `add` one token id and get the text that became certain, `flush` for the rest."""

    def add(self, token: int) -> str: ...

    def flush(self) -> str: ...


class TableDetokenizer:
    """Looks each token's bytes up. Ids beyond the table (a padded vocabulary) and special tokens have no text."""

    def __init__(self, table: list[bytes], shown: Mapping[int, str] = NOTHING):
        self._table = table
        self._shown = shown
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        if token in self._shown:
            # What it interrupts can become no character any more.
            return self.flush() + self._shown[token]
        return self._utf8.decode(self._table[token]) if token < len(self._table) else ""

    def flush(self) -> str:
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text


class WindowDetokenizer:
    """For tokenizers with a decoder of their own: decodes a window of tokens and takes what was added.

    Slower, and correct as long as the decoder needs no more than the previous window to place a space.
    """

    def __init__(
        self, tokenizer: Any, special: frozenset[int], size: int, shown: Mapping[int, str] = NOTHING
    ):
        self._tokenizer, self._special, self._size, self._shown = tokenizer, special, size, shown
        self._before: list[int] = []
        self._new: list[int] = []

    def add(self, token: int) -> str:
        if token in self._shown:
            return self.flush() + self._shown[token]
        if token in self._special or token >= self._size:
            return ""
        self._new.append(token)
        return self._take(final=False)

    def flush(self) -> str:
        return self._take(final=True) if self._new else ""

    def _take(self, final: bool) -> str:
        before = self._decode(self._before) if self._before else ""
        text = self._decode(self._before + self._new)[len(before) :]
        # A trailing U+FFFD is mostly a character still to be completed, but a model may also write one.
        if not final and text.endswith("\ufffd") and len(self._new) < _HELD_TOKENS:
            return ""
        self._before, self._new = self._new, []
        return text

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


class Vocabulary:
    """What the ids of one tokenizer mean. Build once per model: it walks the whole vocabulary.

    `kind` is "byte-level", "sentencepiece" or "window" (any other decoder; slower).
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        vocab = self._ids = tokenizer.get_vocab()
        self.size = max(vocab.values(), default=-1) + 1
        self.special = special_ids(tokenizer)
        self.kind = _kind(tokenizer)
        self._table = [] if self.kind == "window" else self._build(vocab)

    def __repr__(self) -> str:
        return f"<Vocabulary {self.kind}, {self.size} tokens, {len(self.special)} special>"

    def detokenizer(self, shown: Mapping[int, str] = NOTHING) -> Detokenizer:
        """One answer's decoder. `shown` are special tokens that have a text nevertheless: marks of tool calls."""
        if self.kind == "window":
            return WindowDetokenizer(self._tokenizer, self.special, self.size, shown)
        return TableDetokenizer(self._table, shown)

    def marks(self, texts: Iterable[str]) -> dict[str, int]:
        """Those of the texts that are one special token each, and which."""
        ids = {text: self._ids.get(text, -1) for text in texts}
        return {text: number for text, number in ids.items() if number in self.special}

    def piece(self, token: int) -> bytes:
        """A token's own bytes; special tokens and ids beyond the vocabulary have none."""
        if self._table:
            return self._table[token] if token < len(self._table) else b""
        if token in self.special or token >= self.size:
            return b""
        return str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False)).encode()

    def _build(self, vocab: dict[str, int]) -> list[bytes]:
        to_bytes = byte_level() if self.kind == "byte-level" else _sentencepiece
        table = [b""] * self.size
        for token, number in vocab.items():
            table[number] = to_bytes(token)
        for number, added in _added(self._tokenizer):
            # Their content is plain text, but for the space marker: Gemma adds runs of spaces in this way.
            text = str(added)
            table[number] = (text.replace(_SPACE, " ") if self.kind == "sentencepiece" else text).encode()
        for number in self.special:
            table[number : number + 1] = [b""] if number < self.size else []
        return table


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids whose text never reaches a client: BOS, EOS and their kind, and added tokens marked special."""
    marked = (number for number, added in _added(tokenizer) if getattr(added, "special", False))
    return frozenset(tokenizer.all_special_ids) | frozenset(marked)


def _added(tokenizer: Any) -> Iterable[tuple[int, Any]]:
    return getattr(tokenizer, "added_tokens_decoder", {}).items()


def _kind(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    if decoder is None:
        return "window"
    parts = _parts(json.loads(decoder.__getstate__()))
    types = {part["type"] for part in parts}
    if types == {"ByteLevel"}:
        return "byte-level"
    plain = types <= _PLAIN_SPM and types & {"Replace", "Metaspace"}
    return "sentencepiece" if plain and all(map(_is_space_rule, parts)) else "window"


def _parts(decoder: dict) -> list[dict]:
    if decoder["type"] != "Sequence":
        return [decoder]
    return [part for inner in decoder["decoders"] for part in _parts(inner)]


def _is_space_rule(part: dict) -> bool:
    """Whether a SentencePiece decoder's part does no more than turn the marker into a space."""
    if part["type"] == "Replace":
        return part["pattern"] == {"String": _SPACE} and part["content"] == " "
    if part["type"] == "Strip":
        return part["content"] == " " and part["stop"] == 0
    return part.get("replacement", _SPACE) == _SPACE


def byte_level() -> Any:
    """GPT-2's alphabet: every byte has a printable character. A token outside it is its own text."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    byte_of = {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}

    def to_bytes(token: str) -> bytes:
        try:
            return bytes(map(byte_of.__getitem__, token))
        except KeyError:
            return token.encode()

    return to_bytes


def _sentencepiece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    return token.replace(_SPACE, " ").encode()
