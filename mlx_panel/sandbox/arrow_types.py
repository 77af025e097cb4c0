"""Arrow's types: by the letters of its C interface, how a schema describes them, and which buffers hold their values."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from .flat import Field, Flat

Read = Callable[[int], bytes]
# By their number in the union `Type` of Arrow's Schema.fbs.
NULL, INT, FLOAT, BINARY, UTF8, BOOL, DECIMAL, DATE, TIME, TIMESTAMP, INTERVAL, LIST, STRUCT, UNION = range(
    1, 15
)
FIXED_BINARY, FIXED_LIST, MAP, DURATION, LARGE_BINARY, LARGE_UTF8, LARGE_LIST = range(15, 22)
UNITS = {"s": 0, "m": 1, "u": 2, "n": 3}
INTS = {letter: (8 << place // 2, 1 - place % 2) for place, letter in enumerate("cCsSiIlL")}
FLOATS = {"e": (0, 2), "f": (1, 4), "g": (2, 8)}
SPANS = {"tiM": (0, 4), "tiD": (1, 8), "tin": (2, 16)}
BYTES = {"u": (UTF8, 4), "z": (BINARY, 4), "U": (LARGE_UTF8, 8), "Z": (LARGE_BINARY, 8)}
LISTS = {"+l": (LIST, 4), "+m": (MAP, 4), "+L": (LARGE_LIST, 8)}


class ArrowType:
    """A type. `width` is of a value in bits, 0 where values differ in size; `offsets` of an offset in bytes.

    `nullable` says whether its first buffer tells nulls.
    """

    nullable = True

    def __init__(
        self,
        name: str,
        number: int,
        fields: dict[int, Field] | None = None,
        *,
        width: int = 0,
        offsets: int = 0,
    ):
        self.name, self.number, self.width, self.offsets = name, number, width, offsets
        self._fields = fields or {}
        self.nullable = number not in (NULL, UNION)

    def __repr__(self) -> str:
        return f"<ArrowType {self.name}>"

    def describe(self, flat: Flat) -> tuple[int, int]:
        """Its number in the union of types, and the place of its table."""
        fields = dict(self._fields)
        if self.number == TIMESTAMP and (zone := self.name.partition(":")[2]):
            fields[1] = ("o", flat.text(zone))
        if self.number == UNION:
            ids = [int(one) for one in self.name.partition(":")[2].split(",")]
            fields[1] = ("o", flat.structs(struct.pack(f"<{len(ids)}i", *ids), len(ids), 4))
        return self.number, flat.table(fields)

    def buffers(self, read: Sequence[Read], count: int) -> tuple[list[bytes], int]:
        """Its buffers but for that of nulls, for `count` values, and how many values its children hold; -1 for all."""
        if self.number in (NULL, STRUCT):
            return [], count
        if self.number == UNION:
            dense = self.name.startswith("+ud")
            return [read[0](count), *([read[1](4 * count)] if dense else [])], -1 if dense else count
        if self.number == FIXED_LIST:
            return [], count * int(self.name.partition(":")[2])
        if self.width:
            return [read[1]((count * self.width + 7) // 8)], 0
        found = read[1]((count + 1) * self.offsets) or b"\0" * self.offsets
        last = int.from_bytes(found[count * self.offsets : (count + 1) * self.offsets], "little")
        return [found, *([read[2](last)] if self.number in _TEXTS else [])], last


_TEXTS = {number for number, _ in BYTES.values()}


def type_of(format: str) -> ArrowType:
    """The type of a format string. Raises ValueError for one that is not written here."""
    if format in INTS:
        bits, signed = INTS[format]
        return ArrowType(format, INT, {0: ("i", bits), 1: ("?", signed)}, width=bits)
    if format in FLOATS:
        precision, size = FLOATS[format]
        return ArrowType(format, FLOAT, {0: ("h", precision)}, width=8 * size)
    if format in BYTES:
        return ArrowType(format, BYTES[format][0], offsets=BYTES[format][1])
    if format in LISTS:
        return ArrowType(
            format, LISTS[format][0], {0: ("?", 0)} if format == "+m" else {}, offsets=LISTS[format][1]
        )
    if format in ("n", "b", "+s"):
        return ArrowType(
            format, {"n": NULL, "b": BOOL, "+s": STRUCT}[format], width=1 if format == "b" else 0
        )
    return _moment(format) if format.startswith("t") else _measured(format)


def _moment(format: str) -> ArrowType:
    kind, unit = format[:2], UNITS.get(format[2:3], -1)
    if format in ("tdD", "tdm"):
        return ArrowType(format, DATE, {0: ("h", int(format == "tdm"))}, width=32 if format == "tdD" else 64)
    if format in SPANS:
        return ArrowType(format, INTERVAL, {0: ("h", SPANS[format][0])}, width=8 * SPANS[format][1])
    if kind == "tt" and unit >= 0:
        bits = 32 if unit < 2 else 64
        return ArrowType(format, TIME, {0: ("h", unit), 1: ("i", bits)}, width=bits)
    if kind in ("ts", "tD") and unit >= 0:
        return ArrowType(format, TIMESTAMP if kind == "ts" else DURATION, {0: ("h", unit)}, width=64)
    raise ValueError(format)


def _measured(format: str) -> ArrowType:
    """Those with figures behind a colon."""
    kind, _, figures = format.partition(":")
    if kind == "d":
        precision, scale, bits = (*map(int, figures.split(",")), 128)[:3]
        return ArrowType(format, DECIMAL, {0: ("i", precision), 1: ("i", scale), 2: ("i", bits)}, width=bits)
    if kind == "w":
        return ArrowType(format, FIXED_BINARY, {0: ("i", int(figures))}, width=8 * int(figures))
    if kind == "+w":
        return ArrowType(format, FIXED_LIST, {0: ("i", int(figures))})
    if kind in ("+us", "+ud"):
        return ArrowType(format, UNION, {0: ("h", int(kind == "+ud"))})
    raise ValueError(format)
