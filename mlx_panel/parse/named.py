"""Calls that are a name, a mark and the arguments as a JSON object."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..request import PastToolCall, Tool
from .dialect import Dialect, JsonRule, Literal
from .lark import SPACE, either, listed
from .objects import Call
from .sections import Section
from .source import Steps
from .typed import parameters
from .values import arguments

_NAME = re.compile(r"[^\s<>\[\](){}\"'`|｜]+")
_NUMBERED = re.compile(r"(?:functions\.)?(.+?)(?::\d+)?", re.DOTALL)


class Named(Dialect, frozen=True, kw_only=True):
    """A call is `before`, the name, one of `between`, the JSON, `after`. `close` ends the section; with `many` it holds
    several calls, with `line` between them. With `numbered` names are written `functions.name:0`."""

    before: str = ""
    between: tuple[str, ...]
    after: str = ""
    close: str = ""
    many: bool = False
    line: str = ""
    numbered: bool = False

    def read(self, section: Section, tools: dict[str, Tool]) -> Steps[None]:
        source = section.source
        yield from source.space()
        if not self.before and (yield from source.peek()) == "{":
            yield from Call(section).whole()
        else:
            if self.before:
                yield from source.expect(self.before)
            yield from self.call(section)
            while self.many and self.before and (length := (yield from source.follows(self.before))):
                source.take(length)
                yield from self.call(section)
        if self.close:
            yield from source.close(self.close)

    def call(self, section: Section) -> Steps[None]:
        """Reads a call from its name on."""
        source = section.source
        name = yield from source.word(_NAME)
        yield from source.space()
        yield from self.named(section)
        found = _NUMBERED.fullmatch(name) if self.numbered and not section.known(name) else None
        section.begin(found[1] if found else name)
        yield from arguments(source, section.put)
        section.end()
        if self.after:
            yield from source.close(self.after)

    def named(self, section: Section) -> Steps[None]:
        """Reads what stands between name and arguments."""
        yield from section.source.expect(*(mark.strip() for mark in self.between))

    def rules(self, tools: Sequence[Tool], *, literal: Literal, json: JsonRule, several: bool) -> str:
        lines = [SPACE]
        end = f" CALL_SPACE? {literal(self.after)}" if self.after else ""
        for number, tool in enumerate(tools):
            head = literal(self.before + (f"functions.{tool.name}:" if self.numbered else tool.name))
            between = (
                f"/[0-9]{{1,3}}/ {literal(self.between[0])}" if self.numbered else literal(self.between[0])
            )
            lines.append(f"call_{number}: {head} {between} {json(parameters(tool))}{end}")
        body = listed("call_any", "CALL_SPACE?", several=several and self.many)
        start = "CALL_SPACE? " if self.before else ""
        tail = f" CALL_SPACE? {literal(self.close)}" if self.close else ""
        names = either([f"call_{number}" for number in range(len(tools))])
        return "\n".join([f"calls: {start}{body}{tail}", f"call_any: {names}", *lines, ""])

    def write(self, calls: Sequence[PastToolCall]) -> str:
        written = []
        for number, call in enumerate(calls):
            name = f"functions.{call.function.name}:{number}" if self.numbered else call.function.name
            inner = f"{self.before}{name}{self.between[0]}{call.function.arguments or '{}'}{self.after}"
            written.append(inner)
        if self.many:
            return f"{self.trigger}{self.line}{self.line.join(written)}{self.line}{self.close}"
        return "\n".join(f"{self.trigger}{self.line}{call}{self.line}{self.close}" for call in written)
