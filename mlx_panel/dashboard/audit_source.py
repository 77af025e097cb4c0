"""A source's audit log: charts, figures and rows of the requests that a filter lets through."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from statistics import median
from typing import Any, Literal, Protocol

import httpx
import msgspec

from ..analytics import CHARTS, AuditFilter, Chart, Row, Rows, Stats
from ..audit import charts, queries
from ..audit.chart_file import chart_file
from ..audit.flat import unflat_page
from ..audit.reader import AuditReader
from ..errors import InvalidParameter
from ..record import AuditRecord
from ..settings import Settings
from .pool_source import Asks, Tape

FileFormat = Literal["csv", "parquet"]
LOGS = "/v1/admin/audit-logs"
MODEL_DIALECTS = ("openai", "anthropic")


class AuditSource(Protocol):
    """The part of a `Source` that is about the log. All may raise InvalidParameter or AuditError."""

    async def audit_chart(self, name: str, filter: AuditFilter, options: Mapping[str, str] = {}) -> Chart:
        """The chart `name` of `analytics.CHARTS`; `options` not given are as by default."""
        ...

    async def audit_stats(self, filter: AuditFilter) -> Stats:
        """The filter's requests in numbers."""
        ...

    async def audit_rows(
        self, filter: AuditFilter, limit: int = 50, before: str = "", count: bool = False
    ) -> Rows:
        """A page of requests, newest first; `before` is the last page's `next`. `count`: tell how many there are."""
        ...

    async def audit_chart_file(
        self, name: str, filter: AuditFilter, options: Mapping[str, str], format: FileFormat
    ) -> bytes:
        """The rows of a chart as a file."""
        ...


# --- on the server's loop ---------------------------------------------------------------------------------


class AuditServer(Protocol):
    """The Runtime, as far as its log goes."""

    settings: Settings
    reader: AuditReader


class LocalAudit:
    """`AuditSource` on the server's loop; the log is read in the reader's threads."""

    _server: AuditServer

    async def audit_chart(self, name: str, filter: AuditFilter, options: Mapping[str, str] = {}) -> Chart:
        prices = self._server.settings.prices
        return await self._server.reader.ask(
            partial(charts.chart, name=name, filter=filter, options=options, prices=prices)
        )

    async def audit_stats(self, filter: AuditFilter) -> Stats:
        prices = self._server.settings.prices
        return await self._server.reader.ask(partial(charts.stats, filter=filter, prices=prices))

    async def audit_rows(
        self, filter: AuditFilter, limit: int = 50, before: str = "", count: bool = False
    ) -> Rows:
        return await self._server.reader.ask(
            partial(queries.rows, filter=filter, limit=limit, before=before, count=count)
        )

    async def audit_chart_file(
        self, name: str, filter: AuditFilter, options: Mapping[str, str], format: FileFormat
    ) -> bytes:
        return await asyncio.to_thread(chart_file, await self.audit_chart(name, filter, options), format)


# --- over HTTP --------------------------------------------------------------------------------------------


class Fetches(Asks, Protocol):
    """`Asks`, and for what is no JSON the response itself: see `Remote._ask`."""

    async def _ask(self, method: str, path: str, **content: Any) -> httpx.Response: ...


class RemoteAudit:
    """`AuditSource` over HTTP."""

    async def audit_chart(
        self: Fetches, name: str, filter: AuditFilter, options: Mapping[str, str] = {}
    ) -> Chart:
        return await self.answer(
            Chart, "GET", f"{LOGS}/charts/{name}", params=[*filter.query(), *options.items()]
        )

    async def audit_stats(self: Fetches, filter: AuditFilter) -> Stats:
        return await self.answer(Stats, "GET", f"{LOGS}/stats", params=filter.query())

    async def audit_rows(
        self: Fetches, filter: AuditFilter, limit: int = 50, before: str = "", count: bool = False
    ) -> Rows:
        more = [
            ("limit", str(limit)),
            ("before", before),
            ("count", "true" if count else "false"),
            ("match", "exact"),
        ]
        response = await self._ask("GET", LOGS, params=[*filter.query(), *more])
        return unflat_page(response.content)

    async def audit_chart_file(
        self: Fetches, name: str, filter: AuditFilter, options: Mapping[str, str], format: FileFormat
    ) -> bytes:
        params = [*filter.query(), *options.items(), ("format", format)]
        return (await self._ask("GET", f"{LOGS}/charts/{name}", params=params)).content


# --- without a server -------------------------------------------------------------------------------------


class AuditTape(Tape, Protocol):
    """`Tape` with rows, oldest first, and charts by name; "audit" in its `faults` is raised instead of an answer."""

    records: list[AuditRecord]
    charts: dict[str, Chart]

    def _matching(self, filter: AuditFilter) -> list[Row]: ...


class RecordedAudit:
    """`AuditSource` without a server: rows and figures of its records, and charts as they were given, whatever the filter."""

    async def audit_chart(
        self: AuditTape, name: str, filter: AuditFilter, options: Mapping[str, str] = {}
    ) -> Chart:
        self._ask("audit", name, filter, dict(options))
        if name not in CHARTS:
            raise InvalidParameter(f"A chart is one of {', '.join(CHARTS)}.", field="chart")
        chosen = {option: values[0] for option, values in CHARTS[name].options.items()} | dict(options)
        chart = self.charts.get(name, Chart(name, CHARTS[name].columns, []))
        return msgspec.structs.replace(chart, options=chosen)

    async def audit_stats(self: AuditTape, filter: AuditFilter) -> Stats:
        self._ask("audit", "stats", filter)
        return _stats([row.record for row in self._matching(filter)])

    async def audit_rows(
        self: AuditTape, filter: AuditFilter, limit: int = 50, before: str = "", count: bool = False
    ) -> Rows:
        self._ask("audit", "rows", filter, limit, before, count)
        found = self._matching(filter)
        page = [row for row in found if not before or row.id < int(before)][:limit]
        more = page and page[-1].id > found[-1].id
        return Rows(page, str(page[-1].id) if more else "", len(found) if count else None)

    async def audit_chart_file(
        self, name: str, filter: AuditFilter, options: Mapping[str, str], format: FileFormat
    ) -> bytes:
        return chart_file(await self.audit_chart(name, filter, options), format)  # type: ignore[misc]

    def _matching(self: AuditTape, filter: AuditFilter) -> list[Row]:
        """Newest first; an id is a record's place, from 1. Relative ranges let all through: a tape has no now."""
        rows = [Row(number, record) for number, record in enumerate(self.records, 1)]
        return [row for row in reversed(rows) if _matches(row.record, filter)]


def _matches(record: AuditRecord, filter: AuditFilter) -> bool:
    model = record.model_used or record.model_requested or "unknown"
    values = {
        "model": model, "caller": record.caller, "status": record.status, "endpoint": record.endpoint,
        "backend": record.backend_type, "error": record.error_type, "preset": record.preset,
    }  # fmt: skip
    return (
        all(not getattr(filter, name) or value in getattr(filter, name) for name, value in values.items())
        and filter.text.lower() in f"{record.model_used} {record.model_requested}".lower()
        and (filter.scope == "all" or record.dialect in MODEL_DIALECTS)
        and (filter.since is None or record.timestamp >= filter.since)
        and (filter.until is None or record.timestamp < filter.until)
    )


def _stats(records: list[AuditRecord]) -> Stats:
    statuses = [record.status for record in records]
    models = [record.model_used or record.model_requested or "unknown" for record in records]
    first = [record.ttft_ms for record in records if record.ttft_ms is not None]
    failed = statuses.count("error") + statuses.count("timeout")
    sums = {
        name: sum(getattr(record, name) for record in records)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "total_tokens")
    }
    return Stats(
        requests=len(records), errors=statuses.count("error"), timeouts=statuses.count("timeout"),
        error_rate=failed / len(records) if records else 0.0, ttft_p50=median(first) if first else None,
        by_model={name: models.count(name) for name in dict.fromkeys(models)},
        by_status={name: statuses.count(name) for name in dict.fromkeys(statuses)}, **sums,
    )  # fmt: skip
