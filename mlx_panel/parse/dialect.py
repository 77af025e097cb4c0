"""How a family of models writes tool calls: where they begin, how they are read, held to a grammar and written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from ..request import PastToolCall, Tool, Tools
from .pieces import Parser
from .sections import Opening, Section, Sections
from .source import Steps

Literal = Callable[[str], str]
JsonRule = Callable[[dict[str, Any] | bool], str]


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """Calls stand in sections that begin with `trigger`, "" where only a parser can tell; with `repeats` several sections
    may follow each other, with white space between them. `also` are other beginnings that are read but never asked for;
    with `at_line` all of them count only as the first thing of a line.

    `markers` are strings that may be special tokens and have to be in the text for a parser to see them.
    """

    name: str
    trigger: str
    markers: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    repeats: bool = False
    at_line: bool = False

    def __repr__(self) -> str:
        return f"<Dialect {self.name}>"

    def parser(self, tools: Tools, *, eager: bool) -> Parser:
        """A parser of one answer. `eager` tells calls as they come: for text that a grammar holds to this dialect."""
        marks = (self.trigger, *self.also) if self.trigger else self.also
        opening = Opening(marks, at_line=self.at_line)
        by_name = {tool.name: tool for tool in tools.tools}
        return Sections(
            lambda section: self.read(section, by_name), opening, by_name, eager=eager, bare=not self.trigger
        )

    def read(self, section: Section, tools: dict[str, Tool]) -> Steps[None]:
        """Reads one section after its trigger. Raises Broken where that is none."""
        raise NotImplementedError

    def rules(self, tools: Sequence[Tool], *, literal: Literal, json: JsonRule, several: bool) -> str:
        """Lark rules (llguidance's flavour) whose rule `calls` is one section after its trigger, with calls of these
        tools: one, or with `several` at least one. Sections of dialects that repeat hold one call anyway.

        `literal(text)` is Lark source for exactly that text, `json(schema)` for a JSON value of that schema. The names of
        all rules begin with "call", of all terminals with "CALL". A tool's schema holds whether it is `strict` or not:
        hand in a tool without `parameters` to ask for any object.
        """
        raise NotImplementedError

    def write(self, calls: Sequence[PastToolCall]) -> str:
        """The calls as a model would have written them."""
        raise NotImplementedError
