"""The log in the order in which it was written: pieces of rows by their ids, each a short question of its own.

A long question would keep the file from being cleaned up for as long as somebody reads its answer.
"""

from __future__ import annotations

import duckdb

from ..analytics import AuditFilter, Row
from .stored import LISTED, stored
from .where import Bound, where

# Rows are looked for near where one begins, then farther and farther away.
FIRST_WIDTH, GROWTH = 2000, 8


def first_and_last(cursor: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """The ids of the oldest and of the newest row; 0 and 0 in an empty log."""
    # The rows themselves, not min and max: DuckDB takes those from figures that a commit which failed leaves wrong.
    ends = [
        cursor.execute(f"SELECT id FROM audit ORDER BY id {way} LIMIT 1").fetchall() for way in ("", "DESC")
    ]
    return ends[0][0][0] if ends[0] else 0, ends[1][0][0] if ends[1] else 0


def ascending(
    cursor: duckdb.DuckDBPyConnection, filter: AuditFilter, after: int, upto: int, limit: int
) -> list[Row]:
    """The first `limit` rows that match with ids in (after, upto], oldest first."""
    found: list[Row] = []
    width = FIRST_WIDTH
    while after < upto and len(found) < limit:
        end = min(after + width, upto)
        found += _rows(cursor, filter, after, end, f"ORDER BY id LIMIT {limit - len(found)}")
        after, width = end, width * GROWTH
    return found


def latest(cursor: duckdb.DuckDBPyConnection, filter: AuditFilter, upto: int, limit: int) -> list[Row]:
    """The last `limit` rows that match with ids of `upto` at most, oldest first."""
    found: list[Row] = []
    width = FIRST_WIDTH
    while upto > 0 and len(found) < limit:
        start = max(upto - width, 0)
        found += _rows(cursor, filter, start, upto, f"ORDER BY id DESC LIMIT {limit - len(found)}")
        upto, width = start, width * GROWTH
    return found[::-1]


def missing(
    cursor: duckdb.DuckDBPyConnection, filter: AuditFilter, after: int, upto: int, most: int
) -> tuple[int, int]:
    """How many rows match beyond the newest `most` in (after, upto], and the id behind which those `most` begin."""
    condition, bound = _within(filter, after, upto)
    count = cursor.execute(f"SELECT count(*) FROM audit WHERE {condition}", bound).fetchall()[0][0]
    if count <= most:
        return 0, after
    found = cursor.execute(
        f"SELECT id FROM audit WHERE {condition} ORDER BY id DESC LIMIT 1 OFFSET {most}", bound
    ).fetchall()
    return count - most, found[0][0]


def _rows(
    cursor: duckdb.DuckDBPyConnection, filter: AuditFilter, after: int, upto: int, order: str
) -> list[Row]:
    condition, bound = _within(filter, after, upto)
    found = cursor.execute(f"SELECT {LISTED} FROM audit WHERE {condition} {order}", bound).fetchall()
    return [stored(values) for values in found]


def _within(filter: AuditFilter, after: int, upto: int) -> tuple[str, Bound]:
    condition, bound = where(filter)
    return f"id > $after_id AND id <= $upto_id AND {condition}", {**bound, "after_id": after, "upto_id": upto}
