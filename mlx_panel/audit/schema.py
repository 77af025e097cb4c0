"""The schema of the audit file: numbered migrations, one SQL file a version."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files

import duckdb

from ..errors import AuditError
from .rows import naive


def migrate(connection: duckdb.DuckDBPyConnection) -> None:
    """Apply the migrations the file does not have yet, all or none; on an error, close the connection.

    Raises AuditError for a file of a newer version, and what DuckDB raises.
    """
    connection.begin()
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL, applied TIMESTAMP NOT NULL)"
    )
    current = version(connection)
    known = dict(migrations())
    if current > max(known):
        raise AuditError("The audit log was written by a newer version of mlx-panel.")
    for number in filter(lambda number: number > current, known):
        connection.execute(known[number])
        connection.execute("INSERT INTO schema_version VALUES (?, ?)", [number, naive(datetime.now(UTC))])
    connection.commit()


def version(connection: duckdb.DuckDBPyConnection) -> int:
    """The version of a file's schema, 0 for one without ours. Raises what DuckDB raises where there is no such table."""
    (found,) = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchall()[0]
    return found


def migrations() -> Iterator[tuple[int, str]]:
    """Version and SQL of every migration, in order."""
    found = [
        file for file in files(__package__).joinpath("migrations").iterdir() if file.name.endswith(".sql")
    ]
    for file in sorted(found, key=lambda file: file.name):
        yield int(file.name.removesuffix(".sql")), file.read_text(encoding="utf-8")
