"""A chart's table as a file: CSV, or Parquet with typed columns."""

from __future__ import annotations

import contextlib
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from ..analytics import Chart, Column
from ..errors import InvalidParameter
from .cells import LINE_END, cell

CHART_TYPES = {"csv": "text/csv; charset=utf-8; header=present", "parquet": "application/vnd.apache.parquet"}
WHOLE = ("id", "tokens", "bytes", "count")
CONFIG: dict[str, Any] = {"threads": 1, "memory_limit": "128MB", "autoinstall_known_extensions": False}


def chart_file(chart: Chart, format: str) -> bytes:
    """The chart's rows as "csv" (with a header, times in ISO 8601 UTC) or "parquet" (times as TIMESTAMP WITH TIME ZONE).

    Blocks. Raises InvalidParameter for another format.
    """
    if format not in CHART_TYPES:
        raise InvalidParameter(f"format is one of {', '.join(CHART_TYPES)}.", field="format")
    rows = [
        [_value(column, value) for column, value in zip(chart.columns, row, strict=True)]
        for row in chart.rows
    ]
    return _csv(chart, rows) if format == "csv" else _parquet(chart, rows)


def _value(column: Column, value: Any) -> Any:
    if column.unit == "time" and value is not None:
        return datetime.fromtimestamp(value / 1000, UTC)
    return value


def _csv(chart: Chart, rows: list[list[Any]]) -> bytes:
    lines = [[column.name for column in chart.columns], *rows]
    return "".join(",".join(map(cell, line)) + LINE_END for line in lines).encode()


def _parquet(chart: Chart, rows: list[list[Any]]) -> bytes:
    columns = ", ".join(
        f'"{column.name}" {_type(column, [row[place] for row in rows])}'
        for place, column in enumerate(chart.columns)
    )
    with tempfile.TemporaryDirectory(prefix="mlx-panel-chart-") as folder:
        path = Path(folder) / "chart.parquet"
        with contextlib.closing(duckdb.connect(config=CONFIG)) as connection:
            connection.execute(f"CREATE TABLE chart ({columns})")
            with connection.appender("chart") as appender:
                appender.append_rows(rows)
            connection.execute(f"COPY chart TO '{str(path).replace(chr(39), chr(39) * 2)}' (FORMAT parquet)")
        return path.read_bytes()


def _type(column: Column, values: list[Any]) -> str:
    if column.unit == "time":
        return "TIMESTAMPTZ"
    if not column.unit:
        return "VARCHAR"
    return (
        "BIGINT"
        if column.unit in WHOLE and all(type(one) is int or one is None for one in values)
        else "DOUBLE"
    )
