"""A server's audit log in a notebook: as a table to look at, and as questions that answer with data frames."""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import panel as pn

from .analytics import AuditFilter, Chart, ChartInfo, Row, Stats, read
from .audit_access.live import Notice, follow
from .audit_access.place import format_of
from .audit_access.server import AuditServer
from .dashboard.audit import AuditTable
from .dashboard.remote import Remote
from .errors import InvalidParameter
from .inquiry import SqlOrder
from .notebook_sql import sql_frame
from .record import AuditRecord

PAGE = 1000


class AuditLog(pn.viewable.Viewer):
    """The audit log of the server at `url`. As the last line of a cell it shows the last requests, page by page.

    Filters are those of the API by name, one value or several: `model`, `caller`, `status`, `endpoint`, `backend`,
    `error`, `preset`, `text`, `since`, `until`, `range`, `scope`; times are ISO 8601 or datetime, without a zone UTC.
    Every method asks the server and raises ServerUnreachable, InvalidParameter, or what the server names.
    """

    def __init__(self, url: str, key: str | None = None):
        super().__init__()
        self._server = AuditServer(url, key)
        self._key = key
        self._table: AuditTable | None = None

    def __repr__(self) -> str:
        return f"<AuditLog of {self._server.name}>"

    def __panel__(self) -> pn.viewable.Viewable:
        if self._table is None:
            self._table = AuditTable(Remote(self._server.url, self._key))
        return self._table.__panel__()

    def list(self, limit: int | None = 100, **filter: Any) -> pd.DataFrame:
        """The newest requests that match, newest first, a row each; `limit` None takes all. The index is `id`."""
        rows: builtins.list[Row] = []
        wanted, before = audit_filter(filter), ""
        while limit is None or len(rows) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(rows))
            page = self._server.rows(wanted, limit=size, before=before)
            rows += page.rows
            before = page.next
            if not before:
                break
        values = [(row.id, *msgspec.structs.astuple(row.record)) for row in rows]
        return pd.DataFrame(values, columns=["id", *AuditRecord.__struct_fields__]).set_index("id")

    def stats(self, **filter: Any) -> Stats:
        """The requests that match in numbers."""
        return self._server.stats(audit_filter(filter))

    def charts(self) -> pd.DataFrame:
        """What can be asked with `chart`: name, title, what it says, its columns and its options."""
        found: list[ChartInfo] = self._server.charts()
        values = [
            (one.name, one.title, one.doc, [column.name for column in one.columns], one.options)
            for one in found
        ]
        return pd.DataFrame(values, columns=["name", "title", "doc", "columns", "options"]).set_index("name")

    def chart(self, name: str, *, buckets: int = 120, **more: Any) -> pd.DataFrame:
        """The table of a chart, times aware; `more` are filters and the chart's options. `attrs` hold its units."""
        options = {key: str(more.pop(key)) for key in list(more) if key not in AuditFilter.__struct_fields__}
        return frame(self._server.chart(name, audit_filter(more), options, buckets=buckets))

    def sql(
        self, sql: str, *, max_rows: int | None = None, timeout_seconds: float | None = None
    ) -> pd.DataFrame:
        """What one SELECT over the log finds; a UserWarning where `max_rows`, or the server's own limit, cut it.

        Times are moments, durations timedeltas, whole numbers Int64; `attrs` hold DuckDB's `types`, `truncated`,
        `took_ms` and `as_of`. Raises InvalidSql, SqlTimeout, SqlMemoryExceeded, SqlResultTooLarge.
        """
        return sql_frame(self._server.sql(SqlOrder(sql, max_rows, timeout_seconds)))

    def export(self, path: str | os.PathLike[str], format: str = "", **filter: Any) -> Path:
        """Write all requests that match into a file, oldest first: `format` "jsonl", "csv" or "parquet", else by the
        file's name. Returns the path."""
        target = Path(path).expanduser()
        self._server.export(target, audit_filter(filter), format_of(target, format), lambda written: None)
        return target

    def follow(self, after: int | None = None, **filter: Any) -> Iterator[dict[str, Any]]:
        """Requests as they come, for ever: the last 100 that match first, or all behind the id `after`.

        Where the reading was too slow the item is `{"dropped": n}`, and `{"gap": n}` where `after` was too long ago.
        """
        for item in follow(self._server.url, audit_filter(filter), after, headers=self._server.headers):
            if isinstance(item, Notice):
                yield {item.kind: item.count}
            else:
                yield {"id": item.id, **msgspec.structs.asdict(item.record)}


def audit_filter(given: dict[str, Any]) -> AuditFilter:
    """The filter of keyword arguments. Raises InvalidParameter."""
    return read({name: _texts(name, value) for name, value in given.items() if value is not None})


def _texts(name: str, value: Any) -> list[str]:
    values = value if isinstance(value, list | tuple | set) else [value]
    if not all(isinstance(one, str | int | float) or hasattr(one, "isoformat") for one in values):
        raise InvalidParameter(f"{name} is a text or several.", field=name)
    return [one.isoformat() if hasattr(one, "isoformat") else str(one) for one in values]


def frame(chart: Chart) -> pd.DataFrame:
    """A chart's table with its times as moments, UTC."""
    found = pd.DataFrame(chart.rows, columns=[column.name for column in chart.columns])
    for column in chart.columns:
        if column.unit == "time":
            found[column.name] = pd.to_datetime(found[column.name], unit="ms", utc=True)
    found.attrs = {
        "chart": chart.name, "units": {column.name: column.unit for column in chart.columns}, "total": chart.total,
    }  # fmt: skip
    return found
