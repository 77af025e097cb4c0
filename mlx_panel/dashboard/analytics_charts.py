"""Each chart of the audit log as a component of its own, for a page or a notebook's cell."""

from __future__ import annotations

from typing import ClassVar

from ..analytics import AuditFilter
from .analytics import Analytics
from .source import Source


class AuditChart(Analytics):
    """One chart. `options` are those of its `ChartInfo`, e.g. `by="caller"`."""

    name_of_chart: ClassVar[str]

    def __init__(self, source: Source, filter: AuditFilter | None = None, **options: str):
        name = self.name_of_chart
        super().__init__(source, filter, parts=(name,), options={name: options})


class Requests(AuditChart):
    """Requests by when they arrived, by model, endpoint, backend, status or caller."""

    name_of_chart = "requests"


class Tokens(AuditChart):
    """Tokens of prompts (cached ones among them) and of answers."""

    name_of_chart = "tokens"


class Latency(AuditChart):
    """How long half, 95 % and 99 % of the requests took at most, over time."""

    name_of_chart = "latency"


class Percentiles(AuditChart):
    """The same for the whole time, group beside group."""

    name_of_chart = "percentiles"


class Heatmap(AuditChart):
    """Requests, tokens or time to the first token by hour and weekday."""

    name_of_chart = "heatmap"


class Throughput(AuditChart):
    """Tokens per second: of the server, and of one answer."""

    name_of_chart = "throughput"


class CacheSavings(AuditChart):
    """The prefix cache's share of prompt tokens, and the prefill time it saved."""

    name_of_chart = "cache"


class Errors(AuditChart):
    """Requests that failed, by code."""

    name_of_chart = "errors"


class Slowest(AuditChart):
    """The requests that took longest."""

    name_of_chart = "slowest"


class Loads(AuditChart):
    """Models coming and going."""

    name_of_chart = "loads"


class Concurrency(AuditChart):
    """Requests that run and that wait."""

    name_of_chart = "concurrency"


class Callers(AuditChart):
    """Who used how much."""

    name_of_chart = "callers"


class Cost(AuditChart):
    """What cloud models cost, by the prices set."""

    name_of_chart = "cost"


KINDS: tuple[type[AuditChart], ...] = (
    Requests, Tokens, Latency, Percentiles, Heatmap, Throughput, CacheSavings, Errors, Slowest, Loads, Concurrency, Callers, Cost,
)  # fmt: skip


class Charts:
    """A server's charts as attributes, by their names: `charts.latency`. Each access makes a new one."""

    def __init__(self, source: Source):
        self._source = source

    def __repr__(self) -> str:
        return f"<Charts {', '.join(self.__dir__())}>"

    def __dir__(self) -> list[str]:
        return [kind.name_of_chart for kind in KINDS]

    def __getattr__(self, name: str) -> AuditChart:
        for kind in KINDS:
            if kind.name_of_chart == name:
                return kind(self._source)
        raise AttributeError(f"There is no chart {name!r}; there are {', '.join(self.__dir__())}.")
