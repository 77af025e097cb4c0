"""What an answer shows: a call, a style of reasoning, a dialect, whether vectors are alike. Pure."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Collection, Iterable, Sequence

from ..parse import detect, reasoning
from ..request import Tools


def called(calls: Iterable[Sequence[str]], tool: str) -> bool:
    """Whether one of these calls, each a name and its arguments, is of a tool that is asked for a city."""
    return any(name == tool and _is_city(arguments) for name, arguments in calls)


def _is_city(arguments: str) -> bool:
    try:
        given = json.loads(arguments)
    except ValueError:
        return False
    return isinstance(given, dict) and isinstance(given.get("city"), str)


def styles_in(text: str, vocabulary: Collection[str], own: str) -> list[str]:
    """The styles of reasoning, but the model's own, whose marks an answer or a vocabulary has; those in the answer first."""
    others = [style for style in reasoning.STYLES.values() if style.name != own]
    seen = [one.name for one in others if text.lstrip().startswith(one.open) or one.close in text]
    return _once(seen, [one.name for one in others if one.open in vocabulary and one.close in vocabulary])


def dialects_in(text: str, tools: Tools, vocabulary: Collection[str], own: str) -> list[str]:
    """The dialects, but the model's own, in which an answer is a call, then those whose marks a vocabulary has."""
    others = [dialect for dialect in detect.BY_NAME.values() if dialect.name != own]
    seen = []
    for dialect in others:
        parser = dialect.parser(tools, eager=False)
        parser.feed(text)
        parser.flush()
        if parser.calls:
            seen.append(dialect.name)
    marked = [one for one in others if one.markers and all(mark in vocabulary for mark in one.markers)]
    return _once(seen, [one.name for one in marked])


def _once(*names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name for some in names for name in some))


def norm(vector: array[float]) -> float:
    return math.sqrt(math.fsum(value * value for value in vector))


def cosine(one: array[float], other: array[float]) -> float:
    """Of the angle between two vectors; 0 where one of them has no length."""
    length = norm(one) * norm(other)
    return math.fsum(a * b for a, b in zip(one, other, strict=True)) / length if length else 0.0
