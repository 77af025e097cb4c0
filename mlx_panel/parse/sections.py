"""Tool calls found in text: sections begin where a dialect says, everything else is text.

White space directly before a call goes, and so does what is left of an answer that ends with a call if it is nothing but
white space; every other byte outside of calls stays. What begins like a call and is none comes back byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from itertools import groupby

from .pieces import Called, Piece, Said, Thought
from .source import SPACE, Broken, Source, Steps, open_from


class Opening:
    """Where sections of calls may begin: at one of `marks`, with `at_line` only as the first thing of a line."""

    def __init__(self, marks: Collection[str], *, at_line: bool = False):
        self.marks = tuple(marks)
        self._first = frozenset(mark[0] for mark in self.marks)
        either = "|".join(map(re.escape, sorted(self.marks, key=len, reverse=True)))
        lead = r"[ \t\r]*+" if at_line else ""
        self._here = re.compile(f"{lead}({either})")
        self._pattern = re.compile(f"^{lead}({either})" if at_line else f"({either})", re.MULTILINE)
        self._at_line = at_line

    def possible(self, text: str) -> bool:
        """Whether a mark may begin in this text."""
        return not self._first.isdisjoint(text)

    def search(self, text: str, at: int, fresh: bool) -> tuple[int, str] | None:
        """Place and mark, from `at` on. `fresh` says that a line begins there."""
        if not self._at_line:
            found = self._pattern.search(text, at)
        else:
            found = self._here.match(text, at) if fresh else None
            if found is None and (line := text.find("\n", at) + 1):
                found = self._pattern.search(text, line)
        return (found.start(1), found[1]) if found else None


class Section:
    """One section while it is read: its text, and what its reader tells of the calls in it.

    A reader calls `begin` when a name is certain, `put` with each piece of the arguments' JSON, `end` when they are
    complete. Calls of unknown functions are read like others and become text.
    """

    def __init__(self, source: Source, parser: Sections, trigger: str):
        self.source = source
        self.trigger = trigger
        # Whether a function on offer has been named since the last call.
        self.tried = False
        # Whether the last call was one; None before the first.
        self.good: bool | None = None
        self._parser = parser
        self._name = ""
        self._known = False
        self._parts: list[str] = []

    @property
    def begun(self) -> bool:
        """Whether a call was told that has not ended."""
        return bool(self._name) and self._known and self._parser.eager

    def known(self, name: str) -> bool:
        return name in self._parser.names

    def begin(self, name: str) -> None:
        self._name, self._known = name, self.known(name)
        self.tried = self.tried or self._known
        if self.begun:
            self._parser.told(Called(self._parser.calls, name, ""))

    def put(self, text: str) -> None:
        if not text or not self._known:
            return
        if self._parser.eager:
            self._parser.told(Called(self._parser.calls - 1, "", text))
        else:
            self._parts.append(text)

    def hand_on(self, piece: Said | Thought) -> None:
        """A piece of the section that belongs to no call."""
        self.good = True
        self._parser.handed_on(piece)

    def end(self) -> None:
        if not self._known:
            self._parser.spoilt()
        elif not self._parser.eager:
            self._parser.told(Called(self._parser.calls, self._name, "".join(self._parts)))
        else:
            self._parser.went_on()
        self.good = self._known
        self.tried = False
        self._name = ""
        self._parts.clear()


Reader = Callable[[Section], Steps[None]]


class Sections:
    """The parser of a dialect: `reader` reads one section after its opening mark, as often as one begins.

    With `eager` a call is told as soon as its name is certain and its arguments as they come, else when it is complete.
    `names` are the functions on offer. A dialect whose calls look like any text counts as `broken` only what names one.
    """

    def __init__(
        self, reader: Reader, opening: Opening, names: Collection[str], *, eager: bool, bare: bool = False
    ):
        self.thinking = False
        self.calls = self.broken = 0
        self.names = frozenset(names)
        self.eager = eager
        self._reader = reader
        self._opening = opening
        self._bare = bare
        self._source = Source()
        self._source.keeping = False
        self._section: Section | None = None
        self._reading: Steps[None] | None = None
        self._out: list[Piece] = []
        self._space: list[str] = []
        self._fresh = True
        self._after_call = False

    def __repr__(self) -> str:
        return f"<Sections {self.calls} calls, {self.broken} broken, in one={self._reading is not None}>"

    def feed(self, text: str) -> list[Piece]:
        if self._reading is None and self._plain(text):
            return [Said(text)]
        self._source.add(text)
        return self._go()

    def flush(self) -> list[Piece]:
        self._source.ended = True
        out = self._go()
        if self._space and not self._after_call:
            out = merged([*out, Said("".join(self._space))])
        self._space.clear()
        return out

    def _plain(self, text: str) -> bool:
        """Whether this is text and nothing else, known at a glance."""
        if (
            self._space
            or self._source.unread()
            or not text
            or text[-1] in SPACE
            or self._opening.possible(text)
        ):
            return False
        self._fresh = self._after_call = False
        return True

    def _go(self) -> list[Piece]:
        while self._look() if self._reading is None else self._read():
            pass
        out, self._out = self._out, []
        return merged(out)

    def _look(self) -> bool:
        """Passes text on up to where a section begins. Returns whether one did."""
        source = self._source
        text, at = source.window()
        found = self._opening.search(text, at, self._fresh)
        place = found[0] if found else len(text) if source.ended else open_from(text, at, self._opening.marks)
        self._say(source.take(place - at))
        if not found:
            return False
        source.drop()
        self.enter(source.take(len(found[1])), self._reader)
        return True

    def enter(self, trigger: str, reader: Reader) -> None:
        """From here on `reader` reads."""
        self._source.keeping = True
        self._section = Section(self._source, self, trigger)
        self._reading = reader(self._section)

    def _read(self) -> bool:
        """Reads on in the section. Returns whether it is over."""
        reading, section = self._reading, self._section
        assert reading is not None
        assert section is not None
        try:
            next(reading)
            return False
        except StopIteration:
            if not section.good:
                self._give_back(section, counted=section.good is None)
        except Broken:
            if section.begun:
                self._leave_open()
            else:
                self._give_back(section, counted=section.good is None or section.tried)
        self._reading = self._section = None
        self._source.keeping = False
        return True

    def _leave_open(self) -> None:
        """A call that was told ends in its middle. At the end of the answer what is left is the beginning of a mark."""
        if self._source.ended:
            self._source.take(len(self._source.unread()))
            return
        self.broken += 1
        self._after_call = self._fresh = False

    def _give_back(self, section: Section, *, counted: bool) -> None:
        """The section, or what is left of it, holds no call."""
        self.broken += counted and (section.tried or not self._bare)
        self._say(self._source.kept())

    def _say(self, text: str) -> None:
        body = text.rstrip(SPACE)
        if body:
            self._out.append(Said("".join(self._space) + body))
            self._space.clear()
            self._after_call = self._fresh = False
        if len(body) < len(text):
            self._space.append(text[len(body) :])
            self._fresh = self._fresh or "\n" in self._space[-1]

    # --- what a section tells ----------------------------------------------------------------------------

    def told(self, piece: Called) -> None:
        self._out.append(piece)
        if piece.name:
            self.calls += 1
            self._space.clear()
            self._source.drop()
            self._source.keeping = not self.eager
            self._after_call = self._fresh = True

    def handed_on(self, piece: Said | Thought) -> None:
        self.thinking = isinstance(piece, Thought)
        if piece.text:
            self._out.append(piece)
        self._space.clear()
        self._source.drop()
        self._after_call = False

    def went_on(self) -> None:
        """An eager call is complete: from here on text is kept again."""
        self._source.keeping = True
        self._source.drop()

    def spoilt(self) -> None:
        """A call of an unknown function is complete: it is text."""
        self.broken += 1
        self._say(self._source.kept())
        self._source.drop()


def merged(pieces: list[Piece]) -> list[Piece]:
    """Neighbours of one kind, and of one call, as one piece each."""
    if len(pieces) < 2:
        return pieces
    return [_joined(list(group)) for _, group in groupby(pieces, _kind)]


def _kind(piece: Piece) -> tuple[type[Piece], int]:
    return type(piece), piece.call if isinstance(piece, Called) else 0


def _joined(pieces: list[Piece]) -> Piece:
    first, text = pieces[0], "".join(piece[-1] for piece in pieces)
    if isinstance(first, Called):
        return Called(first.call, first.name, text)
    return Said(text) if isinstance(first, Said) else Thought(text)
