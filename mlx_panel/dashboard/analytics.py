"""The audit log as charts: one component for as many of them as wanted, and one filter for all of it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import panel as pn
import param

from ..analytics import CHARTS, NAMED, AuditFilter
from ..errors import MlxPanelError
from ..snapshot import Sample, Snapshot
from .analytics_filter import USUAL_RANGE, Options, address, choices, chosen, opened, pairs_of
from .assets import module
from .audit_source import FileFormat
from .source import Source
from .watching import Face, Watching

Listener = Callable[[AuditFilter, bool], None]
# The order in which they stand on the page.
ORDER = (
    "requests", "latency", "tokens", "percentiles", "heatmap", "throughput", "concurrency", "cache", "errors",
    "callers", "cost", "loads", "slowest",
)  # fmt: skip
ALL = ("bar", "tiles", *ORDER)
SCRIPTS = (
    "links", "popover", "analytics_words", "analytics_plot", "analytics_pointer", "analytics_draw", "analytics_filter",
    "analytics_cards", "analytics_tiles",
)  # fmt: skip
MEDIA_TYPES = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}


class AnalyticsView(Face):
    """The browser's half of `Analytics`. Answers travel as JSON text: Bokeh would walk and compare each number of a tree."""

    parts = param.List(default=list(ALL), doc="What to show: `bar`, `tiles`, and charts by name.")
    infos = param.Dict(default={}, doc="`ChartInfo` of each chart.")
    linked = param.String(
        doc="How pages are linked (see `Menu`); empty where there are none, then the filter is in no address."
    )
    filter = param.List(default=[], doc="Names and values of the filter that holds.")
    told = param.Dict(
        default={}, doc="Which filter holds since when: `pairs`, and the page and `turn` it comes `from`."
    )
    problems = param.List(default=[], doc="What of an address could not be used, a sentence each.")
    choices = param.Dict(default={}, doc="Values and how often they occur, by field.")
    written = param.Integer(default=-1, doc="The snapshot's `audit_rows`.")
    options = param.Dict(
        default={}, doc="The charts' options at first, by chart; later the browser knows them."
    )
    chosen = param.Dict(
        default={}, doc="What was picked elsewhere on the page: `field`, `value`, `add`, `count`."
    )
    file = param.Dict(
        default={}, doc="What the browser is to save: `name`, `type`, `data` (base64), `count`."
    )
    stats = param.String(doc="`Stats`.")
    chart_requests = param.String(
        doc="`Chart`, or `error` with what went wrong; `filter` is the one it answers."
    )
    chart_tokens = param.String()
    chart_latency = param.String()
    chart_percentiles = param.String()
    chart_heatmap = param.String()
    chart_throughput = param.String()
    chart_cache = param.String()
    chart_errors = param.String()
    chart_slowest = param.String()
    chart_loads = param.String()
    chart_concurrency = param.String()
    chart_callers = param.String()
    chart_cost = param.String()

    _esm = module("analytics", *SCRIPTS)


class Analytics(Watching):
    """Charts of the requests that a filter lets through. `parts` of `ALL` are shown, in this order.

    What is clicked filters all of them. Only charts that are on screen are asked for; without a browser all are.
    """

    view: AnalyticsView

    def __init__(
        self,
        source: Source,
        filter: AuditFilter | None = None,
        *,
        parts: Sequence[str] = ALL,
        options: Mapping[str, Mapping[str, str]] = {},
        linked: str = "",
    ):
        charts = [name for name in parts if name in CHARTS]
        given = {name: dict(chosen) for name, chosen in options.items()}
        infos = {name: msgspec.to_builtins(CHARTS[name]) for name in charts}
        super().__init__(
            source,
            AnalyticsView(
                parts=list(parts), infos=infos, linked=linked, options=given, sizing_mode="stretch_width"
            ),
        )
        self.charts = charts
        self.options: Options = given
        self._seen: list[str] = []
        self._round = 0
        self._paused = False
        self._asked: dict[str, tuple[Any, ...]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._listeners: list[Listener] = []
        self._hold(filter or AuditFilter(range=USUAL_RANGE))

    @property
    def filter(self) -> AuditFilter:
        """Which requests are shown. Setting it asks anew."""
        return self._filter

    @filter.setter
    def filter(self, filter: AuditFilter) -> None:
        self._hold(filter)
        self.work(self._ask)

    def answer(self, name: str) -> dict[str, Any]:
        """The newest answer to a chart, as the browser has it; empty before the first one."""
        text = getattr(self.view, f"chart_{name}")
        return msgspec.json.decode(text) if text else {}

    def on_filter(self, listener: Listener) -> None:
        """Call `listener(filter, paused)` at each change, and now."""
        self._listeners.append(listener)
        listener(self._filter, self._paused)

    def choose(self, field: str, value: str, add: bool = False) -> None:
        """Filter as if the value had been clicked in a chart; `add`: beside those chosen before."""
        count = self.view.chosen.get("count", 0) + 1
        self.view.chosen = {"field": field, "value": value, "add": add, "count": count}

    def refresh(self) -> None:
        super().refresh()
        self._again()

    def take(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        self.view.written = snapshot.audit_rows

    def act(self, message: dict[str, Any]) -> None:
        match message:
            case {"do": "filter", "pairs": list(pairs), "options": dict(options)}:
                self._take_address(pairs_of(pairs), options, message)
            case {"do": "see", "charts": list(charts)}:
                self._seen = [name for name in self.charts if name in charts]
                pn.state.onload(partial(self.work, self._ask))
            case {"do": "refresh"}:
                self._again()
            case {"do": "pause", "paused": bool(paused)}:
                self._paused = paused
                self._hold(self._filter)
            case {"do": "choices", "field": str(field)} if field in NAMED:
                self.work(partial(self._choose, field))
            case {"do": "file", "chart": str(name), "format": "csv" | "parquet" as format} if (
                name in self.charts
            ):
                self.work(partial(self._file, name, format))

    def _again(self) -> None:
        self._round += 1
        self.work(self._ask)

    def _hold(self, filter: AuditFilter, message: Mapping[str, Any] = {}) -> None:
        self._filter = filter
        pairs = [list(pair) for pair in address(filter)]
        told = {"pairs": pairs, "from": message.get("from"), "turn": message.get("turn")}
        self.view.param.update(filter=pairs, told=told)
        for listener in self._listeners:
            listener(filter, self._paused)

    def _take_address(
        self, pairs: list[tuple[str, str]], options: dict[str, Any], message: Mapping[str, Any]
    ) -> None:
        filter, problems = opened(pairs)
        self.options, wrong = chosen(options)
        self.view.param.update(problems=[*problems, *wrong], choices={})
        self._hold(filter, message)
        pn.state.onload(partial(self.work, self._ask))

    async def _ask(self) -> None:
        """Ask for what is to be seen and has no answer yet to this filter; what was asked before is let go."""
        wanted = [
            *(["stats"] if "tiles" in self.view.parts else []),
            *(self._seen if self._eyes else self.charts),
        ]
        tasks = []
        for name in wanted:
            key = (self._round, self._filter, self.options.get(name, {}))
            if self._asked.get(name) != key:
                self._asked[name] = key
                if name in self._tasks:
                    self._tasks[name].cancel()
                self._tasks[name] = asyncio.ensure_future(self._put(name))
                tasks.append(self._tasks[name])
        for done in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(done, Exception):
                raise done

    async def _put(self, name: str) -> None:
        try:
            if name == "stats":
                found = msgspec.to_builtins(await self.source.audit_stats(self._filter))
                self.view.param.update(stats=_text(found), notice={})
            else:
                filter = self._filter
                chart = await self.source.audit_chart(name, filter, self.options.get(name, {}))
                self._show(name, {**msgspec.to_builtins(chart), "filter": address(filter)})
        except MlxPanelError as error:
            if name == "stats":
                raise
            self._show(name, {"error": str(error), "filter": address(self._filter)})

    def _show(self, name: str, answer: dict[str, Any]) -> None:
        setattr(self.view, f"chart_{name}", _text(answer))

    async def _choose(self, field: str) -> None:
        """Offer values of a field: those of all requests of this time, so that others than the chosen ones are there."""
        filter = AuditFilter(
            since=self._filter.since,
            until=self._filter.until,
            range=self._filter.range,
            scope=self._filter.scope,
        )
        found = await choices(self.source, field, filter)
        self.view.choices = {**self.view.choices, field: found}

    async def _file(self, name: str, format: FileFormat) -> None:
        content = await self.source.audit_chart_file(name, self._filter, self.options.get(name, {}), format)
        data = {
            "name": f"audit-{name}.{format}",
            "type": MEDIA_TYPES[format],
            "data": base64.b64encode(content).decode(),
        }
        self.view.file = {**data, "count": self.view.file.get("count", 0) + 1}


def _text(answer: Any) -> str:
    return msgspec.json.encode(answer).decode()
