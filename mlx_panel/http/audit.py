"""Questions to the audit log: rows, figures, charts."""

from __future__ import annotations

import asyncio
from functools import partial

import duckdb
import msgspec

from ..analytics import CHARTS, AuditFilter, Chart, Rows
from ..audit import charts, queries
from ..audit.chart_file import CHART_TYPES, chart_file
from ..audit.flat import flat_page
from ..errors import InvalidParameter, NotFound
from .audit_query import AuditQuery
from .endpoint import Endpoint

MOST_ROWS = 1000
MOST_BUCKETS = 2000
FORMATS = ("json", *CHART_TYPES)
# What can be drawn over time, by the name of a metric: the chart and its options.
SERIES: dict[str, tuple[str, dict[str, str]]] = {
    **{name: (name, {}) for name in ("requests", "tokens", "latency", "throughput", "cache", "errors", "concurrency", "cost")},
    **{metric: ("latency", {"metric": metric}) for metric in CHARTS["latency"].options["metric"]},
}  # fmt: skip


class AuditLogs(Endpoint):
    """A page of requests, newest first, by `before` or `offset`, at most `limit`; `count` says how many match."""

    route = "/v1/admin/audit-logs"

    async def answer(self, *path: str) -> None:
        query = AuditQuery(self)
        limit, offset = query.number("limit", 1, MOST_ROWS) or 50, query.number("offset", 0, 2**62) or 0
        before, count = query.text("before"), query.flag("count")
        filter = _named(query.filter(), query.choice("match", ("part", "exact")))
        query.done()
        if before and offset:
            raise InvalidParameter("'before' and 'offset' do not go together.", field="offset")
        wanted = not before if count is None else count

        def ask(cursor: duckdb.DuckDBPyConnection) -> Rows:
            start = before if not offset else queries.skip(cursor, filter, offset)
            return queries.rows(cursor, filter, limit=limit, before=start, count=wanted)

        self.reply(flat_page(await self.house.reader.ask(ask)))


class AuditStats(Endpoint):
    """The requests that match in numbers."""

    route = "/v1/admin/audit-logs/stats"

    async def answer(self, *path: str) -> None:
        query = AuditQuery(self)
        filter = query.filter()
        query.done()
        prices = self.house.settings.prices
        self.reply(await self.house.reader.ask(lambda cursor: charts.stats(cursor, filter, prices)))


class AuditCharts(Endpoint):
    """The charts there are, with their columns and options."""

    route = "/v1/admin/audit-logs/charts"

    async def answer(self, *path: str) -> None:
        AuditQuery(self).done()
        self.reply({"charts": list(CHARTS.values())})


class AuditChart(Endpoint):
    """A chart as a table: its options and any filter, `buckets`, and `format` (json, csv, parquet)."""

    route = "/v1/admin/audit-logs/charts/{name}"

    async def answer(self, *path: str) -> None:
        if path[0] not in CHARTS:
            raise NotFound(f"There is no such chart; there are {', '.join(CHARTS)}.")
        await self._chart(AuditQuery(self), path[0], {})

    async def _chart(self, query: AuditQuery, name: str, options: dict[str, str]) -> None:
        asked = {**query.options([one for one in CHARTS[name].options if one not in options]), **options}
        format, buckets = query.choice("format", FORMATS), query.number("buckets", 1, MOST_BUCKETS) or 120
        filter = query.filter()
        query.done()
        prices = self.house.settings.prices
        ask = partial(charts.chart, name=name, filter=filter, options=asked, buckets=buckets, prices=prices)
        await self._send(await self.house.reader.ask(ask), format)

    async def _send(self, chart: Chart, format: str) -> None:
        if format == "json":
            return self.reply(msgspec.json.encode(chart))
        body = await asyncio.to_thread(chart_file, chart, format)
        self.set_header("Content-Type", CHART_TYPES[format])
        self.set_header("Content-Disposition", f'attachment; filename="{chart.name}.{format}"')
        self.write(body)


class AuditSeries(AuditChart):
    """The charts over time by a plainer name: `metric` is one of them, or what the latency is of; `by` the groups."""

    route = "/v1/admin/audit-logs/timeseries"

    async def answer(self, *path: str) -> None:
        query = AuditQuery(self)
        name, options = SERIES[query.choice("metric", tuple(SERIES))]
        await self._chart(query, name, options)


def _named(filter: AuditFilter, match: str) -> AuditFilter:
    """One `model` alone is a part of a name, unless it is to be exact; several, or one beside a `text`, are names."""
    if match == "exact" or len(filter.model) != 1 or filter.text:
        return filter
    return msgspec.structs.replace(filter, model=(), text=filter.model[0])


routes = [
    (AuditLogs.route, AuditLogs),
    (AuditStats.route, AuditStats),
    (AuditCharts.route, AuditCharts),
    (r"/v1/admin/audit-logs/charts/([^/]+)", AuditChart),
    (AuditSeries.route, AuditSeries),
]
