"""The charts of the audit log against the same questions asked of the same rows in plain Python."""

from __future__ import annotations

import base64
import itertools
import math
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mlx_panel.analytics import CHARTS, AuditFilter, Price, Row
from mlx_panel.app import Runtime
from mlx_panel.audit import AuditStore
from mlx_panel.audit.charts import chart, stats
from mlx_panel.audit.database import CONFIG
from mlx_panel.audit.facts import EXACT, SAMPLED, timings
from mlx_panel.audit.generate import generate
from mlx_panel.audit.queries import rows, skip, totals
from mlx_panel.audit.rollup import advance, again, forget
from mlx_panel.audit.rows import Batch
from mlx_panel.audit.schema import migrate
from mlx_panel.errors import AuditError, InvalidParameter
from mlx_panel.record import AuditRecord, PoolEvent
from mlx_panel.settings import Settings

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)
ALL = AuditFilter()
PRICES = {"m1": Price(2.0, 10.0, 0.5), "anthropic": Price(1.0, 4.0)}


def record(number: int = 0, **changes: Any) -> AuditRecord:
    given: dict[str, Any] = {
        "request_id": f"r{number}", "timestamp": MONDAY + timedelta(minutes=number), "endpoint": "/v1/chat/completions",
        "dialect": "openai", "status": "success", "http_status": 200, "model_used": "m0", "backend_type": "local",
    }  # fmt: skip
    return AuditRecord(**(given | changes))


class Log:
    """An audit file in memory that is filled as the writer does."""

    def __init__(self) -> None:
        self.cursor = duckdb.connect(":memory:", config=CONFIG)
        migrate(self.cursor)
        self.rows: list[Row] = []

    def fill(self, records: Sequence[AuditRecord]) -> None:
        """These requests and no others."""
        for table in ("audit", "audit_hour", "audit_sample", "pool_event"):
            self.cursor.execute(f"DELETE FROM {table}")
        self.cursor.execute("UPDATE audit_rolled SET id = 0")
        self.rows = []
        self.add(records)

    def add(self, entries: Sequence[AuditRecord | PoolEvent]) -> None:
        first = len(self.rows) + 1
        pairs = [entry if isinstance(entry, PoolEvent) else (entry, None) for entry in entries]
        batch = Batch(first, pairs)
        for table, values, _ in batch.tables():
            appender = self.cursor.appender(table)
            appender.append_rows(values)
            appender.flush()
        self.rows += [Row(first + place, kept) for place, kept in enumerate(batch.records)]

    def forget(self, before: datetime) -> None:
        self.cursor.begin()
        self.cursor.execute('DELETE FROM audit WHERE "timestamp" < ?', [before.replace(tzinfo=None)])
        forget(self.cursor, before)
        self.cursor.commit()
        self.rows = [row for row in self.rows if row.record.timestamp >= before]

    def forget_some(self, before: datetime) -> None:
        """As retention by size does: the cut may be in an hour, whose sums are made anew."""
        hour = before.replace(minute=0, second=0, microsecond=0)
        self.cursor.begin()
        self.cursor.execute('DELETE FROM audit WHERE "timestamp" < ?', [before.replace(tzinfo=None)])
        forget(self.cursor, hour)
        again(self.cursor, hour)
        self.cursor.commit()
        self.rows = [row for row in self.rows if row.record.timestamp >= before]

    def chart(self, name: str, filter: AuditFilter = ALL, **more: Any) -> list[list[Any]]:
        return chart(self.cursor, name, filter, **more).rows


@pytest.fixture(scope="module")
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.cursor.close()


# --- the same in plain Python ------------------------------------------------------------------------------------


def model(found: AuditRecord) -> str:
    return found.model_used or found.model_requested or "unknown"


def failed(found: AuditRecord) -> bool:
    return found.status not in ("success", "cancelled")


def told(found: AuditRecord) -> dict[str, str]:
    """What a request is grouped and filtered by."""
    return {
        "model": model(found), "caller": found.caller or "unknown", "status": found.status, "endpoint": found.endpoint,
        "backend": found.backend_type or "unknown", "preset": found.preset or "unknown", "none": "all",
        "error": found.error_type or (found.status if failed(found) else ""),
    }  # fmt: skip


def matches(found: AuditRecord, filter: AuditFilter) -> bool:
    fields = ("model", "caller", "status", "endpoint", "backend", "error", "preset")
    texts = [name.lower() for name in (found.model_used, found.model_requested) if name]
    return (
        all(not getattr(filter, name) or told(found)[name] in getattr(filter, name) for name in fields)
        and (not filter.text or any(filter.text.lower() in text for text in texts))
        and (filter.since is None or found.timestamp >= filter.since)
        and (filter.until is None or found.timestamp < filter.until)
        and (filter.scope == "all" or found.dialect != "management")
    )


def price(found: AuditRecord) -> float:
    given = PRICES.get(model(found)) or PRICES.get(found.backend_type or "")
    if given is None or found.backend_type in ("local", None):
        return 0.0
    cached = given.input if given.cached is None else given.cached
    fresh = found.prompt_tokens - found.cached_tokens
    return (fresh * given.input + found.cached_tokens * cached + found.completion_tokens * given.output) / 1e6


def quantiles(values: Sequence[float | None], *shares: float) -> list[float | None]:
    known = [value for value in values if value is not None]
    return [float(np.quantile(known, share)) if known else None for share in shares]


def about(wanted: Any) -> Any:
    """Equal, but for the last digits of a fraction."""
    if isinstance(wanted, list | tuple):
        return type(wanted)(map(about, wanted))
    return wanted if wanted is None else pytest.approx(wanted, rel=1e-6, abs=1e-9)


def presence(found: Sequence[AuditRecord], begin: float, end: float) -> tuple[float, float]:
    """Average number of running and of waiting requests between two moments, Unix seconds."""
    running = waiting = 0.0
    for one in found:
        came = one.timestamp.timestamp()
        wait = min((one.queue_ms or 0) + (one.load_ms or 0), one.duration_ms) / 1000
        leaves = came + one.duration_ms / 1000
        running += max(0.0, min(leaves, end) - max(came + wait, begin))
        waiting += max(0.0, min(came + wait, end) - max(came, begin))
    return running / (end - begin), waiting / (end - begin)


# --- random rows, random filters ---------------------------------------------------------------------------------

# An example takes too long for hundreds of smaller ones to be tried after it failed.
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
# Wide ranges of whole numbers are drawn mostly from their lower end, so hours and what is left of them apart.
LATER = st.builds(
    lambda hours, seconds, micros: timedelta(hours=hours, seconds=seconds, microseconds=micros),
    st.integers(0, 71), st.integers(0, 3599), st.integers(0, 999_999),
)  # fmt: skip
WHOLE = st.integers(0, 5000)
TIMES = st.one_of(st.none(), st.integers(0, 60_000).map(float))
LASTS = st.builds(
    lambda hours, millis: hours * 3.6e6 + millis, st.sampled_from([0, 0, 1, 3, 40]), st.integers(0, 100_000)
)
records = st.builds(
    record,
    timestamp=LATER.map(lambda later: MONDAY + later),
    endpoint=st.sampled_from(["/v1/chat/completions", "/v1/embeddings"]),
    dialect=st.sampled_from(["openai", "openai", "management"]),
    status=st.sampled_from(["success", "success", "error", "timeout", "cancelled", "rejected"]),
    model_used=st.sampled_from([None, *(f"m{number}" for number in range(11))]),
    model_requested=st.sampled_from([None, "m1", "Big"]),
    backend_type=st.sampled_from([None, "local", "openai", "anthropic"]),
    error_type=st.sampled_from([None, "timeout", "worker_died"]),
    caller=st.sampled_from([None, "10.0.0.1", "10.0.0.2"]),
    preset=st.sampled_from([None, "fast"]),
    queue_ms=TIMES, load_ms=TIMES, ttft_ms=TIMES, itl_ms=TIMES, decode_ms=TIMES, saved_ms=TIMES,
    duration_ms=LASTS,
    prompt_tokens=WHOLE, cached_tokens=WHOLE, completion_tokens=WHOLE, total_tokens=WHOLE, choices=st.integers(1, 3),
)  # fmt: skip
moments = st.one_of(st.none(), LATER.map(lambda later: MONDAY + later))
some = {
    "model": ["m0", "m1", "unknown", "Big"], "caller": ["10.0.0.1", "unknown"], "status": ["error", "timeout"],
    "endpoint": ["/v1/embeddings"], "backend": ["local", "openai"], "error": ["timeout", "rejected"], "preset": ["fast", "unknown"],
}  # fmt: skip


@st.composite
def filters(draw: st.DrawFn) -> AuditFilter:
    fields: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(list(some)), max_size=2)):
        fields[name] = tuple(draw(st.lists(st.sampled_from(some[name]), min_size=1, max_size=2, unique=True)))
    since, until = draw(moments), draw(moments)
    if since and until and since >= until:
        until = None
    scope, text = draw(st.sampled_from(["model", "all"])), draw(st.sampled_from(["", "", "M1", "big"]))
    return AuditFilter(**fields, since=since, until=until, scope=scope, text=text)


@given(
    found=st.lists(records, min_size=20, max_size=60),
    filter=filters(),
    buckets=st.sampled_from([3, 24, 120, 400]),
    pieces=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    cut=st.one_of(st.none(), st.integers(1, 60)),
)
@settings(
    max_examples=10,
    deadline=None,
    phases=UNSHRUNK,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_answer_is_that_of_the_rows_themselves(
    log: Log, found: list[AuditRecord], filter: AuditFilter, buckets: int, pieces: list[int], cut: int | None
) -> None:
    """However much of the log is in the sums by hour, and after retention; each chart on its own axis."""
    log.fill(found)
    for piece in pieces:
        advance(log.cursor, piece)
    if cut is not None:
        (log.forget if cut % 2 else log.forget_some)(
            MONDAY + timedelta(hours=cut, minutes=0 if cut % 2 else 30)
        )
    kept = [row.record for row in log.rows]
    mine = [one for one in kept if matches(one, filter)]
    check_counts(log, mine, filter, buckets)
    check_presence(log, [one for one in kept if matches_but_for_time(one, filter)], filter, buckets)
    check_groups(log, mine, filter)
    check_heat(log, mine, filter)
    check_stats(log, mine, filter)
    check_pages(log, filter)


def matches_but_for_time(found: AuditRecord, filter: AuditFilter) -> bool:
    return matches(found, AuditFilter(**{name: getattr(filter, name) for name in (*some, "text", "scope")}))


def check_counts(log: Log, mine: list[AuditRecord], filter: AuditFilter, buckets: int) -> None:
    made = chart(log.cursor, "latency", filter, {"metric": "ttft"}, buckets=buckets)
    begins, size = [row[0] for row in made.rows], made.bucket_seconds * 1000
    assert len(begins) <= buckets
    assert all(later - begin == size for begin, later in itertools.pairwise(begins))
    cells: dict[int, list[AuditRecord]] = {begin: [] for begin in begins}
    for one in mine:
        cells[begins[int((one.timestamp.timestamp() * 1000 - begins[0]) // size)]].append(one)
    assert made.total == len(mine)
    for begin, number, *times in made.rows:
        assert number == len(cells[begin])
        assert times == about(quantiles([one.ttft_ms for one in cells[begin]], 0.5, 0.95, 0.99))
    for begin, prompt, cached, share, saved in log.chart("cache", filter, buckets=buckets):
        here = cells[begin]
        assert (prompt, cached) == (sum(x.prompt_tokens for x in here), sum(x.cached_tokens for x in here))
        assert share == about(cached / prompt if prompt else None)
        assert saved == about(sum(one.saved_ms or 0 for one in here))
    for begin, _, answer in log.chart("throughput", filter, buckets=buckets):
        slow = [one for one in cells[begin] if (one.decode_ms or 0) >= 1]
        seconds = sum(one.decode_ms or 0 for one in slow) / 1000
        tokens = sum(max(0, one.completion_tokens - one.choices) for one in slow)
        assert answer == about(tokens / seconds if slow else None)
    check_lines(log, cells, filter, buckets)


def check_lines(log: Log, cells: dict[int, list[AuditRecord]], filter: AuditFilter, buckets: int) -> None:
    everything = [one for here in cells.values() for one in here]
    for by in ("model", "endpoint", "backend", "status", "caller", "none"):
        sizes = Counter(told(one)[by] for one in everything)
        largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:8]
        wanted: Counter[tuple[int, str]] = Counter()
        for begin, here in cells.items():
            wanted.update(
                (begin, name if name in largest else "other") for name in (told(one)[by] for one in here)
            )
        got = log.chart("requests", filter, options={"by": by}, buckets=buckets)
        assert {(begin, name): number for begin, name, number in got if number} == dict(wanted)
        assert len(got) == len(cells) * len({name for _, name, _ in got})
    tokens = defaultdict(lambda: [0, 0, 0])
    for begin, _, *sums in log.chart("tokens", filter, options={"by": "model"}, buckets=buckets):
        tokens[begin] = [known + new for known, new in zip(tokens[begin], sums, strict=True)]
    errors, cost = Counter(), Counter()
    for begin, name, number in log.chart("errors", filter, buckets=buckets):
        errors[begin, name] += number
    for begin, _, dollars in log.chart("cost", filter, buckets=buckets, prices=PRICES):
        cost[begin] += dollars
    for begin, here in cells.items():
        assert tokens[begin] == [
            sum(getattr(one, f"{name}_tokens") for one in here) for name in ("prompt", "cached", "completion")
        ]
        assert cost[begin] == about(sum(map(price, here)))
        for name, number in Counter(told(one)["error"] for one in here if failed(one)).items():
            assert errors.pop((begin, name)) == number
    assert not any(errors.values())


def check_presence(log: Log, mine: list[AuditRecord], filter: AuditFilter, buckets: int) -> None:
    made = chart(log.cursor, "concurrency", filter, buckets=buckets)
    for begin, running, waiting in made.rows:
        wanted = presence(mine, begin / 1000, begin / 1000 + made.bucket_seconds)
        assert (running, waiting) == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def check_groups(log: Log, mine: list[AuditRecord], filter: AuditFilter) -> None:
    for metric, name in (
        ("ttft", "ttft_ms"),
        ("itl", "itl_ms"),
        ("queue", "queue_ms"),
        ("total", "duration_ms"),
    ):
        for group, number, *times in log.chart(
            "percentiles", filter, options={"metric": metric, "by": "caller"}
        ):
            values = [getattr(one, name) for one in mine if told(one)["caller"] == group]
            assert number == len(values)
            assert times == about(quantiles(values, 0.5, 0.9, 0.95, 0.99, 1.0))
    for caller, *numbers in log.chart("callers", filter, prices=PRICES):
        his = [one for one in mine if told(one)["caller"] == caller]
        sums = [
            sum(getattr(one, f"{kind}_tokens") for one in his) for kind in ("prompt", "cached", "completion")
        ]
        assert numbers == about([len(his), sum(map(failed, his)), *sums, sum(map(price, his))])
    wanted = sorted(
        (row for row in log.rows if matches(row.record, filter)),
        key=lambda row: (-row.record.duration_ms, -row.id),
    )
    assert [row[0] for row in log.chart("slowest", filter)] == [row.id for row in wanted[:10]]


def check_heat(log: Log, mine: list[AuditRecord], filter: AuditFilter) -> None:
    for value, offset in (("requests", 0), ("tokens", 330), ("ttft", -60)):
        cells = defaultdict(list)
        for one in mine:
            local = one.timestamp + timedelta(minutes=offset)
            cells[local.weekday(), local.hour].append(one)
        got = log.chart("heatmap", filter, options={"value": value, "offset": str(offset)})
        assert len(got) == 7 * 24
        for weekday, hour, number in got:
            here = cells[weekday, hour]
            wanted = {
                "requests": len(here),
                "tokens": sum(one.total_tokens for one in here),
                "ttft": quantiles([one.ttft_ms for one in here], 0.5)[0],
            }
            assert number == about(wanted[value])


def check_stats(log: Log, mine: list[AuditRecord], filter: AuditFilter) -> None:
    got = stats(log.cursor, filter, PRICES)
    kinds = Counter(one.status for one in mine)
    assert (got.requests, got.errors, got.timeouts) == (len(mine), kinds["error"], kinds["timeout"])
    assert (got.cancelled, got.rejected, got.by_status) == (kinds["cancelled"], kinds["rejected"], kinds)
    assert got.error_rate == about((kinds["error"] + kinds["timeout"]) / len(mine) if mine else 0.0)
    assert got.by_model == Counter(map(model, mine))
    assert got.by_backend == Counter(told(one)["backend"] for one in mine)
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "total_tokens"):
        assert getattr(got, name) == sum(getattr(one, name) for one in mine)
    assert (got.saved_ms, got.cost) == about((sum(one.saved_ms or 0 for one in mine), sum(map(price, mine))))
    assert [got.ttft_p50, got.ttft_p95] == about(quantiles([one.ttft_ms for one in mine], 0.5, 0.95))
    assert [got.total_p50, got.total_p95] == about(quantiles([one.duration_ms for one in mine], 0.5, 0.95))
    times = [one.timestamp for one in mine]
    assert (got.first, got.last) == (min(times, default=None), max(times, default=None))


def check_pages(log: Log, filter: AuditFilter) -> None:
    wanted = sorted(
        (row for row in log.rows if matches(row.record, filter)),
        key=lambda row: (row.record.timestamp, row.id),
        reverse=True,
    )
    page, got = rows(log.cursor, filter, limit=7, count=True), []
    assert page.total == len(wanted)
    while True:
        got += page.rows
        assert [row.id for row in got] == [row.id for row in wanted[: len(got)]]
        if not page.next:
            break
        assert len(page.rows) == 7
        page = rows(log.cursor, filter, limit=7, before=page.next)
    assert got == wanted
    for offset in (1, 5, len(wanted) + 1):
        page = rows(log.cursor, filter, limit=7, before=skip(log.cursor, filter, offset))
        assert page.rows == wanted[offset : offset + 7]


# --- one thing at a time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "filter",
    [AuditFilter(), AuditFilter(range="24h"), AuditFilter(model=("m",), since=MONDAY)],
    ids=["all", "range", "since"],
)
def test_an_empty_log_has_every_chart(log: Log, filter: AuditFilter) -> None:
    log.fill([])
    for name in CHARTS:
        made = chart(log.cursor, name, filter)
        assert made.total == 0
        assert all(len(row) == len(made.columns) for row in made.rows)
        for row in made.rows:
            measured = [
                cell
                for cell, column in zip(row, made.columns, strict=True)
                if column.name in ("requests", "value", "running")
            ]
            assert not any(measured)


NARROW = [
    AuditFilter(model=("m1",)), AuditFilter(caller=("10.0.0.1",)), AuditFilter(status=("timeout",)), AuditFilter(text="M1"),
    AuditFilter(endpoint=("/v1/embeddings",)), AuditFilter(backend=("openai",)), AuditFilter(error=("worker_died",)),
    AuditFilter(preset=("fast",)), AuditFilter(since=MONDAY + timedelta(days=10)), AuditFilter(range="1h"),
    AuditFilter(until=MONDAY + timedelta(minutes=30)),
]  # fmt: skip


@pytest.mark.parametrize("filter", NARROW, ids=lambda filter: filter.query()[0][0])
def test_each_filter_narrows_every_chart(log: Log, filter: AuditFilter) -> None:
    """Three requests of twenty-two have what each filter wants; models that come and go know of names and times only."""
    odd = {
        "model_used": "m1", "caller": "10.0.0.1", "status": "timeout", "endpoint": "/v1/embeddings", "backend_type": "openai",
        "error_type": "worker_died", "preset": "fast", "duration_ms": 9.0,
    }  # fmt: skip
    usual = {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "duration_ms": 5e3,
        "status": "error",
        "backend_type": "anthropic",
    }
    times = [MONDAY, MONDAY + timedelta(minutes=45), datetime.now(UTC) - timedelta(minutes=5)]
    log.fill([record(number, **usual) for number in range(2, 40, 2)])
    log.add([record(100 + place, timestamp=when, **odd) for place, when in enumerate(times)])
    log.add([PoolEvent(when, model, "loaded", 1.0) for when in times for model in ("m0", "m1")])
    for name in CHARTS:
        every, narrow = (chart(log.cursor, name, given, prices=PRICES) for given in (ALL, filter))
        if name == "loads" and filter.query()[0][0] not in ("model", "text", "since", "until", "range"):
            assert narrow.rows == every.rows
            continue
        assert narrow.rows != every.rows, name
        assert 0 < narrow.total < every.total, name


def test_management_requests_are_in_scope_all_only(log: Log) -> None:
    log.fill([record(0), record(1, dialect="management", model_used=None, backend_type=None)])
    assert chart(log.cursor, "requests", AuditFilter()).total == 1
    every = chart(log.cursor, "requests", AuditFilter(scope="all"))
    assert (every.total, {row[1] for row in every.rows}) == (2, {"m0", "unknown"})


@pytest.mark.parametrize(
    ("name", "options", "field"),
    [
        ("nothing", {}, "chart"), ("requests", {"by": "weather"}, "by"), ("requests", {"metric": "ttft"}, "metric"),
        ("latency", {"metric": "TTFT"}, "metric"), ("heatmap", {"value": "cost"}, "value"), ("heatmap", {"offset": "841"}, "offset"),
        ("heatmap", {"offset": "1.5"}, "offset"), ("slowest", {"limit": "11"}, "limit"), ("cache", {"by": "model"}, "by"),
    ],
)  # fmt: skip
def test_options_are_those_of_the_chart(log: Log, name: str, options: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        chart(log.cursor, name, AuditFilter(), options)
    assert raised.value.field == field


def test_every_option_of_every_chart_is_taken_and_changes_it(log: Log) -> None:
    log.fill(
        record(
            number, model_used=f"m{number % 3}", caller=f"10.0.0.{number % 5 + 1}", status=("success", "error")[number % 2],
            backend_type="openai", endpoint=f"/v1/{number % 4}", ttft_ms=1.0 + number, itl_ms=2.0 + number, queue_ms=3.0 * number,
            duration_ms=4.0 * number + 9, prompt_tokens=number + 1, total_tokens=number + 2, preset="p",
        )
        for number in range(120)
    )  # fmt: skip
    for name, info in CHARTS.items():
        for option, values in info.options.items():
            values = ("-840", "0", "61", "840") if option == "offset" else values
            answers = [
                chart(log.cursor, name, AuditFilter(), {option: value}, prices={"openai": Price(1, 1)})
                for value in values
            ]
            assert [answer.options[option] for answer in answers] == list(values)
            assert len({repr(answer.rows) for answer in answers}) >= len(values) - ("backend" in values), (
                name,
                option,
            )


@pytest.mark.parametrize(
    ("span", "seconds"),
    [
        (timedelta(seconds=100), 1), (timedelta(minutes=8), 5), (timedelta(hours=1), 60), (timedelta(hours=6), 300),
        (timedelta(hours=24), 900), (timedelta(days=5), 3600), (timedelta(days=29), 21600), (timedelta(days=100), 86400),
        (timedelta(days=800), 7 * 86400), (timedelta(days=9000), 16 * 7 * 86400),
    ],
)  # fmt: skip
def test_buckets_are_as_long_as_the_range_wants(log: Log, span: timedelta, seconds: int) -> None:
    log.fill([record(timestamp=MONDAY)])
    made = chart(log.cursor, "requests", AuditFilter(since=MONDAY, until=MONDAY + span))
    assert made.bucket_seconds == seconds
    assert math.ceil(span.total_seconds() / seconds) <= len(made.rows) <= 120
    assert made.rows[0][2] == 1
    if seconds >= 7 * 86400:
        assert datetime.fromtimestamp(made.rows[0][0] / 1000, UTC).weekday() == 0
    for few in (1, 7):
        assert (
            len(
                chart(
                    log.cursor, "requests", AuditFilter(since=MONDAY, until=MONDAY + span), buckets=few
                ).rows
            )
            <= few
        )
    for wrong in (0, 2001):
        with pytest.raises(InvalidParameter):
            chart(log.cursor, "requests", AuditFilter(), buckets=wrong)


@pytest.mark.parametrize("buckets", [1, 2, 120])
def test_the_ends_of_time_are_moments_like_others(log: Log, buckets: int) -> None:
    log.fill([record(timestamp=MONDAY)])
    first, last = (moment.replace(tzinfo=UTC) for moment in (datetime.min, datetime.max))
    for filter, found in [
        (AuditFilter(since=first), 1),
        (AuditFilter(since=first, until=last), 1),
        (AuditFilter(since=datetime(1970, 1, 1, tzinfo=UTC)), 1),
        (AuditFilter(since=last), 0),
        (AuditFilter(until=first), 0),
    ]:
        assert stats(log.cursor, filter).requests == found
        for name in CHARTS:
            made = chart(log.cursor, name, filter, buckets=buckets)
            assert name != "requests" or sum(row[2] for row in made.rows) == found
            assert name != "concurrency" or len(made.rows) <= buckets


def test_a_range_reaches_to_now_and_a_rate_counts_time_that_has_passed(log: Log) -> None:
    now = datetime.now(UTC)
    log.fill(
        [
            record(number, timestamp=now - timedelta(minutes=number, seconds=1), completion_tokens=60)
            for number in range(600)
        ]
    )
    made = log.chart("throughput", AuditFilter(range="1h"))
    assert abs(made[-1][0] / 1000 - now.timestamp()) < 61
    # One request a minute, 60 tokens each; a minute that has only begun is not half as fast for that.
    assert [row[1] for row in made[1:-1]] == [1.0] * (len(made) - 2)


@pytest.mark.parametrize("piece", [1, 2, 100])
def test_a_request_of_hours_runs_in_each_minute_of_them(log: Log, piece: int) -> None:
    """Wherever its row is: a short range late in its life finds it, though only hours are known of what came before."""
    log.fill(
        [record(0, duration_ms=6 * 3.6e6, queue_ms=3.6e6), record(1, timestamp=MONDAY + timedelta(hours=9))]
    )
    while advance(log.cursor, piece) == 0:
        pass
    for hours, wanted in ((0.5, [0, 1]), (5.5, [1, 0]), (6.5, [0, 0])):
        since = MONDAY + timedelta(hours=hours)
        got = log.chart("concurrency", AuditFilter(since=since, until=since + timedelta(minutes=10)))
        assert [row[1:] for row in got] == [wanted] * 120


def test_what_another_group_is_called_other_stays_counted(log: Log) -> None:
    log.fill(
        [record(number, model_used="other" if number < 5 else f"m{number % 12}") for number in range(60)]
    )
    assert sum(row[2] for row in log.chart("requests")) == 60
    assert sum(row[1] for row in log.chart("percentiles", options={"by": "model"})) == 60


def test_of_many_callers_the_largest_are_told_and_all_are_counted(log: Log) -> None:
    log.fill(
        [
            record(
                number,
                caller=f"10.0.0.{number % 40}",
                backend_type="anthropic",
                completion_tokens=number % 40,
            )
            for number in range(1200)
        ]
    )
    made = log.chart("callers", prices=PRICES)
    assert [row[0] for row in made[-2:]] == ["10.0.0.30", "other"]
    assert (len(made), sum(row[1] for row in made)) == (26, 1200)
    assert sum(row[-1] for row in made) == about(stats(log.cursor, ALL, PRICES).cost)
    assert made[-1][-1] > 0


def test_figures_that_are_no_numbers_do_no_harm(log: Log) -> None:
    log.fill(
        [
            record(0, saved_ms=math.inf, decode_ms=math.nan, duration_ms=math.inf, queue_ms=math.nan),
            record(1, duration_ms=5.0),
        ]
    )
    for name in CHARTS:
        log.chart(name)
    assert stats(log.cursor, AuditFilter()).saved_ms == 0.0


def test_a_page_mark_is_one_of_ours(log: Log) -> None:
    log.fill([record(number) for number in range(3)])
    far = base64.urlsafe_b64encode(b"2026-03-02T00:00:00+00:00 99999999999999999999").decode()
    late = base64.urlsafe_b64encode(b"9999-12-31T23:59:59.999999+00:00 1").decode()
    for wrong in ("?", "abc", "MTIz", "1" * 5000, far, late):
        with pytest.raises(InvalidParameter) as raised:
            rows(log.cursor, AuditFilter(), before=wrong)
        assert raised.value.field == "before"
    for limit in (0, 1001):
        with pytest.raises(InvalidParameter):
            rows(log.cursor, AuditFilter(), limit=limit)


def test_retention_goes_by_hours(log: Log) -> None:
    with pytest.raises(ValueError, match="hour"):
        forget(log.cursor, MONDAY + timedelta(minutes=1))


def test_pieces_wait_until_they_are_whole(log: Log) -> None:
    log.fill([record(number) for number in range(50)])
    assert advance(log.cursor, 51) > 0
    assert advance(log.cursor, 25) == advance(log.cursor, 25) == 0.0
    assert advance(log.cursor, 25) > 0
    assert log.cursor.execute("SELECT sum(requests) FROM audit_hour").fetchall() == [(50,)]


def test_a_question_never_sees_a_row_twice_or_not_at_all_while_rows_come_and_are_rolled_up(log: Log) -> None:
    """What is counted is never less than was there before the question, nor more than was there after it."""
    log.fill([])
    writer, reader, done = log.cursor.cursor(), log.cursor.cursor(), threading.Event()
    committed = [0]

    def write() -> None:
        while not done.is_set() and committed[0] < 1200:
            writer.execute(
                f"""INSERT INTO audit (id, request_id, "timestamp", endpoint, dialect, status, http_status, stream, duration_ms,
                prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, total_tokens) SELECT {committed[0]} + i, 'r',
                TIMESTAMP '2026-03-02', '/v1/x', 'openai', 'success', 200, false, 1, 0, 0, 0, 0, 1 FROM range(1, 21) r (i)"""
            )
            committed[0] += 20
            advance(writer, 20)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while thread.is_alive():
            for ask in (lambda: chart(reader, "requests", ALL).total, lambda: totals(reader)["tokens"]):
                before = committed[0]
                assert before <= ask() <= committed[0] + 20
    finally:
        done.set()
        thread.join()
    assert chart(reader, "requests", ALL).total == stats(reader, ALL).requests == committed[0]


def test_the_writer_takes_rows_into_the_sums_between_its_commits(tmp_path: Path) -> None:
    store, done = AuditStore(tmp_path / "audit.duckdb", flush_seconds=0.01), threading.Event()

    def keep(cursor: duckdb.DuckDBPyConnection) -> float:
        waits = advance(cursor, 10)
        if cursor.execute("SELECT id FROM audit_rolled").fetchall() == [(20,)]:
            done.set()
        return min(waits, 0.01)

    store.housekeeping.append(keep)
    store.start()
    try:
        for number in range(25):
            store.put(record(number))
        assert done.wait(30)
        with closing(store.cursor()) as cursor:
            assert cursor.execute("SELECT sum(requests) FROM audit_hour").fetchall() == [(20,)]
            assert chart(cursor, "requests", ALL).total == 25
    finally:
        store.close()


def test_a_server_keeps_its_sums_up_to_date(tmp_path: Path) -> None:
    assert advance in Runtime(Settings(tmp_path)).audit.housekeeping


# --- very many ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    path, seen = tmp_path_factory.mktemp("large") / "large.duckdb", []
    generate(path, EXACT + 20_000, days=2, end=MONDAY, progress=lambda done, rows: seen.append((done, rows)))
    assert seen[-1] == (EXACT + 20_000, EXACT + 20_000)
    assert path.stat().st_mode & 0o777 == 0o600
    with closing(duckdb.connect(str(path), config=CONFIG)) as connection:
        yield connection


def test_percentiles_of_very_many_are_those_of_a_sample_and_say_so(large: duckdb.DuckDBPyConnection) -> None:
    every, few = (
        AuditFilter(scope="all"),
        AuditFilter(status=("success",), scope="all", model=("gpt-oss-20b-MXFP4",)),
    )
    sampled = chart(large, "latency", every, {"metric": "total"}, buckets=4)
    assert (sampled.sampled, sampled.total) == (SAMPLED, EXACT + 20_000)
    assert sum(row[1] for row in sampled.rows) == EXACT + 20_000
    size = sampled.bucket_seconds * 1000
    for begin, _, *times in sampled.rows:
        wanted = large.execute(
            'SELECT quantile_cont(duration_ms, [0.5, 0.95, 0.99]) FROM audit WHERE epoch_ms("timestamp") // ? = ?',
            [size, begin // size],
        ).fetchall()[0][0]
        assert times == pytest.approx(wanted, rel=0.1)
    assert chart(large, "latency", few).sampled == 1
    assert stats(large, every).sampled == SAMPLED


def test_the_sample_is_the_same_whether_rolled_up_or_not(large: duckdb.DuckDBPyConnection) -> None:
    def ask() -> tuple:
        facts, _ = timings(large, ALL, 10**9)
        question = f"SELECT count(*), sum(CAST(ttft_ms AS FLOAT)), min(arrived) FROM {facts.sql}"
        return large.execute(question, facts.bound).fetchall()[0]

    assert 0 < large.execute("SELECT id FROM audit_rolled").fetchall()[0][0] < EXACT + 20_000
    number, total, first = ask()
    large.begin()
    large.execute("DELETE FROM audit_sample")
    large.execute("UPDATE audit_rolled SET id = 0")
    assert ask() == (number, about(total), first)
    large.rollback()
    assert number == pytest.approx((EXACT + 20_000) / SAMPLED, rel=0.1)


def test_made_up_traffic_is_the_same_each_time_and_never_overwrites(tmp_path: Path) -> None:
    logs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(tmp_path / name, 2000, days=7, seed=seed, end=MONDAY)
        with closing(duckdb.connect(str(tmp_path / name), read_only=True)) as connection:
            page = rows(connection, AuditFilter(scope="all"), limit=1000, count=True)
            assert page.total == 2000
            logs.append(page.rows)
            assert {one.record.status for one in page.rows} >= {"success", "error", "cancelled"}
            first, last = stats(connection, AuditFilter(scope="all")).first, page.rows[0].record.timestamp
            assert first is not None
            assert MONDAY - timedelta(days=7) <= first < last < MONDAY
    assert logs[0] == logs[1] != logs[2]
    with pytest.raises(AuditError, match="exists"):
        generate(tmp_path / "a", 10)
    for wrong in ({"rows": 0}, {"rows": 10, "days": 0}):
        with pytest.raises(InvalidParameter):
            generate(tmp_path / "d", **wrong)
    with pytest.raises(AuditError):
        generate(tmp_path / "a" / "below", 10)
    with pytest.raises(RuntimeError, match="enough"):
        generate(tmp_path / "e", 2000, progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def stop(done: int, rows: int) -> None:
    raise RuntimeError("enough")
