"""Calls whose arguments stand in tags, one a parameter, without quotes: their types come from the schema."""

from __future__ import annotations

import json as codec
import re
from collections.abc import Sequence

from ..request import PastToolCall, Tool
from .dialect import Dialect, JsonRule, Literal
from .lark import SPACE, Raw, either, joined, listed
from .objects import Call
from .sections import Section
from .source import Broken, Steps
from .typed import Typed, decode, kind_of
from .values import escaped, quoted, unpacked

_NAME = re.compile(r"[^\s<>\"'=|]+")


def told_kinds(kind: str, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """The types to try where a model says that a value is of type `kind`, "" for any but a string, and the schema says
    `kinds`."""
    if kind == "string":
        return ("string",) if "string" in kinds or not kinds else kinds
    others = tuple(name for name in kinds if name != "string")
    return others or ((kind,) if kind else ())


class Tagged(Dialect, frozen=True, kw_only=True):
    """A call is a name between the two parts of `head`, parameters, `foot`. A parameter is its name between the two parts
    of `key` and its value between those of `value`; `pad` stands at both ends of a value and is not part of it.

    `close` ends the section; with `many` it holds several calls. `gap` stands between the parts of what is written.
    With `cdata` a value may stand in an XML character data section; without `free` a grammar knows no parameters but those
    that are declared.
    """

    head: tuple[str, str]
    key: tuple[str, str]
    value: tuple[str, str]
    foot: str = ""
    close: str = ""
    pad: str = ""
    many: bool = False
    gap: str = "\n"
    cdata: bool = False
    free: bool = True

    def read(self, section: Section, tools: dict[str, Tool]) -> Steps[None]:
        source = section.source
        if section.trigger != self.head[0]:
            yield from source.space()
            if (yield from source.peek()) == "{":
                # Models that were shown JSON calls elsewhere fall back to them.
                yield from Call(section).whole()
                yield from source.close(self.close)
                return
            if self.head[0]:
                yield from source.expect(self.head[0])
        yield from self._call(section, tools)
        while self.many and (length := (yield from source.follows(self.head[0]))):
            source.take(length)
            yield from self._call(section, tools)
        yield from source.close(self.close)

    def _call(self, section: Section, tools: dict[str, Tool]) -> Steps[None]:
        source = section.source
        name = yield from source.word(_NAME)
        if self.head[1]:
            yield from self.headed(section)
        section.begin(name)
        yield from self.members(section, Typed.of(tools.get(name)))
        yield from self._end(section)
        section.put("}")
        section.end()

    def headed(self, section: Section) -> Steps[None]:
        """Reads what stands behind a function's name."""
        yield from section.source.expect(self.head[1])

    def members(self, section: Section, typed: Typed) -> Steps[None]:
        """Reads the parameters, as a JSON object but for its closing brace."""
        source, before = section.source, ""
        section.put("{")
        while length := (yield from source.follows(self.key[0])):
            source.take(length)
            inner, _ = yield from source.inside(self.key[1])
            name, kinds = self.named(inner, typed)
            if self.value[0]:
                yield from source.space()
                yield from source.expect(self.value[0])
            section.put(f"{before}{quoted(name)}: ")
            before = ", "
            yield from self.content(section, kinds, self.end(name))

    def named(self, inner: str, typed: Typed) -> tuple[str, tuple[str, ...]]:
        """A parameter's name and types, by what stands between the parts of `key`."""
        name = inner.strip()
        return name, typed.types(name)

    def content(self, section: Section, kinds: tuple[str, ...], end: str) -> Steps[None]:
        """Reads a value of one of these types up to `end`."""
        source = section.source
        cdata = self.cdata and (yield from source.skip("<![CDATA["))
        if self.pad and not cdata:
            yield from source.skip(self.pad)
        marks = ("]]>" + end,) if cdata else (self.pad + end, end) if self.pad else (end,)
        if kinds == ("string",):
            section.put('"')
            yield from source.upto(lambda text: section.put(escaped(text)), *marks)
            section.put('"')
            return
        parts: list[str] = []
        yield from source.upto(parts.append, *marks)
        section.put(quoted("".join(parts)) if cdata and not kinds else decode("".join(parts), kinds))

    def _end(self, section: Section) -> Steps[None]:
        """The end of a call, or of its section. Without either nobody knows whether all its parameters have come."""
        source = section.source
        for mark in filter(None, (self.foot, self.close)):
            if length := (yield from source.closing(mark, unlike=self.key[0])):
                source.take(length if mark == self.foot else 0)
                return
        raise Broken

    def rules(self, tools: Sequence[Tool], *, literal: Literal, json: JsonRule, several: bool) -> str:
        lines, raw = [SPACE], Raw(literal, self.pad)
        begins = self.trigger == self.head[0]
        for number, tool in enumerate(tools):
            head = self.opening(tool.name, 1).removeprefix(self.trigger if begins else "")
            lines += self._tool(f"call_{number}", literal(head), Typed.of(tool), raw, literal, json)
        any_call = either([f"call_{number}" for number in range(len(tools))])
        body = listed("call_any", "CALL_SPACE?", several=several and self.many)
        end = f" CALL_SPACE? {literal(self.close)}" if self.close else ""
        start = "" if begins or not self.head[0] else "CALL_SPACE? "
        return "\n".join([f"calls: {start}{body}{end}", f"call_any: {any_call}", *lines, *raw.lines, ""])

    def _tool(
        self, rule: str, head: str, typed: Typed, raw: Raw, literal: Literal, json: JsonRule
    ) -> list[str]:
        """The rules of one function."""
        foot = f" CALL_SPACE? {literal(self.foot)}" if self.foot else ""
        lines, items = [], []
        for number, key in enumerate(typed.properties):
            item = f"{rule}_{number}"
            kinds = typed.types(key)
            plain = "string" in kinds or not kinds
            opening = self.tag(key, "string" if plain else kinds[0]) + self.value[0] + self.pad
            if plain:
                value = raw.rule(item, typed.schema(key), kinds, self.end(key))
            else:
                value = f"{json(typed.schema(key))} {literal(self.pad + self.end(key))}"
            lines.append(f"{item}: CALL_SPACE? {literal(opening)} {value}")
            items.append((item, key in typed.required))
        if items:
            lines += joined(f"{rule}_args", items, "")
            return [f"{rule}: {head} {rule}_args{foot}", *lines]
        if typed.others is False or not self.free:
            return [f"{rule}: {head}{foot}"]
        before, _, after = (self.tag("\0", "string") + self.value[0] + self.pad).partition("\0")
        item = f"{literal(before)} {raw.key()} {literal(after)} {raw.rule(rule, True, (), self.value[1])}"
        return [f"{rule}: {head} {rule}_args{foot}", f"{rule}_args: (CALL_SPACE? {item})*"]

    def end(self, key: str) -> str:
        """What stands behind a parameter's value."""
        return self.value[1]

    def opening(self, name: str, number: int) -> str:
        """The first part of call `number` of its section, from 1."""
        return self.head[0] + name + self.head[1]

    def tag(self, key: str, kind: str) -> str:
        """What stands before a parameter's value of that JSON type, but for the first part of `value`."""
        return self.key[0] + key + self.key[1]

    def write(self, calls: Sequence[PastToolCall]) -> str:
        written = [self._written(call, number) for number, call in enumerate(calls, 1)]
        start = "" if self.trigger == self.head[0] else self.trigger + (self.gap if self.head[0] else "")
        end = f"{self.gap}{self.close}" if self.close else ""
        if self.many:
            return f"{start}{self.gap.join(written)}{end}"
        return "\n".join(f"{start}{call}{end}" for call in written)

    def _written(self, call: PastToolCall, number: int) -> str:
        parts = [self.opening(call.function.name, number if self.many else 1)]
        for key, value in unpacked(call.function.arguments).items():
            text = value if isinstance(value, str) else codec.dumps(value, ensure_ascii=False)
            if self.cdata and isinstance(value, str) and any(char in text for char in "<&\n"):
                text = f"<![CDATA[{text}]]>"
            tag = self.tag(key, kind_of(value))
            parts.append(f"{tag}{self.value[0]}{self.pad}{text}{self.pad}{self.end(key)}")
        return self.gap.join([*parts, *([self.foot] if self.foot else [])])
