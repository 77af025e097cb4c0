"""What goes over the pipes between the server and a sandbox: frames of a JSON head and a body of bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Literal

import msgspec

Format = Literal["json", "arrow"]
# "refused": not one SELECT; "sql": DuckDB's word on it; "memory", "size": a limit; "locked", "file": the database.
Fault = Literal["refused", "sql", "memory", "size", "locked", "file", "failed"]
MOST_HEAD = 1 << 20  # bytes
_LENGTHS = struct.Struct(">IQ")


class Copy(msgspec.Struct, frozen=True, tag="copy"):
    """Copy the database file `source` to `target`, which does not exist yet, mode 0600."""

    source: str
    target: str


class Query(msgspec.Struct, frozen=True, tag="query"):
    """One SELECT over the database file at `path`, and what it may take. The last order of a process."""

    path: str
    sql: str
    max_rows: int
    max_bytes: int
    memory_bytes: int
    cpu_seconds: int
    format: Format = "json"
    as_of: str | None = None


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Said once, at the start."""


class Copied(msgspec.Struct, frozen=True, tag="copied"):
    """`same` says that no checkpoint changed the file meanwhile, so that the copy is of one moment."""

    bytes: int
    same: bool


class Found(msgspec.Struct, frozen=True, tag="found"):
    """A result; the body is the result itself in the format asked for."""

    truncated: bool


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """What was wrong; `line` and `column` (characters, from 1) where DuckDB knows the place, `length` of it."""

    fault: Fault
    message: str = ""
    line: int = 0
    column: int = 0
    length: int = 0
    pid: int = 0


Order = Copy | Query
Answer = Ready | Copied | Found | Failed


def pack(head: Order | Answer, body: bytes | bytearray = b"") -> bytes:
    """The beginning of a frame; the body follows it."""
    text = msgspec.json.encode(head)
    return _LENGTHS.pack(len(text), len(body)) + text


def head_of(read: Callable[[int], bytes]) -> tuple[bytes, int]:
    """The JSON of the next frame's head and the length of its body; `read(n)` returns exactly n bytes, or raises EOFError.

    Raises ValueError where it is no frame.
    """
    length, size = _LENGTHS.unpack(read(_LENGTHS.size))
    if length > MOST_HEAD:
        raise ValueError("not a frame of this protocol")
    return read(length), size
