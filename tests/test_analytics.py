"""The audit's charts: the filter in an address, components without a browser, and the same answers near and far."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import duckdb
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_panel.analytics import CHARTS, NAMED, RANGES, AuditFilter, Chart, read
from mlx_panel.audit import AuditReader, AuditStore
from mlx_panel.audit.generate import generate
from mlx_panel.dashboard.analytics import ALL, ORDER, Analytics
from mlx_panel.dashboard.analytics_charts import KINDS, Charts, Latency
from mlx_panel.dashboard.analytics_filter import address, opened
from mlx_panel.dashboard.audit import AuditTable
from mlx_panel.dashboard.local import Local
from mlx_panel.dashboard.recorded import Recorded
from mlx_panel.dashboard.remote import Remote
from mlx_panel.errors import AuditError, InvalidParameter
from mlx_panel.record import BackendType, Status
from mlx_panel.settings import Settings

from .recorded import record, recorded, snapshot
from .server import running
from .test_dashboard import tell, turn

CLOSED = {"status": get_args(Status), "backend": get_args(BackendType)}
MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


def named(name: str) -> st.SearchStrategy[tuple[str, ...]]:
    values = st.sampled_from(CLOSED[name]) if name in CLOSED else st.text(min_size=1)
    return st.lists(values, max_size=4, unique=True).map(tuple)


@st.composite
def filters(draw: st.DrawFn) -> AuditFilter:
    moments = sorted(draw(st.lists(MOMENTS, min_size=2, max_size=2, unique=True)))
    since, until = (moment if draw(st.booleans()) else None for moment in moments)
    return AuditFilter(
        **{name: draw(named(name)) for name in NAMED},
        text=draw(st.text()),
        since=since,
        until=until,
        range=draw(st.sampled_from(["", *RANGES])),
        scope=draw(st.sampled_from(["model", "all"])),
    )


def many(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    return {name: [value for other, value in pairs if other == name] for name, _ in pairs}


# --- the filter in an address ------------------------------------------------------------------------------


@given(filters())
def test_a_filter_comes_back_from_its_address(filter: AuditFilter) -> None:
    assert read(many(filter.query())) == filter
    assert opened(address(filter)) == (filter, [])


@given(
    st.lists(st.tuples(st.sampled_from([*AuditFilter.__struct_fields__, "modle"]), st.text()), max_size=6),
    filters(),
)
def test_what_is_wrong_in_an_address_is_said_and_the_rest_holds(
    pairs: list[tuple[str, str]], good: AuditFilter
) -> None:
    found, problems = opened(pairs)
    assert opened(address(found)) == (found, [])
    assert ("modle" in dict(pairs)) <= any("modle" in problem for problem in problems)
    kept = msgspec.structs.replace(good, status=("success",))
    both, said = opened([*kept.query(), ("status", "bogus"), ("modle", "x")])
    expected = kept if kept.range or kept.since or kept.until else msgspec.structs.replace(kept, range="24h")
    assert both == expected
    assert len(said) == 2


def test_an_address_without_a_time_is_a_day_and_all_is_all() -> None:
    assert opened([])[0].range == "24h"
    assert opened([("range", "all")])[0] == AuditFilter()
    assert opened([("since", "2026-11-20"), ("until", "2026-11-19")])[0].until is None


# --- without a browser -------------------------------------------------------------------------------------


def chart(name: str = "requests") -> Chart:
    return Chart(name, CHARTS[name].columns, [[0, "org/big", 3], [60_000, "org/big", 0]], bucket_seconds=60)


def source(**more: Any) -> Recorded:
    log = recorded(rows=60, **more)
    log.charts["requests"] = chart()
    return log


async def test_without_a_browser_every_chart_is_asked_for() -> None:
    page = Analytics(source())
    assert [page.answer(name) for name in ORDER] == [{}] * len(ORDER)
    page.refresh()
    await turn()
    assert page.answer("requests")["rows"] == [[0, "org/big", 3], [60_000, "org/big", 0]]
    assert {name: page.answer(name)["name"] for name in ORDER} == {name: name for name in CHARTS}
    assert msgspec.json.decode(page.view.stats)["requests"] == 60


async def test_in_a_browser_only_what_is_seen_is_asked_for_and_once() -> None:
    log = source()
    page = Analytics(log)
    tell(page, "look", eye="a")
    tell(page, "see", charts=["latency", "nothing", 3])
    await turn()
    tell(page, "see", charts=["latency"])
    await turn()
    assert [call[1] for call in log.calls if call[1] in CHARTS] == ["latency"]
    tell(page, "refresh")
    tell(page, "see", charts=["latency", "cost"])
    await turn()
    assert sorted(call[1] for call in log.calls if call[1] in CHARTS) == ["cost", "latency", "latency"]


async def test_a_filter_from_the_browser_holds_for_charts_numbers_and_rows() -> None:
    log = source()
    log.record(record(99, status="error", http_status=500, error_type="worker_died", model_used="org/small"))
    page = Analytics(log)
    table = AuditTable(log, choose=page.choose)
    page.on_filter(table.put)
    for component in (page, table):
        tell(component, "look", eye="a")
    pairs = [["status", "error"], ["status", "bogus"], ["range", "all"]]
    tell(page, "filter", pairs=pairs, options={"latency": {"metric": "itl"}, "tokens": {"by": "colour"}})
    await turn()
    assert page.filter == AuditFilter(status=("error",))
    assert page.view.told["pairs"] == [["status", "error"], ["range", "all"]]
    assert len(page.view.problems) == 2
    assert page.options == {"latency": {"metric": "itl"}}
    assert msgspec.json.decode(page.view.stats)["requests"] == 1
    assert [row["model_used"] for row in table.page["rows"]] == ["org/small"]
    tell(table, "choose", field="model", value="org/small", add=True)
    assert page.view.chosen == {"field": "model", "value": "org/small", "add": True, "count": 1}


async def test_an_answer_to_an_older_question_is_let_go() -> None:
    class Slow(Recorded):
        async def audit_chart(self, name: str, filter: AuditFilter, options: Any = ()) -> Chart:
            await asyncio.sleep(0.05 if filter.model else 0)
            return msgspec.structs.replace(chart(), total=len(filter.model))

    page = Analytics(Slow(snapshot()), parts=("requests",))
    page.filter = AuditFilter(model=("org/big",))
    await turn()
    page.filter = AuditFilter()
    await asyncio.sleep(0.1)
    assert page.answer("requests")["total"] == 0
    assert page.answer("requests")["filter"] == [["range", "all"]]


async def test_what_fails_is_said_in_its_chart_and_the_others_stay() -> None:
    log = source()
    page = Analytics(log, parts=("requests", "latency"))
    page.refresh()
    await turn()
    log.faults["audit"] = AuditError("The audit log could not be read (IOException).")
    tell(page, "look", eye="a")
    tell(page, "see", charts=["latency"])
    await turn()
    assert page.answer("latency")["error"] == "The audit log could not be read (IOException)."
    assert page.answer("requests")["rows"]


@pytest.mark.parametrize("field", ["model", "status", "preset", "caller", "error", "endpoint"])
async def test_choices_of_a_field(field: str) -> None:
    page = Analytics(source(), AuditFilter(status=("timeout",)))
    tell(page, "choices", field=field)
    await turn()
    found = {"model": [("org/big", 60)], "status": [("success", 60)], "endpoint": [("org/big", 3)]}
    assert page.view.choices[field] == found.get(field, [])


async def test_files(tmp_path: Path) -> None:
    page = Analytics(source())
    for format in ("csv", "parquet"):
        tell(page, "file", chart="requests", format=format)
        await turn()
        path = tmp_path / page.view.file["name"]
        path.write_bytes(base64.b64decode(page.view.file["data"]))
        assert duckdb.sql(f"SELECT requests FROM '{path}'").fetchall() == [(3,), (0,)]
    tell(page, "file", chart="requests", format="exe")
    await turn()
    assert page.view.file["name"] == "audit-requests.parquet"


async def test_each_chart_stands_alone() -> None:
    charts = Charts(source())
    assert dir(charts) == sorted(CHARTS)
    for kind in KINDS:
        one = getattr(charts, kind.name_of_chart)
        assert type(one) is kind
        assert one.view.parts == [kind.name_of_chart]
    late = Latency(source(), AuditFilter(range="7d"), metric="itl")
    late.refresh()
    await turn()
    assert late.answer("latency")["options"] == {"metric": "itl"}
    with pytest.raises(AttributeError, match="There is no chart 'nonsense'"):
        _ = charts.nonsense
    assert set(ALL) - set(CHARTS) == {"bar", "tiles"}


# --- near and far ------------------------------------------------------------------------------------------

END = datetime(2026, 11, 20, 12, tzinfo=UTC)
WINDOW = AuditFilter(since=END - timedelta(days=2), until=END, status=("success", "timeout"))


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    folder = tmp_path_factory.mktemp("far")
    generate(folder / "audit.duckdb", 5000, days=3, end=END)
    with running(folder, audit_retention_days=0) as server:
        yield Remote(server.url)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    folder = tmp_path_factory.mktemp("near")
    generate(folder / "audit.duckdb", 5000, days=3, end=END)
    store = AuditStore(folder / "audit.duckdb")
    store.start()
    reader = AuditReader(store)
    yield Local(SimpleNamespace(settings=Settings(folder), reader=reader))  # type: ignore[arg-type]
    reader.close()
    store.close()


async def test_every_chart_says_the_same_near_and_far(local: Local, remote: Remote) -> None:
    for name in CHARTS:
        near, far = [await one.audit_chart(name, WINDOW) for one in (local, remote)]
        assert msgspec.structs.replace(near, took_ms=far.took_ms) == far
        assert near.rows or name == "cost"
    assert await local.audit_stats(WINDOW) == await remote.audit_stats(WINDOW)
    options = {"by": "caller"}
    assert await local.audit_chart("requests", WINDOW, options) != await local.audit_chart("requests", WINDOW)
    near_file = await local.audit_chart_file("requests", WINDOW, options, "csv")
    assert near_file == await remote.audit_chart_file("requests", WINDOW, options, "csv")
    for one in (local, remote):
        with pytest.raises(InvalidParameter, match="by is one of"):
            await one.audit_chart("requests", WINDOW, {"by": "colour"})


async def test_rows_page_by_page_near_and_far(local: Local, remote: Remote) -> None:
    wanted = msgspec.structs.replace(WINDOW, model=("gpt-4o-mini",))
    for one in (local, remote):
        first = await one.audit_rows(wanted, 10, count=True)
        second = await one.audit_rows(wanted, 10, first.next)
        stats = await one.audit_stats(wanted)
        assert first.total == stats.requests == stats.by_model["gpt-4o-mini"]
        rows = [*first.rows, *second.rows]
        assert len({row.id for row in rows}) == 20
        assert [row.record.timestamp for row in rows] == sorted(
            (row.record.timestamp for row in rows), reverse=True
        )
    assert (await local.audit_rows(wanted, 10)).rows == (await remote.audit_rows(wanted, 10)).rows


async def test_a_component_shows_a_real_log(local: Local) -> None:
    page = Analytics(
        local, parts=("tiles", "requests", "percentiles"), options={"requests": {"by": "status"}}
    )
    page.filter = WINDOW
    for _ in range(200):
        if page.answer("percentiles") and page.answer("requests") and page.view.stats:
            break
        await asyncio.sleep(0.02)
    assert {row[1] for row in page.answer("requests")["rows"]} == {"success", "timeout"}
    assert page.answer("percentiles")["rows"][0][2] > 0
