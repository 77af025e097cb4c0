"""Numbers that a grammar of decimal digits can be held to, and that mean the same once they are read as floats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

# Integers up to here are exact as floats; decimals of so many digits come back as they were written.
EXACT = 1 << 53
DIGITS = 15
# Multiples are counted in 32 bits.
WORD = 1 << 32


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def exact(value: float) -> bool:
    """Whether a bound or a constant is one number in a schema, in a grammar and in a reader of JSON."""
    if value != value or abs(value) > EXACT:
        return False
    if isinstance(value, int) or value == int(value):
        return True
    parts = Decimal(repr(value)).as_tuple()
    return len(parts.digits) <= DIGITS and isinstance(parts.exponent, int) and parts.exponent >= -DIGITS


def multiple(value: float) -> tuple[int, int] | None:
    """`value` as (coefficient, decimals), as llguidance counts it; None where it would count something else.

    It multiplies by ten until nothing is left behind the point, and so finds 0.07 to be 7000000000000001 of 10**-17.
    """
    scaled, decimals = abs(float(value)), 0
    while scaled != int(scaled) and decimals < 40:
        scaled, decimals = scaled * 10, decimals + 1
    right = Decimal(repr(abs(value))) == Decimal(int(scaled)).scaleb(-decimals)
    return (int(scaled), decimals) if right and 0 < scaled < WORD else None


def together(multiples: set[tuple[int, int]]) -> bool:
    """Whether any common multiple of these stays within what llguidance counts in."""
    most = max((decimals for _, decimals in multiples), default=0)
    product = 1
    for coefficient, decimals in multiples:
        product *= coefficient * 10 ** (most - decimals)
    return len(multiples) < 2 or product < WORD


def step(bounds: Sequence[float]) -> float | None:
    """A power of ten, of which numbers that have to stay off these bounds may be multiples; None where none will do.

    0.99999999999999999 is below 1, and 1.0 once it is read as a float.
    """
    if not bounds:
        return 1e-6
    whole = max(len(str(int(abs(bound)))) for bound in bounds)
    written = max(-min(int(Decimal(repr(bound)).as_tuple().exponent), 0) for bound in bounds)
    decimals = max(6, written + 2)
    if decimals + whole > DIGITS:
        decimals = DIGITS - whole
    return float(f"1e-{decimals}") if 0 <= written <= decimals <= 9 else None


def whole(value: float) -> float:
    """The step from one integer to the next that is a multiple of `value`, or a smaller one."""
    return value if value == int(value) else 1


def tightened(given: Mapping[str, Any], unit: float) -> dict[str, Any]:
    """The words that bound a number, all bounds multiples of `unit` and inclusive.

    llguidance lets an exclusive bound through in places: of numbers above 19 and below 19.5 its grammar has 19.
    """
    kept = {word: value for word, value in given.items() if word == "multipleOf"}
    low = [
        _units(given[word], unit, word, ROUND_CEILING)
        for word in ("minimum", "exclusiveMinimum")
        if word in given
    ]
    high = [
        _units(given[word], unit, word, ROUND_FLOOR)
        for word in ("maximum", "exclusiveMaximum")
        if word in given
    ]
    if low:
        kept["minimum"] = _plain(max(low), unit)
    if high:
        kept["maximum"] = _plain(min(high), unit)
    return kept


def bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with an end to its integers: those that every reader of JSON takes exactly, 2**53 either way.

    A weak model would else write digits until the answer is cut.
    """
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds or ()
    if "integer" not in kinds or "number" in kinds or "enum" in schema or "const" in schema:
        return schema
    return {**schema, "minimum": schema.get("minimum", -EXACT), "maximum": schema.get("maximum", EXACT)}


def empty(given: Mapping[str, Any]) -> bool:
    """Whether no number is within the inclusive bounds."""
    return bool(given.get("minimum", -EXACT) > given.get("maximum", EXACT))


def _units(bound: float, unit: float, word: str, way: str) -> int:
    """The nearest count of units that meets a bound."""
    exact = Decimal(repr(bound)) / Decimal(repr(unit))
    count = int(exact.to_integral_value(way))
    if word.startswith("exclusive") and count == exact:
        count += 1 if way == ROUND_CEILING else -1
    return count


def _plain(count: int, unit: float) -> float:
    value = count * Decimal(repr(unit))
    return int(value) if value == int(value) else float(value)
