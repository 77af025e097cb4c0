"""What a schema asks for is enforced, or refused by name: against llguidance's compiler, its masks and jsonschema."""

from __future__ import annotations

import datetime
import ipaddress
import json
import random
import re
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from mlx_lm.utils import load_tokenizer

from mlx_panel.engine.detokenize import Vocabulary
from mlx_panel.engine.grammar import tokens
from mlx_panel.engine.grammar.guide import LlGuide
from mlx_panel.engine.grammar.lark import held
from mlx_panel.engine.grammar.limits import parser_limits
from mlx_panel.errors import BadRequest, GrammarTooComplex, InvalidParameter, UnsupportedParameter
from mlx_panel.parse import pattern
from mlx_panel.parse.formats import FORMATS
from mlx_panel.parse.schema import check, enforceable, lowered
from mlx_panel.parse.schema_words import ENFORCED

from . import models
from .schemas import generated, walk

DEEP: Any = {"type": "integer"}
for _ in range(101):
    DEEP = {"items": DEEP}


class Bench:
    """llguidance with a tiny tokenizer."""

    def __init__(self, folder: Path):
        models.tokenizer(folder)
        (folder / "config.json").write_text("{}")
        self.tokenizer = load_tokenizer(folder)
        vocabulary = Vocabulary(self.tokenizer)
        self.pieces = list(map(vocabulary.piece, range(vocabulary.size)))
        self.eos = set(self.tokenizer.eos_token_ids)
        self._known: LLTokenizer = tokens.tokenizer(self.tokenizer, vocabulary.size, sorted(self.eos))

    def matcher(self, schema: Any, **options: Any) -> LLMatcher:
        given = held(schema) if not options else {**schema, "x-guidance": options}
        source = json.dumps({"grammars": [{"json_schema": given}]})
        return LLMatcher(self._known, source, log_level=0, limits=parser_limits())

    def guide(self, schema: Any) -> LlGuide:
        matcher = self.matcher(lowered(schema))
        assert not matcher.is_error(), (matcher.get_error(), schema)
        return LlGuide(matcher, len(self.pieces), len(self.pieces))

    def accepts(self, matcher: LLMatcher, text: str) -> bool:
        copy = matcher.deep_copy()
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return bool(copy.consume_tokens(ids) and copy.is_accepting())

    def walks(self, schema: Any, count: int, most: int = 600) -> Iterator[Any]:
        """The values of random answers; those that do not end are left out."""
        guide = self.guide(schema)
        for number in range(count):
            text = walk(guide.copy(), self.pieces, self.eos, np.random.default_rng(number), most)
            if text is not None:
                yield json.loads(text)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("tokenizer"))


REFUSED: list[tuple[Any, type[BadRequest], str]] = [
    ({"properties": {"a": {"not": {}}}}, UnsupportedParameter, "s.properties.a.not"),
    ({"items": {"uniqueItems": True}}, UnsupportedParameter, "s.items.uniqueItems"),
    ({"if": {}, "then": {}}, UnsupportedParameter, "s.if"),
    ({"prefixItems": [True, {"contains": {}}]}, UnsupportedParameter, "s.prefixItems.1.contains"),
    ({"dependentRequired": {"a": ["b"]}}, UnsupportedParameter, "s.dependentRequired"),
    ({"dependentSchemas": {"a": {"type": "null"}}}, UnsupportedParameter, "s.dependentSchemas"),
    ({"propertyNames": {"pattern": "a"}}, UnsupportedParameter, "s.propertyNames"),
    ({"unevaluatedProperties": False}, UnsupportedParameter, "s.unevaluatedProperties"),
    ({"unevaluatedItems": {"type": "null"}}, UnsupportedParameter, "s.unevaluatedItems"),
    ({"$dynamicRef": "#a"}, UnsupportedParameter, "s.$dynamicRef"),
    ({"$recursiveRef": "#"}, UnsupportedParameter, "s.$recursiveRef"),
    ({"nullable": True}, UnsupportedParameter, "s.nullable"),
    ({"properties": {"a b": {"not": {}}}}, UnsupportedParameter, "s.properties.(unprintable).not"),
    ({"properties": {"é" * 9: {"not": {}}}}, UnsupportedParameter, "s.properties.(unprintable).not"),
    ({"<b>": 1}, UnsupportedParameter, "s.(unprintable)"),
    ({"properties": {"a": {"$id": "x"}}}, UnsupportedParameter, "s.properties.a.$id"),
    ({"$ref": "https://example.com/s"}, UnsupportedParameter, "s.$ref"),
    ({"$ref": "#name"}, UnsupportedParameter, "s.$ref"),
    ({"$ref": "#/$defs/a"}, InvalidParameter, "s.$ref"),
    ({"$ref": "#/a/b", "a": []}, UnsupportedParameter, "s.a"),
    ({"$ref": "#"}, InvalidParameter, "s"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, InvalidParameter, "s"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"not": {}}}}, UnsupportedParameter, "s.$defs.a.not"),
    ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, InvalidParameter, "s"),
    ({"properties": {"a": {"$ref": "#", "required": ["b"]}}}, UnsupportedParameter, "s"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, UnsupportedParameter, "s.oneOf"),
    ({"items": {"oneOf": [{"const": 1}, {"enum": [2, 1.0]}]}}, UnsupportedParameter, "s.items.oneOf"),
    ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, UnsupportedParameter, "s.oneOf"),
    ({"format": "regex"}, UnsupportedParameter, "s.format"),
    ({"format": "unknown"}, UnsupportedParameter, "s.format"),
    ({"pattern": "a(?=b)"}, UnsupportedParameter, "s.pattern"),
    ({"patternProperties": {"\\b": True}}, UnsupportedParameter, "s.patternProperties"),
    ({"minProperties": 2}, UnsupportedParameter, "s.minProperties"),
    ({"properties": {"a": True}, "maxProperties": 3}, UnsupportedParameter, "s.maxProperties"),
    ({"allOf": [{"required": ["a"]}], "maxProperties": 1}, UnsupportedParameter, "s.maxProperties"),
    ({"multipleOf": 0.07}, UnsupportedParameter, "s.multipleOf"),
    ({"maximum": 1e300}, UnsupportedParameter, "s.maximum"),
    ({"const": 2**53 + 1}, UnsupportedParameter, "s.const"),
    ({"enum": ["a", "\x01"]}, UnsupportedParameter, "s.enum"),
    ({"properties": {"\x01": True}}, UnsupportedParameter, "s.properties"),
    (False, InvalidParameter, "s"),
    (3, InvalidParameter, "s"),
    ({"items": "x"}, InvalidParameter, "s.items"),
    ({"type": "strin"}, InvalidParameter, "s.type"),
    ({"type": []}, InvalidParameter, "s.type"),
    ({"type": [1]}, InvalidParameter, "s.type"),
    ({"minLength": -1}, InvalidParameter, "s.minLength"),
    ({"minLength": "1"}, InvalidParameter, "s.minLength"),
    ({"maxItems": 1.5}, InvalidParameter, "s.maxItems"),
    ({"maxItems": True}, InvalidParameter, "s.maxItems"),
    ({"minLength": 3, "maxLength": 2}, InvalidParameter, "s.minLength"),
    ({"minimum": "3"}, InvalidParameter, "s.minimum"),
    ({"type": "number", "minimum": 3, "maximum": 2}, InvalidParameter, "s"),
    ({"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 4}, InvalidParameter, "s"),
    ({"type": "number", "exclusiveMinimum": 3, "maximum": 3}, InvalidParameter, "s"),
    ({"exclusiveMinimum": True, "minimum": 3}, InvalidParameter, "s.exclusiveMinimum"),
    ({"multipleOf": 0}, InvalidParameter, "s.multipleOf"),
    ({"pattern": 3}, InvalidParameter, "s.pattern"),
    ({"enum": []}, InvalidParameter, "s.enum"),
    ({"enum": "a"}, InvalidParameter, "s.enum"),
    ({"type": "string", "const": 1}, InvalidParameter, "s.const"),
    ({"anyOf": []}, InvalidParameter, "s.anyOf"),
    ({"allOf": {"a": 1}}, InvalidParameter, "s.allOf"),
    ({"properties": []}, InvalidParameter, "s.properties"),
    ({"required": ["a", 1]}, InvalidParameter, "s.required"),
    ({"required": ["a", "b"], "maxProperties": 1}, InvalidParameter, "s.required"),
    ({"type": "object", "required": ["a"], "additionalProperties": False}, InvalidParameter, "s"),
    ({"enum": list(range(20_000))}, GrammarTooComplex, "s"),
    ({"properties": {f"a{n}": True for n in range(2_001)}}, GrammarTooComplex, "s.properties"),
    ({"oneOf": [{"const": n} for n in range(300)]}, GrammarTooComplex, "s"),
    ({"anyOf": [{"pattern": "a" * 3_000} for _ in range(40)]}, GrammarTooComplex, "s"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "kind", "field"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_cannot_be_enforced_is_refused_by_word_and_place(
    schema: Any, kind: type[BadRequest], field: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        check(schema, "s")
    assert type(caught.value) is kind
    assert caught.value.field == field
    assert f"'{field}'" in str(caught.value)
    assert not enforceable(schema)


def test_a_schema_of_too_many_levels_is_refused() -> None:
    with pytest.raises(GrammarTooComplex) as caught:
        check(DEEP, "s")
    assert caught.value.numbers["limit"] == 100


EVERYTHING: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "urn:x", "$comment": "c", "title": "t", "type": "object", "x-order": 3,
    "description": "d", "default": {}, "examples": [1], "deprecated": False, "readOnly": True, "writeOnly": True,
    "properties": {
        "string": {"type": "string", "minLength": 1, "maxLength": 9, "contentMediaType": "text/plain", "contentEncoding": "base64"},
        "pattern": {"type": "string", "pattern": "^a+$"},
        "integer": {"type": "integer", "minimum": -3, "exclusiveMaximum": 9, "multipleOf": 3},
        "number": {"type": "number", "maximum": 1.5, "exclusiveMinimum": 0},
        "array": {"type": "array", "items": {"type": "null"}, "minItems": 1, "maxItems": 2, "uniqueItems": False},
        "one": {"type": "array", "uniqueItems": True, "maxItems": 1},
        "tuple": {"type": "array", "prefixItems": [{"const": 1}], "items": False, "unevaluatedItems": True},
        "old": {"type": "array", "items": [{"const": 1}], "additionalItems": {"type": "boolean"}},
        "map": {"type": "object", "patternProperties": {"^k": True}, "additionalProperties": False, "minProperties": 1, "maxProperties": 2},
        "either": {"anyOf": [{"type": ["string", "null"]}, {"enum": [1, {"a": []}]}]},
        "union": {"oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}], "discriminator": {"propertyName": "kind"}},
        "described": {"allOf": [{"$ref": "#/$defs/cat"}], "description": "As Pydantic 1 wrote it."},
        "both": {"allOf": [{"required": ["a"]}, {"properties": {"a": {"type": "null"}}, "type": "object"}]},
        "self": {"$ref": "#"},
        "place": {"$ref": "#/properties/a~1b%20c"},
        "a/b c": {"type": "boolean"},
        "any": True,
    },
    "required": ["string"], "additionalProperties": False,
    "$defs": {
        "cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
        "dog": {"type": "object", "properties": {"kind": {"const": "dog"}}, "required": ["kind"]},
        "unused": {"not": {}},
    },
}  # fmt: skip


def test_every_word_that_is_enforced_is_one_llguidance_compiles(bench: Bench) -> None:
    check(EVERYTHING, "s")
    matcher = bench.matcher(lowered(EVERYTHING))
    assert matcher.get_error() == ""
    assert matcher.get_grammar_warnings() == []
    names = set(re.findall(r'"(\$?\w+)":', json.dumps(EVERYTHING)))
    assert names >= ENFORCED - {"format"}
    good = '{"string": "x", "union": {"kind": "dog"}, "self": {"string": "y"}, "place": true, "any": [1]}'
    assert bench.accepts(matcher, good)
    assert not bench.accepts(matcher, good.replace('"dog"', '"cow"'))
    assert not bench.accepts(matcher, good.replace("true", "1"))


# llguidance with its own options lets these through, or leaves the word out without a word.
LET_THROUGH: list[tuple[Any, str]] = [
    ({"type": "object", "properties": {"a": {"type": "integer"}}}, '{"\\u0061":"not an integer"}'),
    ({"type": "number", "exclusiveMinimum": 19, "exclusiveMaximum": 19.5}, "19"),
    ({"type": "number", "exclusiveMaximum": 1, "minimum": 0}, "0.99999999999999999"),
    ({"type": "string", "format": "date"}, '"2023-02-29"'),
    ({"type": "string", "format": "date"}, '"0000-01-01"'),
    ({"type": "object"}, '{"a":        1}'),
]


@pytest.mark.parametrize(("schema", "text"), LET_THROUGH, ids=str)
def test_what_llguidance_lets_through_is_narrowed(bench: Bench, schema: Any, text: str) -> None:
    assert bench.accepts(bench.matcher(schema, whitespace_flexible=True), text)
    assert not bench.accepts(bench.matcher(lowered(schema)), text)


@pytest.mark.parametrize(
    "schema",
    [
        {"minProperties": 3, "type": "object"},
        {"$schema": "http://json-schema.org/draft-07/schema#", "dependentRequired": {"a": ["b"]}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "unevaluatedProperties": False},
        {"nullable": True, "type": "string"},
        {"const": 2**60},
        {"type": "string", "format": "unknown"},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    ],
    ids=str,
)
def test_what_llguidance_compiles_and_does_not_enforce_is_refused(bench: Bench, schema: Any) -> None:
    assert not bench.matcher(schema, lenient=False).is_error()
    assert not enforceable(schema)


def test_random_answers_are_valid(bench: Bench) -> None:
    """Any allowed token, again and again: what comes out meets its schema, whatever the schema."""
    checked = 0
    for schema in generated(60, seed=1000):
        validator = jsonschema.Draft202012Validator(
            schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
        )
        for value in bench.walks(schema, 2):
            validator.validate(value)
            checked += 1
    assert checked > 100


def test_numbers_keep_their_bounds(bench: Bench) -> None:
    """Random bounds of few and many digits, met after the answer was read as floats."""
    chance, seen = random.Random(3), 0
    for _ in range(120):
        low = round(chance.uniform(-1, 1) * 10 ** chance.randrange(-2, 6), chance.randrange(5))
        high = round(low + chance.choice([0.5, 1, 3, 1000]), 4)
        schema: dict[str, Any] = {"type": chance.choice(["number", "integer"])}
        schema[chance.choice(["minimum", "exclusiveMinimum"])] = low
        schema[chance.choice(["maximum", "exclusiveMaximum"])] = high
        if chance.random() < 0.3:
            schema["multipleOf"] = chance.choice([1, 2, 3, 0.5, 0.25, 0.1, 1.5])
        if not enforceable(schema) or bench.matcher(lowered(schema)).is_error():
            continue
        for value in bench.walks(schema, 3, most=100):
            seen += 1
            assert schema.get("minimum", low) <= value <= schema.get("maximum", high), schema
            assert value not in (schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")), schema
            assert Decimal(repr(value)) % Decimal(repr(schema.get("multipleOf", value or 1))) == 0, schema
    assert seen > 150


def _duration(text: str) -> None:
    assert re.fullmatch(r"P(?=.)(\d+[YMWD])*(T(\d+[HMS])+)?", text)


def _host(text: str) -> None:
    assert len(text) <= 253
    assert all(0 < len(label) <= 63 and label.strip("-") == label for label in text.split("."))


def _mail(text: str) -> None:
    local, _, host = text.rpartition("@")
    assert 0 < len(local) <= 64
    assert not {"..", " "} & {local, local[:1]}
    _host(host)


READERS: dict[str, Callable[[str], Any]] = {
    "date-time": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "duration": _duration,
    "email": _mail,
    "hostname": _host,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uuid": uuid.UUID,
    "uri": lambda text: re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:\S+", text)[0],  # type: ignore[index]
}
SPELLED = {
    "date-time": ["2024-02-29T23:59:59.5Z", "0001-01-01T00:00:00+01:30"],
    "date": ["2000-02-29", "9999-12-31"],
    "time": ["10:00:00Z", "23:59:59.123456-08:00"],
    "duration": ["P1Y2M3DT4H5M6S", "PT90S", "P4W"],
    "email": ["first.last+tag@mail.example.co.uk", "o'neil@example.com"],
    "hostname": ["localhost", "a-1.example.com"],
    "ipv4": ["0.0.0.0", "255.249.10.99"],
    "ipv6": ["::", "::1", "2001:db8::ff00:42:8329", "1:2:3:4:5:6:7:8", "fe80::"],
    "uuid": ["123e4567-e89b-12d3-a456-426614174000"],
    "uri": [
        "https://user@example.com:8080/a/b%20c?q=1&r=/#frag",
        "mailto:a@b.c",
        "urn:isbn:0451450523",
        "http://[::1]/",
    ],
}


@pytest.mark.parametrize("name", FORMATS)
def test_strings_of_a_format_are_read_by_others_and_usual_ones_are_allowed(bench: Bench, name: str) -> None:
    for text in SPELLED[name]:
        assert re.search(FORMATS[name], text), text
    values = list(bench.walks({"type": "string", "format": name}, 60, most=300))
    assert len(values) > 30
    for value in values:
        READERS[name](value)


PATTERNS = {
    "": True, "^a$": True, "^a|b$": True, "(^a)|(b$)": True, "a{2,}": True, "a+?": True, "(?:a|)": True, "(?P<n>a)": True,
    "[^\\d]": True, "[\\w.-]+": True, "[a-]": True, "\\p{L}+": True, "\\u0041[\\x41-\\x5a]": True, "\\/\\-\\.": True, "^[^\\s@]+@x$": True,
    "a^b": False, "a$b": False, "\\bfoo": False, "(?i)a": False, "(?=a)b": False, "(?<!a)b": False, "\\Aa\\z": False, "[a&&b]": False,
    "[a--b]": False, "[[a]": False, "[[:alpha:]]": False, "[]a]": False, "[^]a]": False, "a{,3}": False, "\\cA": False, "\\0": False,
    "(a)\\1": False, "\\k<n>": False, "a++": False, "a**": False, "*a": False, "(*a)": False, "[\\b]": False, "[z-a]": False, "[a-\\d]": False,
    "(a": False, "a)": False, "{": False, "a{3,2}": False, "\\": False, "\\é": False, "(?x)a b": False, "\\<a": False,
}  # fmt: skip


@pytest.mark.parametrize("expression", PATTERNS)
def test_patterns_are_those_that_python_and_llguidance_read_alike(bench: Bench, expression: str) -> None:
    fault = pattern.fault(expression)
    assert (fault == "") == PATTERNS[expression]
    if fault:
        return
    assert not bench.matcher(lowered({"type": "string", "pattern": expression})).is_error()
    if "\\p" not in expression:
        for value in bench.walks({"type": "string", "pattern": expression, "maxLength": 8}, 5, most=100):
            assert re.search(expression, value)


def test_errors_quote_nothing_of_a_schema_but_plain_names() -> None:
    canary = "top secret €"
    for schema in (
        {"properties": {canary: {"not": {}}}},
        {canary: 1},
        {"enum": [canary, "\x00"]},
        {"const": {canary: 2**60}},
        {"pattern": canary + "(?=a)"},
        {"format": canary},
        {"$ref": "#/" + canary},
        {"$ref": canary},
        {"type": canary},
        {"patternProperties": {canary + "\\b": {"not": {}}}},
        {"required": [canary, 1]},
    ):
        with pytest.raises(BadRequest) as caught:
            check(schema, "s")
        assert "secret" not in f"{caught.value} {caught.value.field} {caught.value.numbers}"
