"""Grammars of tool calls: whatever they let through is read as calls whose arguments have their schema."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from mlx_panel.parse import detect
from mlx_panel.parse.dialect import Dialect
from mlx_panel.parse.tagged import Tagged
from mlx_panel.request import Tool, Tools

from .tool_calls import Walk, byte_tokenizer, call, fed, literal_of, said, told

STRICT = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 1, "maximum": 30},
        "sure": {"type": "boolean"},
        "unit": {"type": "string", "enum": ["c", "f/ x", "<k>"]},
        "code": {"type": "string", "pattern": "^[A-Z]{2}/[0-9]+$|^none$"},
        "options": {
            "type": "object",
            "properties": {"a": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}},
            "required": ["a"],
            "additionalProperties": False,
        },
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 2},
        "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "short": {"type": "string", "minLength": 2, "maxLength": 4},
    },
    "required": ["city", "unit", "options"],
    "additionalProperties": False,
    "$defs": {"tag": {"type": "string", "enum": ["x", "y"]}},
}
TWO = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
    "additionalProperties": False,
}
NONE: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
TOOLS = (
    Tool("get_weather", parameters=STRICT),
    Tool("two", parameters=TWO),
    Tool("none", parameters=NONE),
    Tool("free"),
)
SCHEMAS = {tool.name: tool.parameters or {"type": "object"} for tool in TOOLS}
ALL = pytest.mark.parametrize("dialect", detect.BY_NAME.values(), ids=list(detect.BY_NAME))


def lark_of(schema: dict[str, Any] | bool) -> str:
    options = {"whitespace_pattern": " "}
    return f"%json {json.dumps({'x-guidance': options, **(schema if isinstance(schema, dict) else {})})}"


def closings(dialect: Dialect) -> list[str]:
    """What ends values and calls, values first."""
    fields = (getattr(dialect, name, "") for name in ("quote", "value", "foot", "close", "after", "between"))
    found = [field if isinstance(field, str) else field[-1] for field in fields]
    ends = [dialect.end(key) for key in STRICT["properties"]] if isinstance(dialect, Tagged) else []  # type: ignore[attr-defined]
    return [*ends, "</a>", "</b>", *found]


@ALL
@pytest.mark.parametrize("special", [False, True], ids=["text", "special"])
def test_what_the_grammar_allows_is_read_as_calls(dialect: Dialect, special: bool) -> None:
    """Markers as ordinary text and as tokens of their own; one call or several."""
    markers = dialect.markers if special else ()
    tokenizer = byte_tokenizer(markers)
    most = 0
    for several in (False, True):
        rules = dialect.rules(TOOLS, literal=literal_of(tokenizer, markers), json=lark_of, several=several)
        walk = Walk(f"start: calls\n{rules}", tokenizer, closings(dialect), seed=len(dialect.name))
        for _ in range(4):
            text = dialect.trigger + walk.answer()
            for eager in (False, True):
                parser = dialect.parser(Tools(TOOLS), eager=eager)
                pieces = fed(parser, text)
                assert (said(pieces), parser.broken) == ("", 0), text
                for name, arguments in told(pieces):
                    jsonschema.validate(arguments, SCHEMAS[name])
                assert parser.calls == 1 or several
                most = max(most, parser.calls)
    assert most


@ALL
def test_the_grammar_allows_what_is_written(dialect: Dialect) -> None:
    """Calls in their usual form, with a tokenizer's own tokens for the markers."""
    tokenizer = byte_tokenizer(dialect.markers)
    rules = dialect.rules(TOOLS, literal=literal_of(tokenizer, dialect.markers), json=lark_of, several=True)
    walk = Walk(f"start: calls\n{rules}", tokenizer, (), seed=0)
    given = {
        "city": "São Paulo <b",
        "days": 3,
        "unit": "f/ x",
        "code": "AB/1",
        "options": {"a": [1, 2]},
        "either": 4,
    }
    text = dialect.write([call("get_weather", given)]).removeprefix(dialect.trigger)
    text = text.removesuffix("<|call|>")
    assert walk.allows(text), text


def test_a_model_may_be_asked_for_one_function() -> None:
    dialect = detect.BY_NAME["hermes_json"]
    tokenizer = byte_tokenizer(())
    rules = dialect.rules(TOOLS[1:2], literal=literal_of(tokenizer, ()), json=lark_of, several=False)
    walk = Walk(f"start: calls\n{rules}", tokenizer, (), seed=0)
    assert walk.allows('\n{"name": "two", "arguments": {"a": "x"}}\n</tool_call>')
    assert not walk.allows('\n{"name": "free", "arguments": {}}\n</tool_call>')


@ALL
@pytest.mark.parametrize(
    "parameters", [None, {"type": "object"}, NONE, TWO], ids=["none", "any", "empty", "two"]
)
def test_functions_that_are_alike_share_a_grammar(
    dialect: Dialect, parameters: dict[str, Any] | None
) -> None:
    tools = [Tool(name, parameters=parameters) for name in ("get", "get_x", "a.b-c", "class", "calls", "1")]
    tokenizer = byte_tokenizer(())
    rules = dialect.rules(tools, literal=literal_of(tokenizer, ()), json=lark_of, several=True)
    walk = Walk(f"start: calls\n{rules}", tokenizer, closings(dialect), seed=1)
    parser = dialect.parser(Tools(tuple(tools)), eager=False)
    assert said(fed(parser, dialect.trigger + walk.answer())) == ""
    assert parser.calls
