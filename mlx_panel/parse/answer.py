"""The parser of one answer: reasoning first, then text and tool calls."""

from __future__ import annotations

from ..request import Tools
from .dialect import Dialect
from .harmony import Harmony, harmony
from .pieces import Parser, Piece, Said
from .reasoning import HARMONY, Reasoned, Style
from .sections import merged
from .source import open_from


class Plain:
    """Text is text."""

    thinking = False
    calls = 0
    broken = 0

    def __repr__(self) -> str:
        return "<Plain>"

    def feed(self, text: str) -> list[Piece]:
        return [Said(text)] if text else []

    def flush(self) -> list[Piece]:
        return []


class Unframed:
    """Takes the marks of a frame out of the text before `answer` sees it."""

    def __init__(self, marks: tuple[str, ...], answer: Parser):
        self._marks = marks
        self._answer = answer
        self._held = ""

    def __repr__(self) -> str:
        return f"<Unframed {self._answer!r}>"

    @property
    def thinking(self) -> bool:
        return self._answer.thinking

    @property
    def calls(self) -> int:
        return self._answer.calls

    @property
    def broken(self) -> int:
        return self._answer.broken

    def feed(self, text: str) -> list[Piece]:
        text = self._held + text
        for mark in self._marks:
            text = text.replace(mark, "")
        at = open_from(text, 0, self._marks)
        self._held = text[at:]
        return self._answer.feed(text[:at])

    def flush(self) -> list[Piece]:
        return merged([*self._answer.feed(self._held), *self._answer.flush()])


def answer(
    *, style: Style | None, opened: bool, dialect: Dialect | None, tools: Tools | None, eager: bool
) -> Parser:
    """A parser of an answer of a model that reasons in `style` (`opened` if the prompt ends inside it) and calls tools in
    `dialect`. Without tools, or with none in them, text is text; `eager` is that of `Dialect.parser`."""
    offered = tools if tools is not None and tools.tools else None
    if isinstance(dialect, Harmony) or style is HARMONY:
        names = [tool.name for tool in offered.tools] if offered else []
        return harmony(names, eager=eager, opened=opened)
    parser: Parser = (
        dialect.parser(offered, eager=eager) if dialect is not None and offered is not None else Plain()
    )
    if style is None:
        return parser
    parser = Reasoned(style, parser, opened=opened)
    return Unframed(style.frame, parser) if style.frame else parser
