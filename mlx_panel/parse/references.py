"""References within a schema: where they lead, and which of them lead nowhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from ..errors import InvalidParameter, UnsupportedParameter

Schema = dict[str, Any] | bool
PREFIX = "#/$defs/"


def steps(pointer: str) -> list[str]:
    """The steps of a JSON pointer (RFC 6901) in the form of a URI fragment, "#" for none."""
    return [unquote(step).replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def found(root: Any, path: Sequence[str]) -> Any:
    """What is there. Raises LookupError where nothing is."""
    place = root
    for step in path:
        if isinstance(place, list):
            if not step.isdecimal():
                raise KeyError(step)
            place = place[int(step)]
        elif isinstance(place, dict):
            place = place[step]
        else:
            raise KeyError(step)
    return place


def exists(root: Any, path: Sequence[str]) -> bool:
    try:
        found(root, path)
    except LookupError:
        return False
    return True


def check(root: Schema, definitions: Mapping[str, Schema], path: str) -> None:
    """Raise for references that cannot be followed: those that lead to themselves at once, schemas within themselves
    that no finite value meets, and a schema within itself that other words narrow."""
    leads = {name: set(named(schema)) for name, schema in definitions.items()}
    if _circular({name: set(named(schema, at_once=True)) for name, schema in definitions.items()}):
        raise InvalidParameter(f"'{path}' has a '$ref' that leads to itself.", field=path)
    circular = _circular(leads)
    if circular and any(
        not circular.isdisjoint(_narrowed(schema)) for schema in [root, *definitions.values()]
    ):
        raise UnsupportedParameter(
            f"'{path}' has a '$ref' to a schema that contains itself beside other words; that cannot be enforced.",
            field=path,
        )
    if not _ends(root, _ending(definitions, leads)):
        raise InvalidParameter(f"'{path}' is met by no value that ends.", field=path)


def inner(schema: dict[str, Any], *, at_once: bool) -> Iterator[Schema]:
    """The schemas in a schema; `at_once` those that speak of the same value."""
    for word in ("allOf", "anyOf", "oneOf"):
        yield from schema.get(word, ())
    if not at_once:
        yield from schema.get("prefixItems", ())
        for word in ("properties", "patternProperties"):
            yield from schema.get(word, {}).values()
        for word in ("items", "additionalProperties"):
            if word in schema:
                yield schema[word]


def named(schema: Schema, *, at_once: bool = False) -> Iterator[str]:
    """The definitions that a schema refers to."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].removeprefix(PREFIX)
        for one in inner(schema, at_once=at_once):
            yield from named(one, at_once=at_once)


def _turned(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Who leads to each."""
    turned: dict[str, set[str]] = {name: set() for name in edges}
    for name, targets in edges.items():
        for target in targets:
            turned[target].add(name)
    return turned


def _circular(edges: Mapping[str, set[str]]) -> set[str]:
    """The definitions on a way that leads back, and those between two such ways."""
    turned = _turned(edges)
    return _peeled(edges, turned) & _peeled(turned, edges)


def _peeled(edges: Mapping[str, set[str]], turned: Mapping[str, set[str]]) -> set[str]:
    """What is left when that which leads nowhere is taken away, again and again."""
    count = {name: len(targets) for name, targets in edges.items()}
    ends = [name for name, left in count.items() if not left]
    while ends:
        for before in turned[ends.pop()]:
            count[before] -= 1
            if not count[before]:
                ends.append(before)
    return {name for name, left in count.items() if left}


def _narrowed(schema: Schema) -> Iterator[str]:
    """The definitions that are met together with other words on the same value."""
    if not isinstance(schema, dict):
        return
    if len(schema) > 1 or len(schema.get("allOf", ())) > 1:
        yield from named(
            {word: schema[word] for word in ("$ref", "allOf", "anyOf", "oneOf") if word in schema},
            at_once=True,
        )
    for one in inner(schema, at_once=False):
        yield from _narrowed(one)


def _ending(definitions: Mapping[str, Schema], leads: Mapping[str, set[str]]) -> set[str]:
    """The definitions that a finite value can meet: each of them needs only others of them."""
    ending: set[str] = set()
    turned, left = _turned(leads), list(definitions)
    while left:
        name = left.pop()
        if name not in ending and _ends(definitions[name], ending):
            ending.add(name)
            left += turned[name]
    return ending


def _ends(schema: Schema, ending: set[str]) -> bool:
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema and schema["$ref"].removeprefix(PREFIX) not in ending:
        return False
    for word in ("anyOf", "oneOf"):
        if word in schema and not any(_ends(one, ending) for one in schema[word]):
            return False
    if not all(_ends(one, ending) for one in schema.get("allOf", ())):
        return False
    kind = schema.get("type")
    kinds = {kind} if isinstance(kind, str) else set(kind or ())
    if kinds == {"object"}:
        return _object_ends(schema, ending)
    return _array_ends(schema, ending) if kinds == {"array"} else True


def _object_ends(schema: dict[str, Any], ending: set[str]) -> bool:
    known, more = schema.get("properties", {}), schema.get("additionalProperties", True)
    patterns = bool(schema.get("patternProperties"))
    return all(_ends(known.get(name, patterns or more), ending) for name in schema.get("required", ()))


def _array_ends(schema: dict[str, Any], ending: set[str]) -> bool:
    least, first = schema.get("minItems", 0), schema.get("prefixItems", [])
    more = [schema.get("items", True)] if least > len(first) else []
    return all(_ends(one, ending) for one in [*first[:least], *more])
