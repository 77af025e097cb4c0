"""What the audit file takes: structs for those who look, and the questions that fill them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import duckdb
import msgspec


class Retained(msgspec.Struct, frozen=True):
    """What the last look at the log's age and size did: `rows` of requests were removed, those older than `before`.

    `reason` is "age" or "size", "" where nothing had to go. `seconds` is the time it took, from first to last piece.
    """

    time: datetime
    rows: int = 0
    seconds: float = 0.0
    reason: str = ""
    before: datetime | None = None


class Shrunk(msgspec.Struct, frozen=True):
    """The file was written anew at start-up because more than half of it was free; bytes before and after."""

    before: int
    after: int
    seconds: float


class Contents(msgspec.Struct, frozen=True):
    """What is in the file. Bytes: `file_bytes` on the disk, `free_bytes` of them free for new rows, `wal_bytes` beside it."""

    rows: int = 0
    details: int = 0
    events: int = 0
    file_bytes: int = 0
    free_bytes: int = 0
    wal_bytes: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None


class Storage(msgspec.Struct, frozen=True):
    """The audit log's file and its writer.

    `written` and `failed` count since the server's start, rows that are lost in `failed`; `trouble` is what keeps rows
    from being written now, by its class.
    """

    path: str
    contents: Contents
    pending: int = 0
    written: int = 0
    failed: int = 0
    trouble: str = ""
    retained: Retained | None = None
    next: datetime | None = None
    shrunk: Shrunk | None = None


class Blocks(NamedTuple):
    """The file's blocks: bytes of one, how many there are, and how many are free."""

    bytes: int
    total: int
    free: int

    @property
    def used_bytes(self) -> int:
        return (self.total - self.free) * self.bytes


def blocks(cursor: duckdb.DuckDBPyConnection) -> Blocks:
    (found,) = cursor.execute(
        "SELECT block_size, total_blocks, free_blocks FROM pragma_database_size()"
    ).fetchall()
    return Blocks(*found)


def live_bytes(cursor: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Bytes that the log takes without what was deleted and is not cleaned up yet, and requests in it."""
    rows, physical = cursor.execute(
        "SELECT (SELECT count(*) FROM audit), estimated_size FROM duckdb_tables() WHERE table_name = 'audit' "
        "AND database_name = current_database()"
    ).fetchall()[0]
    return int(blocks(cursor).used_bytes * (rows / physical if physical > rows else 1)), rows


def contents(cursor: duckdb.DuckDBPyConnection, path: Path) -> Contents:
    """What is in the file at `path`, which `cursor` has open. Takes milliseconds, also for many rows."""
    rows, details, events = cursor.execute(
        "SELECT (SELECT count(*) FROM audit), (SELECT count(*) FROM detail), (SELECT count(*) FROM pool_event)"
    ).fetchall()[0]
    file = blocks(cursor)
    return Contents(
        rows=rows, details=details, events=events, file_bytes=_size(path), free_bytes=file.free * file.bytes,
        wal_bytes=_size(path.with_name(path.name + ".wal")), oldest=_end(cursor, "id"), newest=_end(cursor, "id DESC"),
    )  # fmt: skip


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _end(cursor: duckdb.DuckDBPyConnection, order: str) -> datetime | None:
    """When the first request in an order arrived."""
    rows = cursor.execute(f'SELECT "timestamp" FROM audit ORDER BY {order} LIMIT 1').fetchall()
    return rows[0][0].replace(tzinfo=UTC) if rows else None
