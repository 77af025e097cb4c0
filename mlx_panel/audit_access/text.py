"""How `mlx-panel audit` shows things: rows, figures, charts, one request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from ..analytics import Chart, ChartInfo, Column, RequestView, Row, Stats
from ..chat import printable
from ..hub.cli_text import console, many, size

__all__ = [
    "chart_table",
    "charts_table",
    "console",
    "line",
    "request_text",
    "rows_table",
    "stats_table",
    "values_table",
]

STYLES = {"success": "green", "cancelled": "yellow", "rejected": "yellow", "error": "red", "timeout": "red"}
BAR = 24
WIDTH = 60


def moment(when: datetime) -> str:
    """A moment in local time, to the second."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def span(ms: float | None) -> str:
    """A duration with three digits: 12 ms, 1.25 s, 3.4 min, 20.3 h."""
    if ms is None:
        return ""
    if ms < 999.5:
        return f"{ms:.3g} ms" if ms < 99.95 else f"{ms:.0f} ms"
    if ms < 120_000:
        return f"{ms / 1000:.3g} s"
    return f"{ms / 60_000:.3g} min" if ms < 7_200_000 else f"{ms / 3_600_000:,.1f} h"


def rows_table(rows: Iterable[Row]) -> Table:
    table = _table(
        ("Id", "Time", "Model", "Route", "Status"),
        ("First", "Total", "Prompt", "Cached", "Answer"),
        ("Caller", "Error"),
    )
    for row in rows:
        table.add_row(*_cells(row))
    return table


def line(row: Row) -> Text:
    """A row as one line, for those that come one by one."""
    return Text("  ").join(
        cell if isinstance(cell, Text) else Text(cell) for cell in _cells(row) if str(cell)
    )


def _cells(row: Row) -> tuple[str | Text, ...]:
    one = row.record
    model = printable(one.model_used or one.model_requested or "")
    return (
        str(row.id), moment(one.timestamp), Text(model), Text(one.endpoint), Text(f"{one.status} {one.http_status}", STYLES[one.status]),
        span(one.ttft_ms), span(one.duration_ms), many(one.prompt_tokens), many(one.cached_tokens),
        many(one.completion_tokens), one.caller or "", Text(one.error_type or "", "red"),
    )  # fmt: skip


def stats_table(stats: Stats) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    between = f"{moment(stats.first)} to {moment(stats.last)}" if stats.first and stats.last else ""
    failed = f"{stats.errors:,} errors, {stats.timeouts:,} timeouts ({stats.error_rate:.2%}), {stats.cancelled:,} cancelled, {stats.rejected:,} rejected"
    facts = [
        ("Requests", f"{stats.requests:,}"), ("Between", between), ("Failed", failed),
        ("Tokens", f"{stats.prompt_tokens:,} of prompts ({stats.cached_tokens:,} cached), {stats.completion_tokens:,} of answers"),
        ("Saved by the cache", span(stats.saved_ms) if stats.saved_ms else ""),
        ("First token", _half("half in", stats.ttft_p50, stats.ttft_p95)),
        ("Whole request", _half("half in", stats.total_p50, stats.total_p95)),
        ("Cost", f"{stats.cost:,.4f} US dollars" if stats.cost else ""),
        ("By model", _counts(stats.by_model)), ("By status", _counts(stats.by_status)), ("By place", _counts(stats.by_backend)),
        ("Percentiles", f"of one request in {stats.sampled}" if stats.sampled > 1 else ""),
    ]  # fmt: skip
    for name, text in facts:
        if text:
            table.add_row(name, Text(printable(text)))
    return table


def _half(words: str, p50: float | None, p95: float | None) -> str:
    return f"{words} {span(p50)}, 95 % in {span(p95)}" if p50 is not None else ""


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def charts_table(charts: Sequence[ChartInfo]) -> Table:
    table = _table(("Name", "What it says", "Columns", "Options"), (), ())
    for chart in charts:
        options = "  ".join(f"{name}={'|'.join(values)}" for name, values in chart.options.items())
        table.add_row(chart.name, chart.doc, ", ".join(column.name for column in chart.columns), options)
    return table


def chart_table(chart: Chart) -> Table:
    """The chart's rows, and a bar for its first figure."""
    table = Table(box=None, pad_edge=False)
    figures = [place for place, column in enumerate(chart.columns) if column.unit not in ("", "time", "id")]
    for place, column in enumerate(chart.columns):
        unit = f" ({column.unit})" if column.unit not in ("", "time", "count", "id") else ""
        table.add_column(
            f"{column.name}{unit}", justify="right" if place in figures else "left", no_wrap=bool(column.unit)
        )
    drawn = figures[-1:] if chart.name == "heatmap" else figures[:1]
    if drawn:
        table.add_column("")
    most = max((row[drawn[0]] or 0 for row in chart.rows), default=0) if drawn else 0
    for row in chart.rows:
        cells = [value_text(column, value) for column, value in zip(chart.columns, row, strict=True)]
        bar = (
            [Text("█" * round(BAR * (row[drawn[0]] or 0) / most), "cyan") if most > 0 else Text()]
            if drawn
            else []
        )
        table.add_row(*map(Text, cells), *bar)
    return table


def value_text(column: Column, value: Any) -> str:
    if value is None:
        return ""
    match column.unit:
        case "time":
            return moment(datetime.fromtimestamp(value / 1000, UTC))
        case "share":
            return f"{value:.1%}"
        case "bytes":
            return size(int(value))
        case "" | "id":
            return printable(str(value))
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    )


def request_text(view: RequestView) -> Table:
    """One request: its row, where its time went, and who shared its steps."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("Request", Text(f"{view.id}  {view.record.request_id}"))
    for name in view.record.__struct_fields__[1:]:
        value = getattr(view.record, name)
        if value not in (None, 0, False):
            table.add_row(name, Text(printable(moment(value) if isinstance(value, datetime) else str(value))))
    whole = max([view.record.duration_ms, *(span.at_ms + span.ms for span in view.spans)], default=0) or 1
    for one in view.spans:
        left = min(WIDTH - 1, int(WIDTH * one.at_ms / whole))
        width = max(1, min(WIDTH - left, round(WIDTH * one.ms / whole)))
        table.add_row(one.kind, Text(" " * left + "█" * width, "cyan") + Text(f" {span(one.ms)}"))
    for other in view.neighbours:
        table.add_row(
            "beside",
            Text(
                f"{other.request_id}: {span(other.prefill_ms)} of its prompt, {other.steps:,} steps together"
            ),
        )
    if view.sentence:
        table.add_row("", Text(view.sentence, "bold"))
    return table


def values_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Any table of values."""
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(Text(printable(name)), overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else printable(str(value))) for value in row))
    return table


def _table(left: Sequence[str], right: Sequence[str], last: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    for name in last:
        table.add_column(name, no_wrap=True)
    return table
