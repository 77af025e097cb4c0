"""The audit file itself as the place where the log is asked: while no server has it, read-only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import duckdb

from ..analytics import CHARTS, AuditFilter, Chart, ChartInfo, RequestView, Rows, Stats
from ..audit import charts, queries, requests, sql
from ..audit.chart_file import chart_file
from ..audit.database import CONFIG, unopened
from ..audit.export import write_parquet
from ..audit.render import Lines
from ..audit.schema import migrations
from ..audit_settings import AuditSettings
from ..errors import AuditError
from ..inquiry import SqlOrder, SqlResult
from .place import Format, Progress

T = TypeVar("T")


class AuditFile:
    """The log in the file at `path`; prices and the limits of SQL are those of the `settings`.

    Opening raises AuditLocked while another process has the file, and AuditError where it is none, or of another version.
    """

    def __init__(self, path: Path, settings: AuditSettings):
        self.path, self._settings = path, settings
        self.name = str(path)
        if not path.exists():
            raise AuditError(f"There is no audit log at {path}.")
        try:
            self._connection = duckdb.connect(str(path), read_only=True, config=CONFIG)
            self._check_version()
        except duckdb.Error as error:
            raise unopened(path, error) from error

    def __repr__(self) -> str:
        return f"<AuditFile {self.path}>"

    def close(self) -> None:
        self._connection.close()

    def rows(self, filter: AuditFilter, *, limit: int = 50, before: str = "", count: bool = False) -> Rows:
        return self._ask(lambda cursor: queries.rows(cursor, filter, limit=limit, before=before, count=count))

    def request(self, id: str) -> RequestView:
        return self._ask(lambda cursor: requests.named(cursor, id))

    def stats(self, filter: AuditFilter) -> Stats:
        return self._ask(lambda cursor: charts.stats(cursor, filter, self._settings.prices))

    def charts(self) -> list[ChartInfo]:
        return list(CHARTS.values())

    def chart(
        self, name: str, filter: AuditFilter, options: Mapping[str, str] = {}, *, buckets: int = 120
    ) -> Chart:
        return self._ask(
            lambda cursor: charts.chart(
                cursor, name, filter, options, buckets=buckets, prices=self._settings.prices
            )
        )

    def chart_file(
        self, name: str, filter: AuditFilter, options: Mapping[str, str], format: str, *, buckets: int = 120
    ) -> bytes:
        return chart_file(self.chart(name, filter, options, buckets=buckets), format)

    def export(self, path: Path, filter: AuditFilter, format: Format, progress: Progress) -> int:
        """Write the rows into a file; the number of bytes. A file that is not complete is not left behind."""
        part = path.with_name(f"{path.name}.part")
        part.unlink(missing_ok=True)
        try:
            written = self._ask(lambda cursor: _write(cursor, part, filter, format, progress))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return written

    def sql(self, order: SqlOrder) -> SqlResult:
        self.close()  # it is copied for the process that runs the query
        limits = sql.SqlLimits(
            self._settings.sql_timeout_seconds, self._settings.sql_memory_mb, self._settings.sql_max_rows
        )
        return sql.query(self.path, order, limits)

    def _check_version(self) -> None:
        (found,) = self._connection.execute("SELECT max(version) FROM schema_version").fetchall()[0]
        newest = max(number for number, _ in migrations())
        if found != newest:
            self.close()
            age, way = (
                ("an older", "; start the server once to bring it up to date")
                if found < newest
                else ("a newer", "")
            )
            raise AuditError(f"{self.path} was written by {age} version of mlx-panel{way}.")

    def _ask(self, question: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        try:
            with contextlib.closing(self._connection.cursor()) as cursor:
                return question(cursor)
        except duckdb.Error as error:
            raise AuditError(
                f"{self.path} cannot be read as an audit log ({type(error).__name__})."
            ) from error


def _write(
    cursor: duckdb.DuckDBPyConnection, path: Path, filter: AuditFilter, format: Format, progress: Progress
) -> int:
    if format == "parquet":
        return write_parquet(cursor, filter=filter, path=path)
    lines = Lines(filter, format)
    with path.open("wb") as file:
        written = file.write(lines.header)
        while piece := lines.next(cursor):
            written += file.write(piece)
            progress(written)
    return written
