"""What the audit file's text columns hold, read through SQL: compressed text cannot be found in the file's bytes.

DuckDB keeps strings with a dictionary or FSST (https://duckdb.org/2022/10/28/lightweight-compression), which takes them
apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import duckdb

KINDS = ("VARCHAR", "BLOB", "JSON", "BIT", "VARIANT")
COLUMNS = "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"


def text_columns(cursor: duckdb.DuckDBPyConnection) -> list[tuple[str, str, str]]:
    """Every column of the file that can hold text or bytes, at any depth: table, column, type."""
    found = cursor.execute(COLUMNS).fetchall()
    return [(table, column, kind) for table, column, kind in found if any(word in kind for word in KINDS)]


def texts(cursor: duckdb.DuckDBPyConnection, since: datetime) -> Iterator[tuple[str, list[bytes]]]:
    """`table.column` and its different values, of rows of requests that came at `since` or later (aware, UTC), and of
    all rows of other tables."""
    every = {(table, column) for table, column, _ in cursor.execute(COLUMNS).fetchall()}
    moment = since.astimezone(UTC).replace(tzinfo=None)
    for table, column, kind in text_columns(cursor):
        value = f'"{column}"' if kind == "BLOB" else f'CAST("{column}" AS VARCHAR)'
        rows = cursor.execute(
            f'SELECT DISTINCT {value} FROM "{table}" {_recent(table, every)}',
            {"since": moment} if _recent(table, every) else {},
        ).fetchall()
        yield f"{table}.{column}", [_bytes(one) for (one,) in rows if one is not None]


def _recent(table: str, every: set[tuple[str, str]]) -> str:
    """The condition that leaves out rows from before the canaries."""
    if (table, "timestamp") in every:
        return 'WHERE "timestamp" >= $since'
    if table == "detail":
        return 'WHERE id >= (SELECT coalesce(min(id), 0) FROM audit WHERE "timestamp" >= $since)'
    return ""


def _bytes(value: object) -> bytes:
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else str(value).encode()
