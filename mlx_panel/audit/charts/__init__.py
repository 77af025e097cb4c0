"""The charts of the audit log: one function a chart, each a plain table (`analytics.CHARTS`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import duckdb
import msgspec

from ...analytics import CHARTS, AuditFilter, Chart, ChartInfo, Price, Stats
from ...errors import InvalidParameter
from ..facts import count, fixed
from ..queries import snapshot
from . import counts, latency, loads, money
from .answer import Answer
from .concurrency import concurrency
from .question import Question
from .summary import summary

__all__ = ["chart", "stats"]

MOST_BUCKETS = 2000
MOST_OFFSET = 14 * 60
TIMELESS = ("slowest", "loads")
FUNCTIONS: dict[str, Callable[[Question], Answer]] = {
    "requests": counts.requests,
    "tokens": counts.tokens,
    "latency": latency.latency,
    "percentiles": latency.percentiles,
    "heatmap": latency.heatmap,
    "throughput": counts.throughput,
    "cache": counts.cache,
    "errors": counts.errors,
    "slowest": latency.slowest,
    "loads": loads.loads,
    "concurrency": concurrency,
    "callers": money.callers,
    "cost": money.cost,
}


def chart(
    cursor: duckdb.DuckDBPyConnection,
    name: str,
    filter: AuditFilter,
    options: Mapping[str, str] = {},
    *,
    buckets: int = 120,
    prices: Mapping[str, Price] = {},
) -> Chart:
    """The chart `name` of the requests that match, with at most `buckets` (1 to 2000) places on its time axis.

    Sums are exact. Percentiles are those of one request in `Chart.sampled`. Blocks; the cursor must be outside a
    transaction. Raises InvalidParameter for an unknown chart, option or value.
    """
    info = _known(name)
    chosen = _chosen(info, options)
    if not 1 <= buckets <= MOST_BUCKETS:
        raise InvalidParameter(f"buckets is 1 to {MOST_BUCKETS}.", field="buckets")
    started = time.perf_counter()
    with snapshot(cursor):
        question = _question(cursor, filter, chosen, buckets, prices)
        answer = FUNCTIONS[name](question)
        total = count(cursor, question.filter) if answer.total is None else answer.total
        timed = name not in TIMELESS and info.columns[0].unit == "time"
        seconds = question.axis.size // 1_000_000 if timed else 0
    columns = tuple(
        msgspec.structs.replace(column, unit=answer.units.get(column.name, column.unit))
        for column in info.columns
    )
    took = (time.perf_counter() - started) * 1000
    return Chart(name, columns, answer.rows, chosen, seconds, answer.sampled, total, took)


def stats(cursor: duckdb.DuckDBPyConnection, filter: AuditFilter, prices: Mapping[str, Price] = {}) -> Stats:
    """The requests that match in numbers. Blocks; the cursor must be outside a transaction."""
    with snapshot(cursor):
        return summary(_question(cursor, filter, {}, 1, prices))


def _question(
    cursor: duckdb.DuckDBPyConnection,
    filter: AuditFilter,
    options: Mapping[str, str],
    buckets: int,
    prices: Mapping[str, Price],
) -> Question:
    now = datetime.now(UTC)
    whole = fixed(filter, now)
    return Question(cursor, whole, options, buckets=buckets, prices=prices, now=now if filter.range else None)


def _known(name: str) -> ChartInfo:
    if name not in CHARTS:
        raise InvalidParameter(f"A chart is one of {', '.join(CHARTS)}.", field="chart")
    return CHARTS[name]


def _chosen(info: ChartInfo, options: Mapping[str, str]) -> dict[str, str]:
    """Every option of the chart with its value, the first one where none was given."""
    for name in options:
        if name not in info.options:
            raise InvalidParameter(f"The chart {info.name} has no option '{name[:64]}'.", field=name[:64])
    return {name: _value(name, options.get(name, values[0]), values) for name, values in info.options.items()}


def _value(name: str, value: str, values: tuple[str, ...]) -> str:
    if name == "offset":
        return str(_offset(value))
    if value not in values:
        raise InvalidParameter(f"{name} is one of {', '.join(values)}.", field=name)
    return value


def _offset(value: str) -> int:
    try:
        minutes = int(value)
    except ValueError:
        minutes = MOST_OFFSET + 1
    if abs(minutes) > MOST_OFFSET:
        raise InvalidParameter(
            f"offset is whole minutes from -{MOST_OFFSET} to {MOST_OFFSET}.", field="offset"
        )
    return minutes
