"""Values as models write them, turned into JSON while they come.

Valid JSON stays as it is, to the byte. What only looks like it is put right: Python's quotes, words and tuples, line
breaks and unknown escapes in strings, a comma before a closing bracket.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from .source import Broken, Put, Source, Steps

# Deeper values are none: whoever reads them after us may recurse.
DEEPEST = 100

_PLAIN = re.compile(r"""[^"'\\\x00-\x1f]+""")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")
_KEY = re.compile(r"[\w.$-]+")
_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_CLOSING = {"{": "}", "[": "]", "(": ")"}
_HEX = frozenset("0123456789abcdefABCDEF")


class Syntax(NamedTuple):
    """How values are written. Strings stand in `quotes`; with `raw` they hold no escapes, and keys and strings may stand
    without quotes; `atom` are the characters of numbers and words, `triple` allows Python's long strings."""

    quotes: tuple[str, ...] = ('"', "'")
    raw: bool = False
    triple: bool = False
    atom: re.Pattern[str] = re.compile(r"[\w.+-]+")


JSON = Syntax()
PYTHON = Syntax(triple=True)


def quoted(text: str) -> str:
    """`text` as a JSON string."""
    return json.dumps(text, ensure_ascii=False)


def escaped(text: str) -> str:
    """`text` as it stands inside a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def settle(text: str, syntax: Syntax = JSON) -> str | None:
    """`text`, which is one whole value, as JSON; None where it is none."""
    source, parts = Source(text, ended=True), list[str]()
    try:
        for _ in source.space():
            pass
        for _ in Copy(source, syntax, parts.append).value():
            pass
        for _ in source.space():
            pass
    except Broken:
        return None
    return None if source.unread() else "".join(parts)


def unpacked(text: str) -> dict[str, Any]:
    """The arguments of a past call, by their JSON. Text that is no JSON object stands under the name "arguments"."""
    value = json.loads(settle(text or "{}") or "null")
    return value if isinstance(value, dict) else {"arguments": text}


def arguments(source: Source, put: Put, syntax: Syntax = JSON) -> Steps[None]:
    """Hands on the JSON object that comes; one written as a string is unpacked, null is an empty one. Raises Broken."""
    yield from source.space()
    if (yield from source.peek()) == "{":
        yield from Copy(source, syntax, put).value()
        return
    parts: list[str] = []
    yield from Copy(source, syntax, parts.append).value()
    value = json.loads("".join(parts))
    text = settle(value) if isinstance(value, str) else "{}" if value is None else None
    if text is None or not text.startswith("{"):
        raise Broken
    put(text)


class Copy:
    """Reads one value from a source and hands on its JSON as it comes."""

    def __init__(self, source: Source, syntax: Syntax, put: Put):
        self._source = source
        self._syntax = syntax
        self._put = put
        self._open: list[str] = []

    def value(self) -> Steps[None]:
        """Raises Broken where no value comes. White space before it is not taken."""
        while True:
            char = yield from self._source.peek()
            if char in _CLOSING and (char != "(" or self._syntax.triple):
                more = yield from self._enter(char)
            else:
                yield from self._scalar()
                more = yield from self._next()
            if not more:
                return

    def _enter(self, char: str) -> Steps[bool]:
        """An opening bracket. Returns whether a value has to follow."""
        if len(self._open) == DEEPEST:
            raise Broken
        self._source.take(1)
        self._open.append(_CLOSING[char])
        self._put("{" if char == "{" else "[")
        self._put((yield from self._source.space()))
        if (yield from self._source.peek()) == self._open[-1]:
            return (yield from self._next())
        if char == "{":
            yield from self._key()
        return True

    def _next(self) -> Steps[bool]:
        """What follows a value. Returns whether another one has to."""
        source = self._source
        while self._open:
            space = yield from source.space()
            comma = yield from source.skip(",")
            if comma:
                space += yield from source.space()
            char = yield from source.peek()
            if char and char == self._open[-1]:
                self._put(space)
                self._put("}" if char == "}" else "]")
                source.take(1)
                self._open.pop()
                continue
            if not comma:
                raise Broken
            self._put("," + space)
            if self._open[-1] == "}":
                yield from self._key()
            return True
        return False

    def _key(self) -> Steps[None]:
        source = self._source
        quote = yield from source.skip(*self._syntax.quotes)
        if quote:
            yield from self._string(quote)
        elif self._syntax.raw:
            self._put(quoted((yield from source.word(_KEY))))
        else:
            raise Broken
        self._put((yield from source.space()))
        self._put((yield from source.expect(":")))
        self._put((yield from source.space()))

    def _scalar(self) -> Steps[None]:
        source = self._source
        quote = yield from source.skip(*self._syntax.quotes)
        if quote:
            yield from self._string(quote)
        else:
            self._put(self._atom((yield from source.word(self._syntax.atom))))

    def _atom(self, word: str) -> str:
        if self._syntax.raw:
            word = word.strip()
        if word in _WORDS:
            return _WORDS[word]
        if _NUMBER.fullmatch(word):
            return word
        if self._syntax.raw:
            return quoted(word)
        return number(word)

    def _string(self, quote: str) -> Steps[None]:
        """A string, its opening quote taken."""
        self._put('"')
        if self._syntax.raw and len(quote) > 1:
            yield from self._source.upto(lambda text: self._put(escaped(text)), quote)
        else:
            if self._syntax.triple and (yield from self._source.skip(quote * 2)):
                quote *= 3
            yield from self._characters(quote)
        self._put('"')

    def _characters(self, quote: str) -> Steps[None]:
        source = self._source
        while True:
            if run := source.run(_PLAIN):
                self._put(run)
            char = yield from source.peek()
            if not char:
                raise Broken
            if char == quote[0] and (yield from source.skip(quote)):
                return
            if char == "\\":
                yield from self._escape()
            elif not _PLAIN.match(char):
                self._put(escaped(source.take(1)))

    def _escape(self) -> Steps[None]:
        source = self._source
        source.take(1)
        char = yield from source.peek()
        source.take(1)
        if char == "u":
            self._put("\\u" + (yield from self._digits(4)))
        elif char == "x":
            self._put("\\u00" + (yield from self._digits(2)))
        elif char == "U" and self._syntax.triple:
            self._put(_character((yield from self._digits(8))))
        elif char == "'":
            self._put("'")
        elif char and char in '"\\/bfnrt':
            self._put("\\" + char)
        elif char != "\n":
            self._put("\\\\" + escaped(char))

    def _digits(self, count: int) -> Steps[str]:
        digits = ""
        while len(digits) < count:
            if (yield from self._source.peek()) not in _HEX:
                raise Broken
            digits += self._source.take(1)
        return digits


def _character(digits: str) -> str:
    """A character by its number, as it stands inside a JSON string. Raises Broken."""
    if int(digits, 16) > 0x10FFFF:
        raise Broken
    return escaped(chr(int(digits, 16)))


def number(word: str) -> str:
    """A number that Python can read, as JSON. Raises Broken."""
    try:
        value = (
            int(word, 0) if word.lstrip("+-")[:1].isdecimal() and not set(word) & set(".eE") else float(word)
        )
    except ValueError:
        raise Broken from None
    text = json.dumps(value)
    if not _NUMBER.fullmatch(text):
        raise Broken
    return text
