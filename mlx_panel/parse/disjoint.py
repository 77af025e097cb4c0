"""`oneOf` where it means no more than `anyOf`: no value is of two of its branches.

That is shown by types, by constants, by bounds of numbers, and for objects by a property that one of two branches requires
and for which the two have nothing in common: the usual tagged union. Where it cannot be shown `oneOf` is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from ..errors import GrammarTooComplex, UnsupportedParameter
from .decimals import is_number
from .references import PREFIX

Schema = dict[str, Any] | bool
DEEPEST = 8
# Pairs of branches that are compared; some 0.1 s.
MOST = 20_000
_EVERY = frozenset({"null", "boolean", "number", "string", "array", "object"})


class OneOf(list[Schema]):
    """The branches of a `oneOf`, and where it stands."""

    def __init__(self, branches: Iterable[Schema], path: str):
        super().__init__(branches)
        self.path = path


def without_one_of(schema: Schema, known: Known) -> Schema:
    """The schema with `anyOf` in the place of `oneOf`, everywhere. Raises UnsupportedParameter."""
    if isinstance(schema, bool):
        return schema
    made = {word: _within(word, value, known) for word, value in schema.items()}
    branches = made.pop("oneOf", None)
    if branches is None:
        return made
    if not all(known.apart(one, other) for one, other in combinations(branches, 2)):
        path = schema["oneOf"].path
        raise UnsupportedParameter(
            f"'{path}' is not supported: several of its branches may hold at once. Only branches that exclude each "
            "other, by their types or a constant, can be enforced.",
            field=path,
        )
    if "anyOf" in made:
        return {**made, "allOf": [*made.get("allOf", []), {"anyOf": branches}]}
    return {**made, "anyOf": branches}


def _within(word: str, value: Any, known: Known) -> Any:
    if word in ("properties", "patternProperties"):
        return {name: without_one_of(one, known) for name, one in value.items()}
    if word in ("items", "additionalProperties"):
        return without_one_of(value, known)
    if word in ("allOf", "anyOf", "oneOf", "prefixItems"):
        return [without_one_of(one, known) for one in value]
    return value


def has_type(value: Any, types: Any) -> bool:
    """Whether a value is of a schema's `type`; None is any."""
    if types is None:
        return True
    wanted = [types] if isinstance(types, str) else types
    whole = is_number(value) and value == int(value)
    return kind(value) in wanted or (whole and "integer" in wanted)


def kind(value: Any) -> str:
    """The type of a JSON value, integers being numbers."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if is_number(value):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


class Known:
    """What is certain of schemas' values."""

    def __init__(self, definitions: Mapping[str, Schema], path: str):
        self._definitions = definitions
        self._path = path
        self._left = MOST

    def apart(self, one: Schema, other: Schema, depth: int = 0) -> bool:
        """Whether it is certain that no value is of both. Raises GrammarTooComplex after `MOST` comparisons."""
        self._left -= 1
        if self._left < 0:
            raise GrammarTooComplex(f"'{self._path}' has too large a 'oneOf'.", field=self._path, limit=MOST)
        if one is False or other is False:
            return True
        if one is True or other is True or depth > DEEPEST:
            return False
        for first, second in ((one, other), (other, one)):
            if any(self.apart(part, second, depth + 1) for part in self._all(first)):
                return True
            branches = first.get("anyOf") or first.get("oneOf")
            if branches and all(self.apart(branch, second, depth + 1) for branch in branches):
                return True
        return (
            self._types(one).isdisjoint(self._types(other))
            or _constants_apart(one, other)
            or _bounds_apart(one, other)
            or self._objects_apart(one, other, depth)
        )

    def _all(self, schema: dict[str, Any]) -> list[Schema]:
        """Other schemas that a value of this one is of."""
        parts = list(schema.get("allOf", ()))
        if "$ref" in schema:
            parts.append(self._definitions[schema["$ref"].removeprefix(PREFIX)])
        return parts

    def _types(self, schema: dict[str, Any]) -> frozenset[str]:
        values = _constants(schema)
        if values is not None:
            return frozenset(map(kind, values))
        types = schema.get("type")
        if types is None:
            return _EVERY
        return frozenset(
            "number" if name == "integer" else name for name in ([types] if isinstance(types, str) else types)
        )

    def _objects_apart(self, one: dict[str, Any], other: dict[str, Any], depth: int) -> bool:
        if self._types(one) != {"object"} or self._types(other) != {"object"}:
            return False
        names = {*one.get("required", ()), *other.get("required", ())}
        return any(self.apart(_property(one, name), _property(other, name), depth + 1) for name in names)


def _property(schema: dict[str, Any], name: str) -> Schema:
    named: Schema | None = schema.get("properties", {}).get(name)
    if named is not None:
        return named
    more: Schema = True if schema.get("patternProperties") else schema.get("additionalProperties", True)
    return more


def _constants(schema: dict[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _constants_apart(one: dict[str, Any], other: dict[str, Any]) -> bool:
    mine, theirs = _constants(one), _constants(other)
    if mine is None or theirs is None:
        return False
    return not any(kind(value) == kind(like) and value == like for value in mine for like in theirs)


def _bounds_apart(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Numbers of which all of one lie below all of the other."""
    if not all(schema.get("type") in ("number", "integer") for schema in (one, other)):
        return False
    for low, high in ((one, other), (other, one)):
        for top in ("maximum", "exclusiveMaximum"):
            for bottom in ("minimum", "exclusiveMinimum"):
                if top in low and bottom in high:
                    strict = top != "maximum" or bottom != "minimum"
                    if low[top] < high[bottom] or (strict and low[top] == high[bottom]):
                        return True
    return False
