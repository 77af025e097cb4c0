"""Tables of FlatBuffers, written from their end to their beginning: as much of the format as Arrow's messages need.

The format: https://flatbuffers.dev/internals/. A place is told as its distance from the end of what is written.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

# Of a table's field by the kind of its value; "o" is the place of something written before.
SIZES = {"?": 1, "B": 1, "h": 2, "i": 4, "q": 8, "o": 4}
Field = tuple[str, int]


class Flat:
    """`finish` gives the bytes. All numbers are little-endian."""

    def __init__(self) -> None:
        self._data = b""

    def __repr__(self) -> str:
        return f"<Flat {len(self._data)} bytes>"

    def text(self, value: str) -> int:
        raw = value.encode()
        self._align(4, len(raw) + 1)
        return self._put(struct.pack("<I", len(raw)) + raw + b"\0")

    def structs(self, raw: bytes, count: int, align: int = 8) -> int:
        """A vector of `count` structs or numbers that stand in `raw`."""
        self._align(max(align, 4), len(raw))
        self._put(raw)
        return self._put(struct.pack("<I", count))

    def places(self, places: Sequence[int]) -> int:
        """A vector of things written before."""
        self._align(4, 0)
        for place in reversed(places):
            self._put(self._reference(place))
        return self._put(struct.pack("<I", len(places)))

    def table(self, fields: Mapping[int, Field]) -> int:
        """A table by the numbers of its fields, each a kind and a value."""
        end = len(self._data)
        at: dict[int, int] = {}
        for slot, (kind, value) in fields.items():
            self._align(SIZES[kind], 0)
            at[slot] = self._put(self._reference(value) if kind == "o" else struct.pack(f"<{kind}", value))
        self._align(4, 0)
        table = self._put(b"\0\0\0\0")
        slots = [table - at[slot] if slot in at else 0 for slot in range(max(at, default=-1) + 1)]
        self._align(2, 0)
        index = struct.pack(f"<HH{len(slots)}H", 4 + 2 * len(slots), table - end, *slots)
        distance = self._put(index) - table
        place = len(self._data) - table
        self._data = self._data[:place] + struct.pack("<i", distance) + self._data[place + 4 :]
        return table

    def finish(self, root: int) -> bytes:
        self._align(8, 4)
        self._put(self._reference(root))
        return self._data

    def _reference(self, place: int) -> bytes:
        return struct.pack("<I", len(self._data) + 4 - place)

    def _align(self, size: int, more: int) -> None:
        """Pad so that, after `more` bytes, the next thing of `size` bytes is where such things may be."""
        self._put(b"\0" * (-(len(self._data) + more) % size))

    def _put(self, raw: bytes) -> int:
        self._data = raw + self._data
        return len(self._data)
