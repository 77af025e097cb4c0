"""Text that arrives in pieces, read as if all of it were there.

A reader is a generator: it takes what it expects from a `Source` and yields when it needs text that has not come. What
is taken never depends on where the pieces' borders lie.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

Result = TypeVar("Result")
Steps = Generator[None, None, Result]
Put = Callable[[str], object]

SPACE = " \t\r\n"
_SPACES = re.compile(r"[ \t\r\n]*")


class Broken(Exception):
    """What comes is not what was expected. What has been taken by then is the same wherever the borders lie."""


def open_from(text: str, start: int, marks: Sequence[str]) -> int:
    """Where the longest end of `text`, from `start` on, begins that is the beginning of a mark; else its length."""
    length = len(text)
    first = length
    for mark in marks:
        at = text.find(mark[0], max(start, length - len(mark) + 1), first)
        while at >= 0:
            if mark.startswith(text[at:]):
                first = at
                break
            at = text.find(mark[0], at + 1, first)
    return first


class Source:
    """The unread text, and what has been taken since `drop`, as long as `keeping`."""

    def __init__(self, text: str = "", *, ended: bool = False):
        self.ended = ended
        self.keeping = True
        self._text = text
        self._at = 0
        self._start = 0
        self._kept: list[str] = []

    def __repr__(self) -> str:
        return f"<Source {len(self._text) - self._at} unread, ended={self.ended}>"

    def add(self, text: str) -> None:
        if self.keeping:
            self._kept.append(self._text[self._start : self._at])
        self._text = self._text[self._at :] + text
        self._at = self._start = 0

    def kept(self) -> str:
        """What has been taken since `drop`."""
        return "".join(self._kept) + self._text[self._start : self._at]

    def drop(self) -> None:
        self._kept.clear()
        self._start = self._at

    def window(self) -> tuple[str, int]:
        """Some text, and where in it the unread begins."""
        return self._text, self._at

    def unread(self) -> str:
        return self._text[self._at :] if self._at else self._text

    def take(self, count: int) -> str:
        at = self._at
        self._at = at + count
        return self._text[at : self._at]

    def run(self, pattern: re.Pattern[str]) -> str:
        """Takes what `pattern` matches here of the text that has come."""
        found = pattern.match(self._text, self._at)
        return self.take(found.end() - self._at) if found else ""

    def peek(self) -> Steps[str]:
        """The next character; "" at the end."""
        while self._at == len(self._text) and not self.ended:
            yield
        return self._text[self._at : self._at + 1]

    def space(self) -> Steps[str]:
        """Takes white space."""
        parts = [self.run(_SPACES)]
        while self._at == len(self._text) and not self.ended:
            yield
            parts.append(self.run(_SPACES))
        return parts[0] if len(parts) == 1 else "".join(parts)

    def word(self, pattern: re.Pattern[str], longest: int = 400) -> Steps[str]:
        """Takes what matches `pattern`, a class of characters repeated. Raises Broken if it is nothing, or too long."""
        word = self.run(pattern)
        while self._at == len(self._text) and not self.ended and len(word) <= longest:
            yield
            word += self.run(pattern)
        if len(word) > longest:
            self._at -= len(word) - longest
        if not 0 < len(word) <= longest:
            raise Broken
        return word

    def have(self, mark: str) -> Steps[bool]:
        """Whether `mark` comes next. Nothing is taken."""
        while True:
            coming = self._text[self._at : self._at + len(mark)]
            if coming == mark:
                return True
            if self.ended or not mark.startswith(coming):
                return False
            yield

    def skip(self, *marks: str) -> Steps[str]:
        """Takes the first of `marks` that comes next and returns it; "" if none does."""
        for mark in marks:
            if (yield from self.have(mark)):
                return self.take(len(mark))
        return ""

    def expect(self, *marks: str) -> Steps[str]:
        """Takes one of `marks`. Raises Broken."""
        mark = yield from self.skip(*marks)
        if not mark:
            raise Broken
        return mark

    def follows(self, *marks: str, longest: int = 64) -> Steps[int]:
        """How many characters it is to the end of `marks` if just these come next, with white space (in all not much
        more than `longest` characters) before each; else 0. Nothing is taken."""
        while True:
            place, coming, mark = self._at, "", ""
            for mark in marks:
                found = _SPACES.match(self._text, place)
                place = found.end() if found else place
                if place - self._at > longest:
                    return 0
                coming = self._text[place : place + len(mark)]
                if coming != mark:
                    break
                place += len(mark)
            else:
                return place - self._at
            if self.ended or not mark.startswith(coming):
                return 0
            yield

    def closing(self, mark: str, *, unlike: str | None = None) -> Steps[int]:
        """As `follows` for a closing mark, of which at the end of the text the beginning will do, unless that may also be
        the beginning of `unlike`."""
        mark = mark.strip()
        length = yield from self.follows(mark)
        if length or not self.ended:
            return length
        rest = self.unread()
        begun = rest.lstrip(SPACE)
        return len(rest) if mark.startswith(begun) and not (unlike or "\0").startswith(begun) else 0

    def close(self, mark: str, *, whole: bool = False) -> Steps[None]:
        """Takes the closing mark if it comes, with `whole` only all of it. Answers often end without it."""
        if mark:
            self.take((yield from self.follows(mark) if whole else self.closing(mark)))

    def upto(self, put: Put, *marks: str) -> Steps[str]:
        """Hands on the text before whichever of `marks` comes first, takes that too and returns it.

        Raises Broken at the end, all text handed on.
        """
        while True:
            text, at = self._text, self._at
            found = [(place, mark) for mark in marks if (place := text.find(mark, at)) >= 0]
            place, mark = min(found, default=(len(text), ""))
            if not mark and not self.ended:
                place = open_from(text, at, marks)
            if place > at:
                put(self.take(place - at))
            if mark:
                return self.take(len(mark))
            if self.ended:
                raise Broken
            yield

    def inside(self, *marks: str, longest: int = 400) -> Steps[tuple[str, str]]:
        """Takes the text before whichever of `marks` comes first, and that mark. Raises Broken, also if it is too long."""
        window = longest + max(map(len, marks))
        while True:
            text, at = self._text, self._at
            found = [(place, mark) for mark in marks if (place := text.find(mark, at, at + window)) >= 0]
            place, mark = min(found, default=(0, ""))
            if mark and place - at <= longest:
                return self.take(place - at), self.take(len(mark))
            if self.ended or len(text) - at >= window:
                raise Broken
            yield
