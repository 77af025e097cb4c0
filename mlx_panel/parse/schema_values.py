"""The values that words of JSON Schema take, looked at one word at a time, and what is said where they are wrong."""

from __future__ import annotations

import re
from typing import Any

from ..errors import InvalidParameter, UnsupportedParameter
from . import decimals
from .schema_words import TYPES

# Lengths and counts.
LARGEST = 1 << 30
CONTROL = re.compile("[\x00-\x07\x0b\x0e-\x1f\x7f\ud800-\udfff]")
_STEP = re.compile(r"[A-Za-z0-9_.$\-]{1,64}")


def types(value: Any, path: str) -> Any:
    """`type` as it is, if it is one."""
    listed = value if isinstance(value, list) else [value]
    if not listed or any(one not in TYPES for one in listed if isinstance(one, str)):
        raise invalid(path, "is not one of the types of JSON")
    if not all(isinstance(one, str) for one in listed):
        raise invalid(path, "has to be a string or a list of strings")
    return value


def bounds(given: dict[str, Any], least: str, most: str, path: str) -> None:
    """Two words that count something."""
    for word in (least, most):
        value = given.get(word, 0)
        if not decimals.is_number(value) or not 0 <= value <= LARGEST or value != int(value):
            raise invalid(f"{path}.{word}", f"has to be a whole number from 0 to {LARGEST}")
        if word in given:
            given[word] = int(value)
    if given.get(least, 0) > given.get(most, LARGEST):
        raise invalid(f"{path}.{least}", f"is larger than {most}")


def properties_count(kept: dict[str, Any], path: str) -> None:
    """`minProperties` and `maxProperties` as far as llguidance counts, and counts right: a name that is not in
    `properties` may come twice in its answers, so at most one of these can be asked for."""
    least, most = kept.get("minProperties", 0), kept.get("maxProperties")
    word = "maxProperties" if least == 0 else "minProperties"
    if least == 0 and most is None:
        return
    required = set(kept.get("required", ()))
    left = least - len(required)
    optional = [name for name in kept.get("properties", ()) if name not in required]
    closed = kept.get("additionalProperties") is False and not kept.get("patternProperties")
    if most is not None and len(required) > most:
        raise invalid(f"{path}.required", "has more names than maxProperties allows")
    if left <= 0 and most is None:
        kept.pop("minProperties", None)
        return
    few = left <= 1 and (most is None or most - len(required) == 1)
    if (optional and not (closed and few)) or left > 1:
        raise unsupported(path, word, "counting these properties cannot be enforced")


def names(value: Any, path: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise invalid(path, "has to be a list of strings")
    if any(CONTROL.search(name) for name in value):
        raise UnsupportedParameter(f"'{path}' has a name with control characters.", field=path)
    return list(dict.fromkeys(value))


def count_of(value: Any) -> float:
    return value if decimals.is_number(value) else LARGEST


def plain(name: Any) -> str:
    """A name of the schema's own, as far as it may be repeated."""
    return name if isinstance(name, str) and _STEP.fullmatch(name) else "(unprintable)"


def invalid(path: str, what: str) -> InvalidParameter:
    return InvalidParameter(f"'{path}' {what}.", field=path)


def unsupported(path: str, word: str, why: str) -> UnsupportedParameter:
    place = f"{path}.{plain(word)}"
    return UnsupportedParameter(f"'{place}' is not supported: {why}.", field=place)
