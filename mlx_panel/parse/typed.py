"""Arguments that a model wrote without quotes, turned into JSON by the types their schema gives them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..request import Tool
from .values import quoted, settle

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.0++)?")
_NUMBER = re.compile(r"-?[0-9][0-9.eE+-]*+")
# What schemas call the types of JSON, their own names first.
_NAMES = {
    **{name: name for name in ("string", "integer", "number", "boolean", "object", "array", "null")},
    **{"str": "string", "text": "string", "int": "integer", "float": "number", "bool": "boolean"},
    **{"dict": "object", "list": "array"},
}
_OF_VALUES = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
    dict: "object",
}
# A schema may refer to itself: so many references are followed in a row, and so many parts looked at for its types.
_DEEPEST = 8
_MOST = 100


def parameters(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments: any object where it has none."""
    return tool.parameters if tool.parameters is not None else {"type": "object"}


def resolved(schema: Any, root: Mapping[str, Any]) -> Any:
    """The schema that a local reference names, or `schema` itself where it is none that can be followed."""
    depth = 0
    while isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str) and depth < _DEEPEST:
        target: Any = root
        for part in schema["$ref"].removeprefix("#").strip("/").split("/"):
            part = part.replace("~1", "/").replace("~0", "~")
            target = target.get(part) if isinstance(target, Mapping) and part else target
        schema, depth = target, depth + 1
    return schema


def types(schema: Any, root: Mapping[str, Any]) -> tuple[str, ...]:
    """The types a schema allows, in its order but "string" last; none where it does not say."""
    unique = dict.fromkeys(name for name in _types(schema, root, set()) if name)
    return tuple(sorted(unique, key="string".__eq__))


def _types(schema: Any, root: Mapping[str, Any], seen: set[int]) -> list[str]:
    schema = resolved(schema, root)
    if not isinstance(schema, Mapping) or id(schema) in seen or len(seen) == _MOST:
        return []
    seen.add(id(schema))
    named = schema.get("type")
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(named, str | list):
        return [_NAMES.get(str(name).lower(), "") for name in ([named] if isinstance(named, str) else named)]
    if isinstance(values, list):
        return [kind_of(value) for value in values]
    parts = [part for key in ("anyOf", "oneOf", "allOf") for part in _list(schema.get(key))]
    return [name for part in parts for name in _types(part, root, seen)]


def kind_of(value: Any) -> str:
    """The JSON type of a value."""
    return _OF_VALUES.get(type(value), "array")


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


class Typed:
    """The parameters that a schema declares. `root` is where its references point, itself if it stands alone."""

    def __init__(self, schema: Mapping[str, Any] | None, root: Mapping[str, Any] | None = None):
        self.root = root if root is not None else schema or {}
        found = resolved(schema, self.root)
        own: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
        properties = own.get("properties")
        self.properties: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
        self.required = frozenset(str(name) for name in _list(own.get("required")))
        self.others = own.get("additionalProperties", True)

    def __repr__(self) -> str:
        return f"<Typed {len(self.properties)} parameters>"

    @classmethod
    def of(cls, tool: Tool | None) -> Typed:
        return cls(tool.parameters if tool else None)

    def types(self, key: str) -> tuple[str, ...]:
        """The types of a parameter, see `types`."""
        schema = self.properties.get(key, self.others if isinstance(self.others, Mapping) else None)
        return types(schema, self.root)

    def schema(self, key: str) -> dict[str, Any] | bool:
        """The schema of a parameter, with the definitions it may refer to."""
        schema = resolved(self.properties[key], self.root)
        if not isinstance(schema, Mapping):
            return schema is not False
        definitions = {name: self.root[name] for name in ("$defs", "definitions") if name in self.root}
        return {**definitions, **schema}


def decode(text: str, kinds: Sequence[str]) -> str:
    """The JSON of a value of one of these types, tried in their order; of what JSON it reads like where there are none.

    Text that fits none of the types is a string.
    """
    if not kinds:
        value = settle(text)
        return quoted(text) if value is None or value.startswith('"') else value.strip()
    for kind in kinds:
        value = None if kind == "string" else _of_kind(text.strip(), kind)
        if value is not None:
            return value
    return quoted(text)


def _of_kind(text: str, kind: str) -> str | None:
    if kind == "integer":
        return text.partition(".")[0] if _INTEGER.fullmatch(text) else None
    if kind == "number":
        return settle(text) if _NUMBER.fullmatch(text) else None
    if kind == "boolean":
        return text.lower() if text.lower() in ("true", "false") else None
    if kind == "null":
        return "null" if text in ("null", "None") else None
    value = settle(text) if text[:1] == ("{" if kind == "object" else "[") else None
    return value
