"""Calls that look like Python: `[f(a="x", b=1), g()]`."""

from __future__ import annotations

import json as codec
import re
from collections.abc import Sequence
from typing import Any

from ..request import PastToolCall, Tool
from .dialect import Dialect, JsonRule, Literal
from .lark import SPACE, either, joined, listed
from .objects import Call, more
from .sections import Section
from .source import Broken, Steps
from .typed import Typed
from .values import PYTHON, Copy, quoted, unpacked

_NAME = re.compile(r"[\w.-]+")
_KEY = re.compile(r"\w+")


class Pythonic(Dialect, frozen=True, kw_only=True):
    """Calls stand between the trigger and `close`, with `listing` in brackets and with commas between, else with
    `between` between them and `line` around all. With `dotted` a function `f` may also be called as `f.call(…)`;
    with `final` the closing mark is an end of sequence, which is neither asked for nor written."""

    close: str
    listing: bool = True
    between: str = ", "
    line: str = ""
    dotted: bool = False
    final: bool = False

    def read(self, section: Section, tools: dict[str, Tool]) -> Steps[None]:
        source = section.source
        yield from source.space()
        if (yield from source.peek()) == "{":
            yield from Call(section).whole()
            while (yield from more(source, "{", ("", ",", ";"))):
                yield from Call(section).whole()
        else:
            bracket = yield from source.skip("[")
            yield from source.space()
            yield from self._calls(section, bracket)
        yield from source.close(self.close, whole=self.final)

    def _calls(self, section: Section, bracket: str) -> Steps[None]:
        source = section.source
        yield from self._call(section)
        while (yield from self._goes_on(section, bracket)):
            yield from source.space()
            yield from self._call(section)
        if bracket:
            yield from source.close("]")

    def _goes_on(self, section: Section, bracket: str) -> Steps[bool]:
        """Whether another call has to follow. Takes a comma."""
        source = section.source
        for separator in (",", ";"):
            if length := (yield from source.follows(separator)):
                source.take(length)
                return not (bracket and (yield from source.follows("]")))
        if bracket or not self.line or (yield from source.closing(self.close)):
            return False
        yield from source.space()
        return bool((yield from source.peek()))

    def _call(self, section: Section) -> Steps[None]:
        source = section.source
        name = yield from source.word(_NAME)
        yield from source.expect("(")
        if self.dotted and not section.known(name) and section.known(name.removesuffix(".call")):
            name = name.removesuffix(".call")
        section.begin(name)
        section.put("{")
        before = ""
        yield from source.space()
        while not (yield from source.skip(")")):
            key = yield from source.word(_KEY)
            yield from source.space()
            yield from source.expect("=")
            yield from source.space()
            section.put(f"{before}{quoted(key)}: ")
            before = ", "
            yield from Copy(source, PYTHON, section.put).value()
            yield from source.space()
            if (yield from source.skip(",")):
                yield from source.space()
            elif (yield from source.peek()) != ")":
                raise Broken
        section.put("}")
        section.end()

    def rules(self, tools: Sequence[Tool], *, literal: Literal, json: JsonRule, several: bool) -> str:
        lines = [SPACE]
        for number, tool in enumerate(tools):
            lines += self._tool(f"call_{number}", tool, literal, json)
        names = either([f"call_{number}" for number in range(len(tools))])
        if self.listing:
            inner = listed("call_any", f"{literal(',')} CALL_SPACE?", several=several)
            body = f"CALL_SPACE? {literal('[')} {inner} {literal(']')}"
        else:
            inner = listed("call_any", literal(self.between), several=several)
            body = f"{literal(self.line)} {inner}" if self.line else inner
        end = "" if self.final else f" CALL_SPACE? {literal(self.close)}"
        # Functions of free arguments share a terminal.
        return "\n".join([f"calls: {body}{end}", f"call_any: {names}", *dict.fromkeys(lines), ""])

    def _tool(self, rule: str, tool: Tool, literal: Literal, json: JsonRule) -> list[str]:
        typed = Typed.of(tool)
        lines, items = [], []
        for number, key in enumerate(typed.properties):
            item = f"{rule}_{number}"
            lines.append(
                f"{item}: {literal(key + '=')} {value_rule(typed.schema(key), typed.types(key), literal, json)}"
            )
            items.append((item, key in typed.required))
        head, foot = literal(tool.name + "("), literal(")")
        if not items and typed.others is not False:
            item = f"CALL_KEY {literal('=')} {json({})}"
            more = f"({literal(',')} CALL_SPACE? {item})*"
            return [f"{rule}: {head} ({item} {more})? {foot}", "CALL_KEY: /[A-Za-z_][A-Za-z0-9_]{0,63}/"]
        lines += joined(f"{rule}_args", items, literal(", "))
        return [f"{rule}: {head} {rule}_args {foot}", *lines]

    def write(self, calls: Sequence[PastToolCall]) -> str:
        written = [self._written(call) for call in calls]
        end = "" if self.final else self.close
        if self.listing:
            return f"{self.trigger}[{self.between.join(written)}]{end}"
        return f"{self.trigger}{self.line}{self.between.join(written)}{self.line}{'' if self.final else self.close}"

    def _written(self, call: PastToolCall) -> str:
        values = unpacked(call.function.arguments)
        inner = ", ".join(f"{key}={_source(value)}" for key, value in values.items())
        return f"{call.function.name}({inner})"


def value_rule(schema: dict[str, Any] | bool, kinds: Sequence[str], literal: Literal, json: JsonRule) -> str:
    """Source for a value of a Python argument: JSON, but for the words that Python writes otherwise."""
    if kinds == ("boolean",) and isinstance(schema, dict) and not {"enum", "const"} & schema.keys():
        return f"({literal('True')} | {literal('False')})"
    return literal("None") if kinds == ("null",) else json(schema)


def _source(value: Any) -> str:
    """A value as Python writes it, with double quotes."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_source, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{quoted(key)}: {_source(item)}' for key, item in value.items())}}}"
    return codec.dumps(value, ensure_ascii=False)
