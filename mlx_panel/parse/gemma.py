"""Gemma's own objects: `call:f{a:<escape>x<escape>,b:1}`, keys without quotes and strings between marks."""

from __future__ import annotations

import json as codec
import re
from collections.abc import Sequence
from typing import Any

from ..request import PastToolCall, Tool
from .dialect import Dialect, JsonRule, Literal
from .lark import Raw, either, joined
from .sections import Section
from .source import Steps
from .typed import Typed, types
from .values import Copy, Syntax, unpacked

_NAME = re.compile(r"[\w.-]+")
_ATOM = re.compile(r"[^,:{}\[\]<\"'()]+")
# Deeper values are asked for as JSON.
_DEEPEST = 4
_ABOUT = {"type", "title", "description", "default", "examples", "$defs", "definitions"}
_OBJECT = {"properties", "required", "additionalProperties", *_ABOUT}
_ARRAY = {"items", "minItems", "maxItems", *_ABOUT}


class Gemma(Dialect, frozen=True, kw_only=True):
    """A section is one call between the trigger and `close`; `quote` stands around strings, which hold no escapes."""

    close: str
    quote: str

    def read(self, section: Section, tools: dict[str, Tool]) -> Steps[None]:
        source = section.source
        yield from source.space()
        yield from source.expect("call:")
        name = yield from source.word(_NAME)
        if not (yield from source.have("{")):
            yield from source.expect("{")
        section.begin(name)
        syntax = Syntax(quotes=(self.quote, '"'), raw=True, atom=_ATOM)
        yield from Copy(source, syntax, section.put).value()
        section.end()
        yield from source.close(self.close)

    def rules(self, tools: Sequence[Tool], *, literal: Literal, json: JsonRule, several: bool) -> str:
        rules, names = _Rules(self.quote, literal, json), []
        for number, tool in enumerate(tools):
            names.append(f"call_{number}")
            body = rules.object(names[-1], Typed.of(tool), 0)
            rules.lines.append(f"{names[-1]}: {literal(f'call:{tool.name}')} {body}")
        return "\n".join(
            [f"calls: {either(names)} {literal(self.close)}", *rules.lines, *rules.raw.lines, ""]
        )

    def write(self, calls: Sequence[PastToolCall]) -> str:
        return "".join(f"{self.trigger}{self._written(call)}{self.close}" for call in calls)

    def _written(self, call: PastToolCall) -> str:
        return f"call:{call.function.name}{self._value(unpacked(call.function.arguments))}"

    def _value(self, value: Any) -> str:
        if isinstance(value, str):
            return f"{self.quote}{value}{self.quote}"
        if isinstance(value, list):
            return f"[{','.join(map(self._value, value))}]"
        if isinstance(value, dict):
            return f"{{{','.join(f'{key}:{self._value(item)}' for key, item in value.items())}}}"
        return codec.dumps(value)


class _Rules:
    """Rules for values in this syntax. What it is not written for (deep or unusual schemas) becomes JSON, which is read
    as well."""

    def __init__(self, quote: str, literal: Literal, json: JsonRule):
        self.raw = Raw(literal)
        self.lines: list[str] = []
        self._quote, self._literal, self._json = quote, literal, json

    def object(self, rule: str, typed: Typed, depth: int) -> str:
        """Source for an object of these parameters."""
        begin, end, literal = self._literal("{"), self._literal("}"), self._literal
        if not typed.properties and typed.others is not False:
            item = f"{self.raw.key()} {literal(':')} {self._json({})}"
            return f"{begin} ({item} ({literal(',')} {item})*)? {end}"
        items = []
        for number, key in enumerate(typed.properties):
            item = f"{rule}_{number}"
            self.lines.append(
                f"{item}: {literal(key + ':')} {self._value(item, typed.schema(key), typed, depth)}"
            )
            items.append((item, key in typed.required))
        self.lines += joined(f"{rule}_args", items, literal(","))
        return f"{begin} {rule}_args {end}"

    def _value(self, rule: str, schema: dict[str, Any] | bool, typed: Typed, depth: int) -> str:
        kinds = types(schema, typed.root)
        if kinds == ("string",):
            return f"{self._literal(self._quote)} {self.raw.rule(rule, schema, kinds, self._quote)}"
        if isinstance(schema, dict) and depth < _DEEPEST:
            if kinds == ("object",) and schema.keys() <= _OBJECT and schema.get("properties"):
                return self.object(rule, Typed(schema, typed.root), depth + 1)
            if kinds == ("array",) and schema.keys() <= _ARRAY and isinstance(schema.get("items"), dict):
                return self._array(rule, schema, typed, depth)
        return self._json(schema)

    def _array(self, rule: str, schema: dict[str, Any], typed: Typed, depth: int) -> str:
        begin, end, comma = self._literal("["), self._literal("]"), self._literal(",")
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most == 0:
            return f"{begin} {end}"
        item = Typed({"properties": {"items": schema["items"]}}, typed.root).schema("items")
        self.lines.append(f"{rule}_item: {self._value(f'{rule}_item', item, typed, depth + 1)}")
        count = f"{{{max(0, least - 1)},{'' if most is None else most - 1}}}"
        inner = f"{rule}_item ({comma} {rule}_item){count}"
        return f"{begin} {inner if least else f'({inner})?'} {end}"
