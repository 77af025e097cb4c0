"""A result as an Arrow IPC stream, without a library for it: DuckDB hands over Arrow's C structures, and their buffers are
written down behind messages that describe them.

The structures: https://arrow.apache.org/docs/format/CDataInterface.html and CStreamInterface.html; the messages:
https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc (metadata version 5).
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator, Mapping
from ctypes import POINTER, c_char_p, c_int, c_int64, c_void_p
from typing import Any

from .arrow_types import type_of
from .flat import Field, Flat

VERSION, SCHEMA, DICTIONARY, BATCH = 4, 1, 2, 3  # of MetadataVersion and MessageHeader
NULLABLE = 2  # ARROW_FLAG_NULLABLE
END = b"\xff\xff\xff\xff\0\0\0\0"


class CSchema(ctypes.Structure):
    """ArrowSchema."""


class CArray(ctypes.Structure):
    """ArrowArray."""


class CStream(ctypes.Structure):
    """ArrowArrayStream."""


CSchema._fields_ = [
    ("format", c_char_p), ("name", c_char_p), ("metadata", c_void_p), ("flags", c_int64), ("n_children", c_int64),
    ("children", POINTER(POINTER(CSchema))), ("dictionary", POINTER(CSchema)),
    ("release", ctypes.CFUNCTYPE(None, POINTER(CSchema))), ("private_data", c_void_p),
]  # fmt: skip
CArray._fields_ = [
    ("length", c_int64), ("null_count", c_int64), ("offset", c_int64), ("n_buffers", c_int64), ("n_children", c_int64),
    ("buffers", POINTER(c_void_p)), ("children", POINTER(POINTER(CArray))), ("dictionary", POINTER(CArray)),
    ("release", ctypes.CFUNCTYPE(None, POINTER(CArray))), ("private_data", c_void_p),
]  # fmt: skip
CStream._fields_ = [
    ("get_schema", ctypes.CFUNCTYPE(c_int, POINTER(CStream), POINTER(CSchema))),
    ("get_next", ctypes.CFUNCTYPE(c_int, POINTER(CStream), POINTER(CArray))),
    ("get_last_error", ctypes.CFUNCTYPE(c_char_p, POINTER(CStream))),
    ("release", ctypes.CFUNCTYPE(None, POINTER(CStream))), ("private_data", c_void_p),
]  # fmt: skip


class BrokenStream(Exception):
    """DuckDB's word on what went wrong while it computed the rows."""


class TooLarge(Exception):
    """More bytes than allowed."""


class ArrowStream:
    """The rows of something with `__arrow_c_stream__`. `write` raises BrokenStream, TooLarge, and ValueError for a type
    that is not known here."""

    def __init__(self, source: Any) -> None:
        self._capsule = source.__arrow_c_stream__()
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = c_void_p, [ctypes.py_object, c_char_p]
        self._stream = ctypes.cast(pointer(self._capsule, b"arrow_array_stream"), POINTER(CStream))
        self._schema = CSchema()
        self._check(self._stream.contents.get_schema(self._stream, ctypes.byref(self._schema)))
        self.truncated = False

    def __repr__(self) -> str:
        return f"<ArrowStream {self._schema.n_children} columns>"

    def write(self, most_rows: int, most_bytes: int) -> bytearray:
        """The messages that hold rows, dictionaries first; `schema` has to stand before them."""
        body, rows, first = bytearray(), 0, True
        for array in self._batches():
            if rows >= most_rows:
                self.truncated = array.length > 0
                break
            count = min(array.length, most_rows - rows)
            self.truncated = count < array.length
            if first:
                body += self._dictionaries(array)
                first = False
            body += _batch(self._schema, array, count)
            rows += count
            if len(body) > most_bytes:
                raise TooLarge
            if self.truncated:
                break
        return body

    def schema(self, metadata: Mapping[str, str]) -> bytes:
        flat, ids = Flat(), iter(range(1 << 30))
        fields = [_field(flat, child, ids) for child in _children(self._schema)]
        pairs = [
            flat.table({0: ("o", flat.text(key)), 1: ("o", flat.text(value))})
            for key, value in metadata.items()
        ]
        head = flat.table({0: ("h", 0), 1: ("o", flat.places(fields)), 2: ("o", flat.places(pairs))})
        return _message(flat, SCHEMA, head, b"")

    def _batches(self) -> Iterator[CArray]:
        while True:
            array = CArray()
            self._check(self._stream.contents.get_next(self._stream, ctypes.byref(array)))
            if not array.release:
                return
            try:
                yield array
            finally:
                array.release(ctypes.byref(array))

    def _check(self, code: int) -> None:
        if code != 0:
            told = self._stream.contents.get_last_error(self._stream) or b""
            raise BrokenStream(told.decode(errors="replace"))

    def _dictionaries(self, array: CArray) -> bytes:
        """The values of all ENUM columns, in the order of their numbers."""
        found = b""
        for number, (schema, values) in enumerate(_encoded(self._schema, array)):
            flat = Flat()
            content, body = _content(flat, [(schema, values, values.length)], values.length)
            head = flat.table({0: ("q", number), 1: ("o", content), 2: ("?", 0)})
            found += _message(flat, DICTIONARY, head, body)
        return found


def _children(one: Any) -> list[Any]:
    return [one.children[place].contents for place in range(one.n_children)]


def _encoded(schema: CSchema, array: CArray) -> Iterator[tuple[CSchema, CArray]]:
    for its, child in zip(_children(schema), _children(array), strict=True):
        if its.dictionary:
            yield its.dictionary.contents, child.dictionary.contents
        else:
            yield from _encoded(its, child)


def _field(flat: Flat, schema: CSchema, ids: Iterator[int]) -> int:
    number = next(ids) if schema.dictionary else -1
    children = flat.places([_field(flat, child, ids) for child in _children(schema)])
    value = schema.dictionary.contents if schema.dictionary else schema
    kind, its = type_of(value.format.decode()).describe(flat)
    name = flat.text((schema.name or b"").decode())
    fields: dict[int, Field] = {
        0: ("o", name),
        1: ("?", int(bool(schema.flags & NULLABLE))),
        2: ("B", kind),
        3: ("o", its),
        5: ("o", children),
    }
    if number >= 0:
        _, index = type_of(schema.format.decode()).describe(flat)
        fields[4] = ("o", flat.table({0: ("q", number), 1: ("o", index), 2: ("?", 0)}))
    return flat.table(fields)


def _message(flat: Flat, kind: int, head: int, body: bytes) -> bytes:
    root = flat.table({0: ("h", VERSION), 1: ("B", kind), 2: ("o", head), 3: ("q", len(body))})
    text = flat.finish(root)
    text += b"\0" * (-len(text) % 8)
    return b"\xff\xff\xff\xff" + struct.pack("<i", len(text)) + text + body


def _batch(schema: CSchema, array: CArray, count: int) -> bytes:
    flat = Flat()
    columns = list(zip(_children(schema), _children(array), [count] * schema.n_children, strict=True))
    head, body = _content(flat, columns, count)
    return _message(flat, BATCH, head, body)


def _content(flat: Flat, columns: list[tuple[CSchema, CArray, int]], count: int) -> tuple[int, bytes]:
    """The table RecordBatch, and the buffers it describes, each padded to 8 bytes."""
    nodes, places, parts, at = b"", b"", [], 0
    for length, nulls, buffers in (node for column in columns for node in _nodes(*column)):
        nodes += struct.pack("<qq", length, nulls)
        for buffer in buffers:
            places += struct.pack("<qq", at, len(buffer))
            parts += [buffer, b"\0" * (-len(buffer) % 8)]
            at += len(buffer) + -len(buffer) % 8
    vectors = flat.structs(nodes, len(nodes) // 16), flat.structs(places, len(places) // 16)
    return flat.table({0: ("q", count), 1: ("o", vectors[0]), 2: ("o", vectors[1])}), b"".join(parts)


Node = tuple[int, int, list[bytes]]


def _nodes(schema: CSchema, array: CArray, count: int) -> Iterator[Node]:
    """A column's first `count` values: length, nulls and buffers, then the same of what is in it."""
    if array.offset:
        raise ValueError("an array with an offset")
    kind = type_of(schema.format.decode())
    read = [_reader(array, place) for place in range(array.n_buffers)]
    validity = read[0]((count + 7) // 8) if kind.nullable else b""
    nulls = count - _ones(validity, count) if validity else count if kind.name == "n" else 0
    buffers, inner = kind.buffers(read, count)
    yield count, nulls, [*([validity] if kind.nullable else []), *buffers]
    for its, child in zip(_children(schema), _children(array), strict=True):
        yield from _nodes(its, child, inner if inner >= 0 else child.length)


def _reader(array: CArray, place: int) -> Any:
    """How a buffer's first n bytes are read; a buffer that is not there has none."""
    address = array.buffers[place]
    return lambda size: ctypes.string_at(address, size) if address and size else b""


def _ones(bits: bytes, count: int) -> int:
    return (int.from_bytes(bits, "little") & ((1 << count) - 1)).bit_count()
