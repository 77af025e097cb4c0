"""A result's values as JSON has them.

Whole numbers beyond 2^53, which JSON's readers round, are text; so are NaN and the infinities. DECIMAL is a number as
far as a double holds it, else text. BLOB is hexadecimal. Moments and durations are ISO 8601, TIMESTAMP without a zone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import msgspec

EXACT = 1 << 53
DIGITS = 15  # that a double always holds
# Types whose values are JSON's as they come.
PLAIN = {"VARCHAR", "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "UTINYINT", "USMALLINT", "UINTEGER", "DATE", "TIME",
         "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP WITH TIME ZONE", "JSON", "UUID"}  # fmt: skip

Row = Sequence[Any]


def encoder(types: Sequence[str]) -> Callable[[Row], bytes]:
    """How a row with columns of these types becomes a JSON array. It raises RecursionError for what nests too deeply."""
    odd = [place for place, kind in enumerate(types) if kind not in PLAIN and not kind.startswith("ENUM(")]
    encode = msgspec.json.Encoder(enc_hook=str).encode
    if not odd:
        return encode

    def told(row: Row) -> bytes:
        values = list(row)
        for place in odd:
            values[place] = plain(values[place])
        return encode(values)

    return told


def plain(value: Any) -> Any:
    """A value of any of DuckDB's types as JSON has it."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if -EXACT <= value <= EXACT else str(value)
        case float():
            return value if math.isfinite(value) else _unusual(value)
        case Decimal():
            return _decimal(value)
        case bytes() | bytearray() | memoryview():
            return bytes(value).hex()
        case list() | tuple():
            return [plain(one) for one in value]
        case dict():
            return {
                key if isinstance(key, str) else str(plain(key)): plain(one) for key, one in value.items()
            }
    return value


def _unusual(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _decimal(value: Decimal) -> int | float | str:
    if not value.is_finite() or len(value.as_tuple().digits) > DIGITS:
        return str(value)
    return int(value) if value == value.to_integral_value() else float(value)
