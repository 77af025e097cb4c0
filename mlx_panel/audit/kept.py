"""Rows of a log whose file was deleted or replaced, kept beside the new one until that has them."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb

# Those that cannot be computed again.
TABLES = ("audit", "detail", "pool_event")


def keep(cursor: duckdb.DuckDBPyConnection, copy: Path) -> None:
    """Copy the log's rows into a new file at `copy`, mode 0600. Raises OSError and duckdb.Error."""
    copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    copy.unlink(missing_ok=True)
    cursor.execute(f"ATTACH {quoted(copy)} AS kept")
    os.chmod(copy, 0o600)
    for table in TABLES:
        cursor.execute(f"CREATE TABLE kept.{table} AS SELECT * FROM {table} ORDER BY 1")
    cursor.execute("DETACH kept")


def take_in(cursor: duckdb.DuckDBPyConnection, file: Path, first: int) -> None:
    """Append the rows of such a file, but for those that are here already; requests get ids from `first` on.

    An older version may have kept them, without the tables and columns that came since. Raises duckdb.Error.
    """
    cursor.execute(f"ATTACH {quoted(file)} AS kept (READ_ONLY)")
    found = cursor.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'kept'").fetchall()
    cursor.begin()
    cursor.execute(
        "CREATE OR REPLACE TEMP TABLE taken AS SELECT k.id, $first + row_number() OVER (ORDER BY k.id) - 1 AS new_id "
        "FROM kept.audit AS k WHERE NOT EXISTS (FROM audit AS a WHERE a.request_id = k.request_id "
        'AND a."timestamp" = k."timestamp")',
        {"first": first},
    )
    for table in {name for (name,) in found} & {"audit", "detail"}:
        names = _columns(cursor, table)
        cursor.execute(
            f"INSERT INTO {table} (id, {names}) SELECT new_id, {names} FROM kept.{table} JOIN taken USING (id) ORDER BY new_id"
        )
    if ("pool_event",) in found:
        names = _columns(cursor, "pool_event")
        cursor.execute(
            f"INSERT INTO pool_event ({names}) SELECT {names} FROM kept.pool_event AS k WHERE NOT EXISTS "
            '(FROM pool_event AS e WHERE e."timestamp" = k."timestamp" AND e.model = k.model AND e.kind = k.kind)'
        )
    cursor.execute("DROP TABLE taken")
    cursor.commit()
    cursor.execute("DETACH kept")


def _columns(cursor: duckdb.DuckDBPyConnection, table: str) -> str:
    """Names of the columns that both have, without the id."""
    here, there = (
        [row[0] for row in cursor.execute(f"DESCRIBE {name}").fetchall()] for name in (table, f"kept.{table}")
    )
    return ", ".join(f'"{name}"' for name in here if name in there and name != "id")


def quoted(path: Path) -> str:
    """A path as SQL's text."""
    return "'" + str(path).replace("'", "''") + "'"
