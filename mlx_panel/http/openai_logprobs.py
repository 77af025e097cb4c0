"""Log-probabilities in OpenAI's two forms: a chat's list of objects, and the four lists of text completions."""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from ..messages import Echo, Text, TokenLogprob

LEAST = -9999.0  # the API's number for a token that is all but impossible


def chat_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    """`choice.logprobs` of a chat. A token that is no whole UTF-8 shows U+FFFD for its bytes, which stand beside it."""
    return {
        "content": [_token(one) | {"top_logprobs": [*map(_token, one.top)]} for one in logprobs],
        "refusal": None,
    }


def _token(one: TokenLogprob) -> dict[str, Any]:
    return {"token": one.piece.decode(errors="replace"), "logprob": _number(one), "bytes": list(one.piece)}


def _number(one: TokenLogprob) -> float | None:
    return None if one.logprob is None else max(one.logprob, LEAST)


class TextLogprobs:
    """`choice.logprobs` of one choice of a text completion, piece by piece.

    `text_offset` counts characters of the choice's `text` before a token's first byte; it is anchored anew at each
    piece, so that a token whose text was never told moves no other.
    """

    def __init__(self) -> None:
        self._said = 0

    def __repr__(self) -> str:
        return f"<TextLogprobs {self._said} characters>"

    def add(self, piece: Text | Echo) -> dict[str, Any]:
        """The four lists for the tokens of the next piece."""
        start, self._said = self._said, self._said + len(piece.text)
        return {
            "tokens": [spelled(one.piece) for one in piece.logprobs],
            "token_logprobs": [_number(one) for one in piece.logprobs],
            "top_logprobs": [_likeliest(one) for one in piece.logprobs],
            "text_offset": [start + offset for offset in offsets(piece)],
        }

    def all(self, pieces: Sequence[Text | Echo]) -> dict[str, Any]:
        """The four lists for a whole answer."""
        parts = [self.add(piece) for piece in pieces]
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        return {name: [one for part in parts for one in part[name]] for name in names}


def spelled(piece: bytes) -> str:
    """A token as text; `bytes:` and its bytes in hexadecimal where it is no whole UTF-8."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _likeliest(one: TokenLogprob) -> dict[str, float | None] | None:
    """The alternatives and the token itself. Of two that are spelled alike the likelier one stands."""
    if one.logprob is None:
        return None
    found: dict[str, float | None] = {}
    for other in (*one.top, one):
        found.setdefault(spelled(other.piece), _number(other))
    return found


def offsets(piece: Text | Echo) -> list[int]:
    """Where each token begins in the piece's text, in characters. One that begins inside a character begins with it."""
    data = b"".join([one.piece for one in piece.logprobs])
    ends = _ends(data)
    decoded = data.decode(errors="replace")
    # A mark such as BOS is a token of the prompt, but none of its text; and the rest of a character that never came
    # whole is text here, of a token that was told before.
    ends_alike = decoded.endswith(piece.text) or piece.text.endswith(decoded)
    lead = len(decoded) - len(piece.text) if ends_alike else 0
    places, at = [], 0
    for one in piece.logprobs:
        places.append(min(max(0, bisect_right(ends, at) - lead), len(piece.text)))
        at += len(one.piece)
    return places


def _ends(data: bytes) -> Sequence[int]:
    """Where each character of the decoded bytes ends, in bytes; U+FFFD ends with what it stands for."""
    if data.isascii():
        return range(1, len(data) + 1)
    ends: list[int] = []
    view, at = memoryview(data), 0
    while at < len(data):
        try:
            text, _ = codecs.utf_8_decode(view[at:], "strict", True)
            stop = len(data)
        except UnicodeDecodeError as error:
            text, _ = codecs.utf_8_decode(view[at : at + error.start], "strict", True)
            stop = at + error.end
        sizes = accumulate((len(character.encode()) for character in text), initial=at)
        ends += list(sizes)[1:]
        if not ends or ends[-1] < stop:
            ends.append(stop)
        at = stop
    return ends
