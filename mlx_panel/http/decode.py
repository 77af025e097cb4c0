"""Request bodies into structs: every field is taken, refused by name, or named as ignored.

A dialect states its vocabulary in three parts: the fields of its struct; `unsupported` fields with the values that
change nothing (null always does); and `without_effect`, fields about the caller rather than the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from ..errors import InvalidBody, InvalidParameter, UnknownField, UnsupportedParameter

T = TypeVar("T")
PRINTABLE = re.compile(r"[A-Za-z0-9_.\-]{1,64}")


class Vocabulary(msgspec.Struct, frozen=True):
    """The fields an API defines beside those that are taken; `instead` names what to send for an unsupported one."""

    unsupported: Mapping[str, tuple[Any, ...]] = {}
    instead: Mapping[str, str] = {}
    without_effect: frozenset[str] = frozenset()


def take(
    raw: dict[str, Any], into: type[T], vocabulary: Vocabulary, *, refuse_unknown: bool
) -> tuple[T, list[str]]:
    """A loaded body as `into`, and the names of the fields that were ignored.

    Raises InvalidParameter, UnsupportedParameter, UnknownField; none of them quotes the body's values.
    """
    ignored = _sort(raw, into, vocabulary, refuse_unknown)
    return convert(raw, into), ignored


def load(body: bytes) -> dict[str, Any]:
    """JSON into a dict. Raises InvalidBody."""
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidBody("The body is not valid JSON.") from error
    if not isinstance(raw, dict):
        raise InvalidBody
    return raw


def convert(raw: Any, into: type[T], *, strict: bool = True) -> T:
    """Check types and bounds; not `strict` reads numbers out of text, as in a query. Raises InvalidParameter with the path."""
    try:
        return msgspec.convert(raw, into, strict=strict)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except RecursionError as error:
        raise InvalidBody("The body is nested too deeply.") from error


def _sort(raw: dict[str, Any], into: type, vocabulary: Vocabulary, refuse_unknown: bool) -> list[str]:
    taken = {field.encode_name for field in msgspec.structs.fields(into)}
    rest = [name for name in raw if name not in taken]
    for name in rest:
        if name in vocabulary.unsupported and not neutral(raw[name], vocabulary.unsupported[name]):
            other = f"; use '{vocabulary.instead[name]}'" if name in vocabulary.instead else ""
            raise UnsupportedParameter(f"The parameter '{name}' is not supported here{other}.", field=name)
    ignored = [name for name in rest if name not in vocabulary.unsupported and raw[name] is not None]
    unknown = [name for name in ignored if name not in vocabulary.without_effect]
    if unknown and refuse_unknown:
        raise UnknownField(
            f"The field '{printable(unknown[:1])[0]}' is not part of this API.",
            field=printable(unknown[:1])[0],
        )
    return printable(ignored)


def neutral(value: Any, values: Iterable[Any]) -> bool:
    """Whether a parameter is given with a value that changes nothing. True is not 1 here."""
    return value is None or any(
        value == one and isinstance(value, bool) == isinstance(one, bool) for one in values
    )


def printable(names: Iterable[str]) -> list[str]:
    """Names fit for a header and a log; a name that is not an identifier may be anything, so it is not repeated."""
    return sorted({name if PRINTABLE.fullmatch(name) else "(unprintable)" for name in names})


def _invalid(text: str) -> InvalidParameter:
    """msgspec's message without any value of the request: only its own words on types and bounds are kept."""
    what, _, path = text.partition(" - at `")
    field = path.rstrip("`").removeprefix("$").removeprefix(".") or None
    beyond = re.fullmatch(r"Object contains unknown field `([A-Za-z0-9_.\-]{1,64})`", what)
    if beyond:
        return InvalidParameter(
            f"The field '{field or 'body'}' is not valid: it has no '{beyond[1]}'.", field=field
        )
    missing = re.fullmatch(r"Object missing required field `(\w+)`", what)
    if missing:
        field = f"{field}.{missing[1]}" if field else missing[1]
        return InvalidParameter(f"The field '{field}' is required.", field=field)
    reason = (
        what[0].lower() + what[1:] if what.startswith("Expected") else "its value is not one of those allowed"
    )
    return InvalidParameter(f"The field '{field or 'body'}' is not valid: {reason}.", field=field)
