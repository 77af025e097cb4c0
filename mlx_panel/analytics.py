"""What is asked of the audit log and what comes back: a filter that also lives in addresses, charts as plain tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import msgspec

from .errors import InvalidParameter
from .record import AuditRecord, BackendType, KnownName, Neighbour, RequestId, Span, Status

RANGES = {
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
Scope = Literal["model", "all"]
NAMED = (
    "model",
    "caller",
    "status",
    "endpoint",
    "backend",
    "error",
    "preset",
)  # fields that hold several values
MOST_VALUES = 50


class AuditFilter(msgspec.Struct, frozen=True):
    """Which requests. An empty tuple is any; several values of one field are alternatives, fields hold together.

    `model` is compared with the model used (or asked for, where none was), `caller` and the others are exact. `since` is
    included, `until` is not, both aware; `range` is one of `RANGES` and counts back from now, and gives way to `since`.
    `text` is a part of a model's name. Scope "model" is requests to models, "all" every API request.
    """

    model: tuple[str, ...] = ()
    caller: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    endpoint: tuple[str, ...] = ()
    backend: tuple[str, ...] = ()
    error: tuple[str, ...] = ()
    preset: tuple[str, ...] = ()
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None
    range: str = ""
    scope: Scope = "model"

    def span(self, now: datetime | None = None) -> tuple[datetime | None, datetime | None]:
        """Begin and end, aware, UTC; None where it is open."""
        since = self.since
        if since is None and self.range:
            since = (now or datetime.now(UTC)) - RANGES[self.range]
        return since, self.until

    def query(self) -> list[tuple[str, str]]:
        """The filter as a query string's names and values; `read` takes it back. Defaults are left out."""
        pairs = [(name, value) for name in NAMED for value in getattr(self, name)]
        pairs += [(name, value) for name in ("text", "range") if (value := getattr(self, name))]
        pairs += [(name, _iso(value)) for name in ("since", "until") if (value := getattr(self, name))]
        return [*pairs, ("scope", self.scope)] if self.scope != "model" else pairs


FILTER_NAMES = AuditFilter.__struct_fields__


def read(given: Mapping[str, Iterable[str]]) -> AuditFilter:
    """The filter of a query string's names and values. Raises InvalidParameter, which names the field at fault."""
    values: dict[str, Any] = {}
    for name, texts in given.items():
        if name not in FILTER_NAMES:
            raise InvalidParameter(f"There is no filter '{name[:64]}'.", field=name[:64])
        found = tuple(dict.fromkeys(text for text in texts if text))
        if len(found) > 1 and name not in NAMED:
            raise InvalidParameter(f"'{name}' is given more than once.", field=name)
        if found:
            values[name] = found if name in NAMED else _single(name, found[0])
    _check(values)
    return AuditFilter(**values)


def _single(name: str, text: str) -> Any:
    if name in ("since", "until"):
        return moment(name, text)
    if name == "range" and text == "all":
        return ""
    return text


def _check(values: dict[str, Any]) -> None:
    closed = {"status": get_args(Status), "backend": get_args(BackendType)}
    closed |= {"range": (*RANGES, ""), "scope": get_args(Scope)}
    for name, known in closed.items():
        given = values.get(name, ())
        for value in given if isinstance(given, tuple) else (given,):
            if value not in known:
                raise InvalidParameter(f"{name} is one of {', '.join(filter(None, known))}.", field=name)
    for name in NAMED:
        if len(values.get(name, ())) > MOST_VALUES:
            raise InvalidParameter(f"{name} takes at most {MOST_VALUES} values.", field=name)
    since, until = values.get("since"), values.get("until")
    if since is not None and until is not None and since >= until:
        raise InvalidParameter("until is later than since.", field="until")


def moment(name: str, text: str) -> datetime:
    """A moment in ISO 8601 (without a zone: UTC), or Unix seconds. Raises InvalidParameter."""
    try:
        if text.replace(".", "", 1).isdecimal():
            found = datetime.fromtimestamp(float(text), UTC)
        else:
            found = datetime.fromisoformat(text)
        found = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
        if not 1900 <= found.year < 2200:  # charts add days to it
            raise ValueError("out of range")
        return found
    except (ValueError, OverflowError, OSError):
        raise InvalidParameter(f"{name} is a moment such as 2026-11-20T08:00:00Z.", field=name) from None


def _iso(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


# --- charts --------------------------------------------------------------------------------------------------


class Column(msgspec.Struct, frozen=True):
    """A column of a chart. `unit` is "time" (Unix milliseconds, UTC), "ms", "tokens", "tokens/s", "share" (0 to 1),
    "bytes", "s", "usd", "count", "id" or "" for text."""

    name: str
    unit: str = ""


class ChartInfo(msgspec.Struct, frozen=True):
    """A question that can be asked. `options` are its choices by name, the first one is the default."""

    name: str
    title: str
    doc: str
    columns: tuple[Column, ...]
    options: dict[str, tuple[str, ...]] = {}


class Chart(msgspec.Struct, frozen=True):
    """An answer: a plain table. A bucket lasts `bucket_seconds` (0: no time axis) and is named by its begin.

    Where `sampled` is more than 1, percentiles come from one request in so many. `total` requests matched.
    """

    name: str
    columns: tuple[Column, ...]
    rows: list[list[Any]]
    options: dict[str, str] = {}
    bucket_seconds: int = 0
    sampled: int = 1
    total: int = 0
    took_ms: float = 0.0


BY = ("model", "endpoint", "backend", "status", "caller", "none")
METRICS = ("ttft", "itl", "queue", "total")
TIME, COUNT = Column("time", "time"), Column("requests", "count")
PERCENTILES = (Column("p50", "ms"), Column("p95", "ms"), Column("p99", "ms"))
TOKENS = tuple(Column(name, "tokens") for name in ("prompt_tokens", "cached_tokens", "completion_tokens"))
CHARTS = {
    chart.name: chart
    for chart in (
        ChartInfo(
            "requests", "Requests", "Requests by when they arrived.", (TIME, Column("group"), COUNT), {"by": BY}
        ),
        ChartInfo(
            "tokens",
            "Tokens",
            "Prompt tokens (cached ones among them) and tokens of answers.",
            (TIME, Column("group"), *TOKENS),
            {"by": ("none", *BY[:-1])},
        ),
        ChartInfo(
            "latency",
            "Latency over time",
            "Half, 95 % and 99 % of the requests were faster.",
            (TIME, COUNT, *PERCENTILES),
            {"metric": METRICS},
        ),
        ChartInfo(
            "percentiles",
            "Latency by group",
            "The same for the whole time, side by side.",
            (Column("group"), COUNT, Column("p50", "ms"), Column("p90", "ms"), *PERCENTILES[1:], Column("max", "ms")),
            {"metric": METRICS, "by": BY},
        ),
        ChartInfo(
            "heatmap",
            "By hour and weekday",
            "When requests arrive, or how long their first token takes, in local time. Weekday 0 is Monday.",
            (Column("weekday", "count"), Column("hour", "count"), Column("value", "count")),
            {"value": ("requests", "ttft", "tokens"), "offset": ("0",)},
        ),
        ChartInfo(
            "throughput",
            "Tokens per second",
            "What the server generated, and how fast one answer came on average.",
            (TIME, Column("server", "tokens/s"), Column("answer", "tokens/s")),
        ),
        ChartInfo(
            "cache",
            "Prefix cache",
            "Share of prompt tokens that came from the cache, and the prefill time it saved (an estimate).",
            (TIME, *TOKENS[:2], Column("share", "share"), Column("saved", "ms")),
        ),
        ChartInfo(
            "errors", "Errors and timeouts", "Requests that failed, by code.", (TIME, Column("group"), COUNT)
        ),
        ChartInfo(
            "slowest",
            "Slowest requests",
            "Those that took longest.",
            (
                Column("id", "id"), TIME, Column("request_id"), Column("model"), Column("endpoint"), Column("status"),
                Column("duration", "ms"), Column("ttft", "ms"), Column("queue", "ms"), Column("prompt_tokens", "tokens"),
                Column("completion_tokens", "tokens"),
            ),
            {"limit": ("10", "25", "50", "100")},
        ),
        ChartInfo(
            "loads",
            "Models coming and going",
            "Loads, evictions, unloads and deaths of models.",
            (TIME, Column("model"), Column("kind"), Column("seconds", "s"), Column("bytes", "bytes"), Column("reason")),
        ),
        ChartInfo(
            "concurrency",
            "Running and waiting",
            "Requests that ran and that waited for their turn, on average over each interval.",
            (TIME, Column("running", "count"), Column("waiting", "count")),
        ),
        ChartInfo(
            "callers",
            "Callers",
            "Who used how much.",
            (Column("caller"), COUNT, Column("errors", "count"), *TOKENS, Column("cost", "usd")),
        ),
        ChartInfo(
            "cost",
            "Cloud cost",
            "What cloud models cost by the prices set (setting audit_prices); local ones cost nothing.",
            (TIME, Column("group"), Column("cost", "usd")),
            {"by": BY},
        ),
    )
}  # fmt: skip


class Price(msgspec.Struct, frozen=True):
    """US dollars for a million tokens. `cached` None: cached prompt tokens cost what others do."""

    input: float = 0.0
    output: float = 0.0
    cached: float | None = None


class Stats(msgspec.Struct, frozen=True):
    """A filter's requests in numbers. Latencies are milliseconds, None without any; `error_rate` is errors and timeouts
    among all, 0 to 1."""

    requests: int = 0
    errors: int = 0
    timeouts: int = 0
    cancelled: int = 0
    rejected: int = 0
    error_rate: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    saved_ms: float = 0.0
    ttft_p50: float | None = None
    ttft_p95: float | None = None
    total_p50: float | None = None
    total_p95: float | None = None
    cost: float = 0.0
    first: datetime | None = None
    last: datetime | None = None
    by_model: dict[str, int] = {}
    by_status: dict[str, int] = {}
    by_backend: dict[str, int] = {}
    sampled: int = 1


class Row(msgspec.Struct, frozen=True):
    """A stored request: its number in the log and what is in its row."""

    id: int
    record: AuditRecord


class Rows(msgspec.Struct, frozen=True):
    """A page of requests, newest first. `next` is given back as `before` for the page after it; "" at the end."""

    rows: list[Row]
    next: str = ""
    total: int | None = None


class Beside(msgspec.Struct, frozen=True):
    """A neighbour's own row: it arrived `at_ms` after the request that is looked at (before it: negative) and took
    `duration_ms`; `spans` are those of it that lie within the other's time, on the other's clock."""

    id: int
    request_id: RequestId
    at_ms: float
    duration_ms: float
    model: KnownName | None = None
    status: Status = "success"
    spans: tuple[Span, ...] = ()


class RequestView(msgspec.Struct, frozen=True):
    """One request with where its time went, oldest span first; those of kind "send" go on beside the others.

    `shares` are milliseconds of its duration by what they went into (`audit/shares.py`), and `sentence` says the most of
    it in words. `beside` are the neighbours whose rows are in the log. `same` are the numbers of the rows about it with
    its request id, newest first, `before` and `after` those of the model requests stored next to it. Keyed hashes of its
    prompt are not shown: `hashed` counts them.
    """

    id: int
    record: AuditRecord
    spans: tuple[Span, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    shares: dict[str, float] = {}
    sentence: str = ""
    beside: tuple[Beside, ...] = ()
    same: tuple[int, ...] = ()
    before: int | None = None
    after: int | None = None
    hashed: int = 0
