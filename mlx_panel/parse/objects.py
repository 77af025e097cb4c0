"""Calls that are JSON objects: `{"name": …, "arguments": {…}}`, as one section each or several in a list."""

from __future__ import annotations

import json as codec
from collections.abc import Sequence

from ..request import PastToolCall, Tool
from .dialect import Dialect, JsonRule, Literal
from .lark import SPACE, either, listed
from .sections import Section
from .source import Broken, Source, Steps
from .typed import parameters
from .values import JSON, Copy, arguments, quoted

_NAMES = ("name", "function", "tool", "tool_name")
_ARGUMENTS = ("arguments", "parameters", "args", "input")


class Objects(Dialect, frozen=True, kw_only=True):
    """A section is an object between the trigger and `close`, or a list of them with `listing`. `title` is what the name is
    called and `key` what the arguments are; without a trigger an object is a call only if it has them. With `final` the
    closing mark is an end of sequence, which is neither asked for nor written."""

    close: str = ""
    title: str = "name"
    key: str = "arguments"
    listing: bool = False
    final: bool = False

    def read(self, section: Section, tools: dict[str, Tool]) -> Steps[None]:
        source = section.source
        if section.trigger == "{":
            yield from Call(section, bare=True).rest()
            yield from self._others(section, bare=True)
        elif section.trigger == "[":
            yield from self._list(section)
        else:
            yield from source.space()
            if (yield from source.skip("[")):
                yield from self._list(section)
            else:
                yield from self._items(section)
        yield from source.close(self.close, whole=self.final)

    def _items(self, section: Section) -> Steps[None]:
        """An object, or several with nothing, a comma or a semicolon between."""
        yield from Call(section).whole()
        yield from self._others(section)

    def _others(self, section: Section, *, bare: bool = False) -> Steps[None]:
        while (yield from more(section.source, "{", ("", ",", ";"))):
            yield from Call(section, bare=bare).whole()

    def _list(self, section: Section) -> Steps[None]:
        source = section.source
        bare = section.trigger == "["
        yield from source.space()
        yield from Call(section, bare=bare).whole()
        while (yield from more(source, "{", (",",))):
            yield from Call(section, bare=bare).whole()
        yield from source.close("]")

    def rules(self, tools: Sequence[Tool], *, literal: Literal, json: JsonRule, several: bool) -> str:
        lines = [SPACE]
        for number, tool in enumerate(tools):
            head = f"{literal('{' + quoted(self.title) + ':')} CALL_SPACE? {literal(quoted(tool.name) + ',')} CALL_SPACE? "
            head += f"{literal(quoted(self.key) + ':')} CALL_SPACE?"
            lines.append(f"call_{number}: {head} {json(parameters(tool))} CALL_SPACE? {literal('}')}")
        one = either([f"call_{number}" for number in range(len(tools))])
        if self.listing:
            inner = listed("call_any", f"{literal(',')} CALL_SPACE?", several=several)
            body = f"{literal('[')} {inner} {literal(']')}"
        else:
            inner = listed(
                "call_any", literal("; "), several=several and not self.repeats and not self.trigger
            )
            body = f"CALL_SPACE? {inner}" if self.trigger else inner
        body = f"CALL_SPACE? {body}" if self.listing and self.trigger else body
        end = f" CALL_SPACE? {literal(self.close)}" if self.close and not self.final else ""
        return "\n".join([f"calls: {body}{end}", f"call_any: {one}", *lines, ""])

    def write(self, calls: Sequence[PastToolCall]) -> str:
        written = [
            f"{{{quoted(self.title)}: {quoted(call.function.name)}, {quoted(self.key)}: {call.function.arguments or '{}'}}}"
            for call in calls
        ]
        if self.listing:
            return f"{self.trigger}[{', '.join(written)}]{self.close}"
        if not self.trigger:
            return "; ".join(written)
        return "\n".join(f"{self.trigger}\n{call}\n{self.close}" for call in written)


def more(source: Source, mark: str, separators: Sequence[str]) -> Steps[bool]:
    """Whether another call comes, which begins with `mark`. Takes what stands before it."""
    for separator in separators:
        length = yield from source.follows(separator, mark)
        if length:
            source.take(length - len(mark))
            return True
    return False


class Call:
    """Reads one object."""

    def __init__(self, section: Section, *, bare: bool = False):
        self._section = section
        self._bare = bare
        self._name: str | None = None
        # Arguments that came before the name, then None.
        self._early: list[str] | None = []
        self._found = False

    def whole(self) -> Steps[None]:
        yield from self._section.source.expect("{")
        yield from self.rest()

    def rest(self) -> Steps[None]:
        """After the opening brace."""
        yield from self._members()
        if self._name is None or (self._bare and not self._found):
            raise Broken
        if not self._found:
            self._section.put("{}")
        self._section.end()

    def _members(self, *, inner: bool = False) -> Steps[None]:
        source = self._section.source
        while True:
            yield from source.space()
            yield from self._member((yield from self._text()), inner=inner)
            yield from source.space()
            if (yield from source.expect(",", "}")) == "}":
                return

    def _member(self, key: str, *, inner: bool) -> Steps[None]:
        source = self._section.source
        yield from source.space()
        yield from source.expect(":")
        yield from source.space()
        if key in _NAMES and not inner and (yield from source.skip("{")):
            yield from self._members(inner=True)
        elif key in _NAMES and self._name is None:
            self._named((yield from self._text()))
        elif key in _ARGUMENTS and not self._found:
            self._found = True
            yield from arguments(source, self._section.put if self._early is None else self._early.append)
        elif self._bare and key not in ("type", "id"):
            raise Broken
        else:
            yield from Copy(source, JSON, lambda text: None).value()

    def _named(self, name: str) -> None:
        self._name = name
        self._section.begin(name)
        for part in self._early or ():
            self._section.put(part)
        self._early = None

    def _text(self) -> Steps[str]:
        """A short string."""
        if (yield from self._section.source.peek()) not in ('"', "'"):
            raise Broken
        parts: list[str] = []
        yield from Copy(self._section.source, JSON, parts.append).value()
        return str(codec.loads("".join(parts)))
