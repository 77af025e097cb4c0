"""What an answer is to look like: OpenAI's `response_format`, and `regex`, `choice` and `grammar`, into a `Structure`.

Everything is checked at the door: a schema that cannot be enforced is refused by the keyword, never half obeyed.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from ..errors import InvalidParameter
from ..messages import Structure, StructureKind
from ..parse import schema as schemas

MAX_SCHEMA = 256 << 10  # bytes of JSON
DEEPEST = 64  # levels
MAX_TEXT = 64 << 10  # characters of an expression or a grammar
MAX_ANSWERS = 1024
MAX_ANSWER = 4096  # characters
JsonSchema = dict[str, Any] | bool


class SchemaFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`strict` changes nothing: a schema is always enforced."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    schema: JsonSchema | None = None
    description: str | None = None
    strict: bool | None = None


class Format(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None

    @property
    def described(self) -> bool:
        """Whether it has words for the model, which does not get them."""
        return self.json_schema is not None and self.json_schema.description is not None


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The member `structured_outputs`, as vLLM has it."""

    json: dict[str, Any] | bool | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


def structure(
    format: Format | None, regex: str | None, choice: list[str] | None, grammar: str | None, held: Held | None
) -> tuple[Structure | None, str]:
    """The one structure that is asked for, or None, and the field that asks.

    Raises InvalidParameter, and UnsupportedParameter for a schema keyword that cannot be enforced.
    """
    asked: list[tuple[str, StructureKind, Any]] = [
        *_formatted(format),
        *_texts("", regex, choice, grammar),
        *(_held(held) if held is not None else ()),
    ]
    if len(asked) > 1:
        fields = " and ".join(f"'{field}'" for field, _, _ in asked[:2])
        raise InvalidParameter(f"{fields} both say what the answer looks like; send one.", field=asked[1][0])
    if not asked:
        return None, ""
    field, kind, value = asked[0]
    return _structure(field, kind, value), field


def _formatted(format: Format | None) -> list[tuple[str, StructureKind, Any]]:
    if format is None or format.type == "text":
        return []
    if format.type == "json_object":
        return [("response_format", "json_object", None)]
    given = None if format.json_schema is None else format.json_schema.schema
    return [("response_format", "json_schema", given)]


def _texts(
    above: str, regex: str | None, choice: list[str] | None, grammar: str | None
) -> list[tuple[str, StructureKind, Any]]:
    given: list[tuple[str, StructureKind, Any]] = [
        (f"{above}regex", "regex", regex),
        (f"{above}choice", "choice", choice),
        (f"{above}grammar", "grammar", grammar),
    ]
    return [one for one in given if one[2] is not None]


def _held(held: Held) -> list[tuple[str, StructureKind, Any]]:
    found = _texts("structured_outputs.", held.regex, held.choice, held.grammar)
    if held.json is not None:
        found.append(("structured_outputs.json", "json_schema", _loaded(held.json)))
    if held.json_object:
        found.append(("structured_outputs.json_object", "json_object", None))
    return found


def _loaded(given: JsonSchema | str) -> Any:
    """vLLM takes a schema as text too."""
    if not isinstance(given, str):
        return given
    try:
        return msgspec.json.decode(given, type=dict[str, Any] | bool)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        field = "structured_outputs.json"
        raise InvalidParameter(f"'{field}' is no JSON Schema.", field=field) from None


def _structure(field: str, kind: StructureKind, value: Any) -> Structure:
    if kind == "json_schema":
        path = f"{field}.json_schema.schema" if field == "response_format" else field
        if value is None:
            raise InvalidParameter(f"The field '{path}' is required.", field=path)
        checked(value, path)
        return Structure(kind, schema=value)
    if kind == "choice":
        return Structure(kind, choices=_answers(value, field))
    if kind == "json_object":
        return Structure(kind)
    if not 0 < len(value) <= MAX_TEXT:
        raise InvalidParameter(f"'{field}' takes 1 to {MAX_TEXT} characters.", field=field)
    return Structure(kind, text=value)


def _answers(given: list[str], field: str) -> tuple[str, ...]:
    if not 0 < len(given) <= MAX_ANSWERS or not all(0 < len(answer) <= MAX_ANSWER for answer in given):
        raise InvalidParameter(
            f"'{field}' takes 1 to {MAX_ANSWERS} answers of 1 to {MAX_ANSWER} characters.", field=field
        )
    return tuple(dict.fromkeys(given))


def checked(schema: JsonSchema, field: str) -> None:
    """Raises InvalidParameter for a schema that is too large, UnsupportedParameter for one that cannot be enforced."""
    weighed(schema, field)
    schemas.check(schema, field)


def weighed(value: Any, field: str, most: int = MAX_SCHEMA) -> None:
    """Raises InvalidParameter for a value that is nested too deeply, or larger than so many bytes of JSON."""
    if _deeper(value, DEEPEST):
        raise InvalidParameter(f"'{field}' is nested deeper than {DEEPEST} levels.", field=field)
    if len(msgspec.json.encode(value)) > most:
        raise InvalidParameter(f"'{field}' is larger than {most} bytes of JSON.", field=field)


def _deeper(value: Any, levels: int) -> bool:
    """Whether a value has more levels. What goes on to a worker must be no deeper than its stack is anywhere."""
    layer = [value]
    for _ in range(levels + 1):
        inner = [
            list(one.values()) if isinstance(one, dict) else one
            for one in layer
            if isinstance(one, dict | list)
        ]
        layer = [one for values in inner for one in values]
        if not layer:
            return False
    return True
