"""SQL over the audit log: what a query sees, what it gives, how its limits are held, and the queries that are kept."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pandas as pd
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlx_panel
from mlx_panel.audit.generate import generate
from mlx_panel.audit.sql import SqlConsole, SqlLimits, query
from mlx_panel.audit.sql_examples import EXAMPLES
from mlx_panel.audit.sql_saved import SavedQueries, told
from mlx_panel.audit.sql_schema import TABLES, schema
from mlx_panel.audit.store import AuditStore
from mlx_panel.dashboard.recorded import Recorded
from mlx_panel.dashboard.remote import Remote
from mlx_panel.dashboard.sql import Sql
from mlx_panel.errors import (
    AuditError,
    AuditLocked,
    Conflict,
    InvalidParameter,
    InvalidSql,
    NotFound,
    QueueFull,
    SqlTimeout,
)
from mlx_panel.inquiry import SavedQuery, SqlOrder, SqlResult
from mlx_panel.notebook_sql import sql_frame
from mlx_panel.record import AuditRecord
from mlx_panel.sandbox.values import EXACT, plain

from .server import Running, running
from .test_dashboard import tell, turn

CANARY = "axolotlcanary"
SQL = "/v1/admin/audit-logs/sql"
LIMITS = SqlLimits()
SLEEP = "SELECT pg_sleep(600)"


def record(number: int) -> AuditRecord:
    return AuditRecord(
        request_id=f"r{number}", timestamp=datetime.now(UTC), endpoint="/v1/chat/completions", dialect="openai",
        status="success", http_status=200, model_used="m", duration_ms=float(number),
    )  # fmt: skip


@contextlib.asynccontextmanager
async def console(
    folder: Path, limits: SqlLimits = LIMITS, **more: Any
) -> AsyncIterator[tuple[AuditStore, SqlConsole]]:
    store = AuditStore(folder / "audit.duckdb", flush_seconds=0.01)
    asked = SqlConsole(store, folder / "sql", lambda: limits, **more)
    await asyncio.to_thread(store.start)
    await asyncio.to_thread(asked.open)
    try:
        yield store, asked
    finally:
        await asyncio.to_thread(asked.close)
        await asyncio.to_thread(store.close)
        assert [path.name for path in (folder / "sql").iterdir()] == ["empty"]


async def count(asked: SqlConsole) -> int:
    found = await asked.run(SqlOrder("SELECT count(*) FROM audit"))
    return int(found.rows[0][0])


# --- what a query sees -------------------------------------------------------------------------------------


async def test_a_query_sees_every_row_put_before_it(tmp_path: Path) -> None:
    async with console(tmp_path) as (store, asked):
        for number in range(3):
            store.put(record(number))
            before = datetime.now(UTC)
            found = await asked.run(SqlOrder("SELECT max(duration_ms) AS most, count(*) AS n FROM audit"))
            assert found.rows == [[float(number), number + 1]]
            assert (found.columns, found.types) == (("most", "n"), ("DOUBLE", "BIGINT"))
            assert found.as_of is not None
            assert before - timedelta(seconds=1) < found.as_of <= datetime.now(UTC)


async def test_a_large_log_is_copied_beside_its_writer_and_the_copy_is_of_one_moment(tmp_path: Path) -> None:
    async with console(tmp_path, small_bytes=0) as (store, asked):
        done = False

        def write() -> None:
            number = 0
            while not done:
                for _ in range(500):
                    store.put(record(number))
                    number += 1
                store.flush()
                store.in_writer(lambda cursor: cursor.execute("CHECKPOINT") and None).result(10)

        writing = asyncio.create_task(asyncio.to_thread(write))
        try:
            for _ in range(4):
                found = await asked.run(
                    SqlOrder(
                        "SELECT count(*), max(id) - min(id) + 1, max(duration_ms) + 1, count(DISTINCT request_id) FROM audit"
                    )
                )
                assert len({int(value or 0) for value in found.rows[0]}) <= 2  # all the same, or nothing yet
                assert found.rows[0][0] in (0, *map(int, filter(None, found.rows[0][1:])))
                await asyncio.sleep(0.1)
        finally:
            done = True
            await writing


async def test_a_copy_leaves_the_lock_alone(tmp_path: Path) -> None:
    """POSIX locks are the process's: were this process to open and close the file, another could take it."""
    async with console(tmp_path) as (store, asked):
        store.put(record(1))
        assert await count(asked) == 1
        other = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", f"import duckdb; duckdb.connect({str(store.path)!r}, read_only=True)"],
            capture_output=True,
        )
        assert b"Conflicting lock" in other.stderr
        with pytest.raises(AuditLocked, match="in use by process"):
            await asyncio.to_thread(query, store.path, SqlOrder("SELECT 1"))


def test_a_file_without_a_server_is_asked_as_it_is(tmp_path: Path) -> None:
    store = AuditStore(tmp_path / "audit.duckdb")
    store.start()
    store.put(record(1))
    store.close()
    assert query(tmp_path / "audit.duckdb", SqlOrder("SELECT request_id FROM audit")).rows == [["r1"]]
    with pytest.raises(AuditError, match="cannot be read"):
        query(tmp_path / "nothing.duckdb", SqlOrder("SELECT 1"))


# --- limits ------------------------------------------------------------------------------------------------


async def test_rows_beyond_the_limit_are_said(tmp_path: Path) -> None:
    async with console(tmp_path, SqlLimits(max_rows=5)) as (_, asked):
        found = await asked.run(SqlOrder("SELECT * FROM range(6)"))
        assert (len(found.rows), found.truncated) == (5, True)
        found = await asked.run(SqlOrder("SELECT * FROM range(5)"))
        assert (len(found.rows), found.truncated) == (5, False)
        found = await asked.run(SqlOrder("SELECT * FROM range(5)", max_rows=2))
        assert found.rows == [[0], [1]]


@pytest.mark.parametrize(
    ("order", "field"),
    [
        (SqlOrder("SELECT 1", max_rows=0), "max_rows"),
        (SqlOrder("SELECT 1", max_rows=10_001), "max_rows"),
        (SqlOrder("SELECT 1", timeout_seconds=0), "timeout_seconds"),
        (SqlOrder("SELECT 1", timeout_seconds=11), "timeout_seconds"),
        (SqlOrder("SELECT 1", timeout_seconds=float("nan")), "timeout_seconds"),
        (SqlOrder(" " * 100_001), "sql"),
    ],
)
def test_no_order_exceeds_the_server_s_limits(order: SqlOrder, field: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter) as caught:
        query(tmp_path / "audit.duckdb", order)
    assert caught.value.field == field


async def test_two_run_at_once_and_others_wait_for_a_while(tmp_path: Path) -> None:
    async with console(tmp_path, wait_seconds=0.3) as (_, asked):
        long = [asyncio.create_task(asked.run(SqlOrder(SLEEP))) for _ in range(2)]
        while len(processes()) < 2:
            await asyncio.sleep(0.02)
        with pytest.raises(QueueFull):
            await asked.run(SqlOrder("SELECT 1"))
        long[0].cancel()
        assert (await asked.run(SqlOrder("SELECT 1"))).rows == [[1]]
        long[1].cancel()
        assert [type(one) for one in await asyncio.gather(*long, return_exceptions=True)] == [
            asyncio.CancelledError
        ] * 2


def processes() -> list[psutil.Process]:
    """The sandboxes that live."""
    found = psutil.Process().children(recursive=True)
    return [one for one in found if one.is_running() and "mlx_panel.sandbox" in " ".join(_command(one))]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


async def test_after_a_while_without_queries_no_process_and_no_copy_is_left(tmp_path: Path) -> None:
    async with console(tmp_path, idle_seconds=0.2) as (_, asked):
        await asked.run(SqlOrder("SELECT 1"))
        assert list((tmp_path / "sql").glob("*.duckdb"))
        end = time.monotonic() + 10
        while (processes() or list((tmp_path / "sql").glob("*.duckdb"))) and time.monotonic() < end:
            await asyncio.sleep(0.05)
        assert not processes()
        assert not list((tmp_path / "sql").glob("*.duckdb"))
        assert await count(asked) == 0  # and the next one works


# --- values ------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_every_value_is_json_that_no_reader_rounds(value: Any) -> None:
    told_ = plain(value)
    again = msgspec.json.decode(msgspec.json.encode(told_))
    assert again == (told_ if not isinstance(told_, float) else pytest.approx(told_))
    if isinstance(value, int) and not isinstance(value, bool):
        assert int(again) == value
        assert isinstance(again, str) == (abs(value) > EXACT)
    if isinstance(value, float) and value != value:
        assert again == "NaN"


ODD = (
    "SELECT 170141183460469231731687303715884105727::HUGEINT, 9007199254740993, 1.5::DECIMAL(9, 2), "
    "'12345678901234567.25'::DECIMAL(38, 2), 'nan'::DOUBLE, '-inf'::DOUBLE, '\\xAB'::BLOB, DATE '2026-11-20', "
    "TIMESTAMP '2026-11-20 08:00:00.25', TIMESTAMPTZ '2026-11-20 08:00:00+02', INTERVAL 36 HOUR, [1, NULL], "
    "{'a': 1, 'b': 'x'}, MAP {1: 'one'}, 'a'::ENUM('a', 'b'), true, NULL, TIME '12:00:00', '[1]'::JSON"
)


async def test_values_of_every_kind(tmp_path: Path) -> None:
    async with console(tmp_path) as (_, asked):
        found = await asked.run(SqlOrder(ODD))
    assert found.rows == [
        ["170141183460469231731687303715884105727", "9007199254740993", 1.5, "12345678901234567.25", "NaN", "-Infinity",
         "ab", "2026-11-20", "2026-11-20T08:00:00.250000", "2026-11-20T06:00:00Z", "P1DT43200S", [1, None],
         {"a": 1, "b": "x"}, {"1": "one"}, "a", True, None, "12:00:00", "[1]"]
    ]  # fmt: skip
    frame = sql_frame(found)
    kinds = [str(kind) for kind in frame.dtypes]
    assert kinds[1] == "Int64"
    assert kinds[4:6] == ["float64", "float64"]
    assert kinds[8].startswith("datetime64")
    assert kinds[9].endswith("UTC]")
    assert kinds[10].startswith("timedelta64")
    assert frame.iloc[0, 0] == 2**127 - 1
    assert frame.iloc[0, 10] == pd.Timedelta(hours=36)


async def test_a_result_as_an_arrow_stream(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    async with console(tmp_path) as (store, asked):
        for number in range(3000):
            store.put(record(number))
        sql = "SELECT id, status, request_id, timestamp, stream, ttft_ms, [id, NULL] AS l, {'e': status} AS s, MAP {request_id: id} AS m FROM audit ORDER BY id"
        body = await asked.run_arrow(SqlOrder(sql, max_rows=2500))
        found = await asked.run(SqlOrder(sql, max_rows=2500))
        with pytest.raises(InvalidSql, match="Referenced column"):
            await asked.run_arrow(SqlOrder("SELECT nothing FROM audit"))
        empty = await asked.run_arrow(SqlOrder("SELECT * FROM audit WHERE false"))
    table = arrow.ipc.open_stream(body).read_all()
    table.validate(full=True)
    assert table.schema.metadata[b"truncated"] == b"true"
    rows = table.to_pylist()
    assert len(rows) == 2500
    for row, other in zip(rows[::250], found.rows[::250], strict=True):
        assert (row["id"], row["status"], row["request_id"], row["l"], row["s"]) == (
            *other[:3],
            other[6],
            other[7],
        )
        assert dict(row["m"]) == {row["request_id"]: row["id"]}
    assert arrow.ipc.open_stream(empty).read_all().num_rows == 0


# --- kept queries ------------------------------------------------------------------------------------------


def test_examples_answer_on_an_empty_and_on_a_full_log(tmp_path: Path) -> None:
    generate(tmp_path / "full.duckdb", 3000, days=3)
    store = AuditStore(tmp_path / "empty.duckdb")
    store.start()
    store.close()
    union = " UNION ALL ".join(f"SELECT '{one.name}', count(*) FROM ({one.sql})" for one in EXAMPLES)
    empty = query(tmp_path / "empty.duckdb", SqlOrder(union))
    assert {row[1] for row in empty.rows} == {0}
    full = query(tmp_path / "full.duckdb", SqlOrder(union))
    filled = {row[0] for row in full.rows if row[1]}
    assert {
        "Latest requests",
        "By model",
        "By hour",
        "Slowest requests",
        "Errors",
        "Prefix cache",
        "Callers",
    } <= filled


def test_every_column_has_its_line(tmp_path: Path) -> None:
    store = AuditStore(tmp_path / "audit.duckdb")
    store.start()
    with contextlib.closing(store.cursor()) as cursor:
        tables = schema(cursor)
    store.close()
    assert {table.name for table in tables} == set(TABLES)
    assert [table.name for table in tables][:3] == ["audit", "detail", "pool_event"]
    assert [(table.name, column.name) for table in tables for column in table.columns if not column.doc] == []


NAMES = st.text(st.characters(blacklist_categories=("C", "Z")), min_size=1, max_size=20)
TEXTS = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), whitelist_characters="\n\t"), min_size=1
).filter(str.strip)


@given(st.dictionaries(NAMES, TEXTS, max_size=4))
def test_kept_queries_survive_the_file(queries: dict[str, str]) -> None:
    own = {name: SavedQuery(name, sql) for name, sql in queries.items()}
    raw = tomllib.loads(told(own)).get("queries", {})
    assert {name: one["sql"] for name, one in raw.items()} == queries


def test_queries_are_kept_renamed_and_deleted(tmp_path: Path) -> None:
    kept = SavedQueries(tmp_path / "queries.toml")
    kept.load()
    kept.save(SavedQuery("one", "SELECT 1\n\n"))
    assert (tmp_path / "queries.toml").stat().st_mode & 0o777 == 0o600
    kept.save(SavedQuery("two", "SELECT 2"))
    with pytest.raises(Conflict):
        kept.save(SavedQuery("two", "SELECT 1"), replaces="one")
    kept.save(SavedQuery("three", "SELECT 1", "what for"), replaces="one")
    for wrong in (" x", "", "a\nb", "x" * 81):
        with pytest.raises(InvalidParameter):
            kept.save(SavedQuery(wrong, "SELECT 1"))
    with pytest.raises(Conflict):
        kept.save(SavedQuery("By model", "SELECT 1"))
    with pytest.raises(Conflict):
        kept.delete("By model")
    with pytest.raises(NotFound):
        kept.delete("one")
    again = SavedQueries(tmp_path / "queries.toml")
    again.load()
    assert [one for one in again.all() if not one.built_in] == [
        SavedQuery("three", "SELECT 1", "what for"),
        SavedQuery("two", "SELECT 2"),
    ]


def test_a_file_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "queries.toml"
    file.write_text("[queries.mine]\nsql = 'SELECT 1'\n[[broken")
    kept = SavedQueries(file)
    kept.load()
    with pytest.raises(Conflict, match="mend it"):
        kept.save(SavedQuery("other", "SELECT 2"))
    assert "mine" in file.read_text()


# --- the component -----------------------------------------------------------------------------------------


async def test_the_component_runs_cancels_and_keeps() -> None:
    source = Recorded()
    source.sql_results["SELECT 1"] = SqlResult(("a",), ("INTEGER",), [[1]])
    console = Sql(source)
    tell(console, "run", sql="SELECT 1", rows=10)
    await turn()
    assert source.calls[-1] == ("sql", SqlOrder("SELECT 1", max_rows=10))
    assert msgspec.json.decode(console.view.result, type=SqlResult).rows == [[1]]
    source.faults["sql"] = InvalidSql("Binder Error: no\n\nLINE 2: x\n        ^", line=2, column=1, length=1)
    tell(console, "run", sql="SELECT 2", rows=0)
    await turn()
    assert console.view.answered["error"] == {"text": "Binder Error: no", "line": 2, "column": 1, "length": 1}
    assert not console.view.running
    tell(console, "save", name="one", sql="SELECT 1", replaces="")
    await turn()
    tell(console, "delete", name="one")
    await turn()
    assert console.view.deleted == "one"
    tell(console, "undo")
    await turn()
    assert source.queries == {"one": SavedQuery("one", "SELECT 1")}


async def test_a_source_elsewhere_asks_and_cancels(server: Running) -> None:
    source = Remote(server.url)
    console = Sql(source)
    tell(console, "run", sql=SLEEP, rows=0)
    while not console.view.running:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)
    console.cancel()
    while console.view.running:
        await asyncio.sleep(0.01)
    assert console.view.answered["cancelled"]
    found = msgspec.json.decode(await source.sql_json(SqlOrder("SELECT 1")), type=SqlResult)
    assert found.rows == [[1]]
    assert (await source.sql_schema())[0].name == "audit"
    await source.save_sql_query(SavedQuery("a/b", "SELECT 1", "doc"))
    await source.save_sql_query(SavedQuery("c", "SELECT 1", "doc"), replaces="a/b")
    assert (await source.sql_queries())[0] == SavedQuery("c", "SELECT 1", "doc")
    await source.delete_sql_query("c")
    with pytest.raises(NotFound):
        await source.delete_sql_query("c")


# --- over HTTP ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("sql")) as one:
        one.chat()
        yield one
    assert CANARY not in one.output()
    for file in (one.folder / "audit.duckdb", *one.folder.glob("logs/*")):
        assert CANARY.encode() not in file.read_bytes()
    assert [path.name for path in (one.folder / "sql").iterdir()] == ["empty"]


def ask(server: Running, sql: str, **more: Any) -> Any:
    return server.client.post(SQL, json={"sql": sql, **more})


def test_a_query_over_http(server: Running) -> None:
    found = msgspec.json.decode(
        ask(server, "SELECT model_used FROM audit WHERE dialect = 'openai'").content, type=SqlResult
    )
    assert found.rows == [["plain"]]
    reply = server.client.post(
        SQL, json={"sql": "SELECT 1 AS a"}, headers={"Accept": "application/vnd.apache.arrow.stream"}
    )
    assert reply.headers["content-type"] == "application/vnd.apache.arrow.stream"
    assert reply.content.startswith(b"\xff\xff\xff\xff")
    assert reply.content.endswith(b"\xff\xff\xff\xff\0\0\0\0")


def test_what_is_wrong_is_said_with_its_place(server: Running) -> None:
    reply = ask(server, f"SELECT 'ä',\n  {CANARY} FROM audit")
    problem = reply.json()
    assert reply.status_code == 400
    assert (problem["error"]["code"], problem["line"], problem["column"], problem["length"]) == (
        "invalid_sql",
        2,
        3,
        len(CANARY),
    )
    assert "LINE 2:   axolotlcanary FROM audit\n          ^" in problem["detail"]
    assert "Did you mean" in ask(server, "SELECT * FROM audits").json()["detail"]


@pytest.mark.parametrize(
    ("name", "value", "sql", "code"),
    [
        ("sql_timeout_seconds", 0.3, SLEEP, "sql_timeout"),
        ("sql_memory_mb", 64, "SELECT length(repeat('x', 150000000))", "sql_memory_exceeded"),
    ],
)
def test_settings_hold_at_once(server: Running, name: str, value: float, sql: str, code: str) -> None:
    server.client.put("/api/settings/audit", json={name: value}).raise_for_status()
    try:
        assert ask(server, sql).json()["error"]["code"] == code
    finally:
        server.client.put("/api/settings/audit", json={name: None}).raise_for_status()
    if name == "sql_memory_mb":
        assert ask(server, sql).json()["rows"] == [[150000000]]


def test_the_most_rows_are_a_setting(server: Running) -> None:
    server.client.put("/api/settings/audit", json={"sql_max_rows": 3}).raise_for_status()
    try:
        found = ask(server, "SELECT * FROM range(10)").json()
        assert (len(found["rows"]), found["truncated"]) == (3, True)
        assert ask(server, "SELECT 1", max_rows=4).json()["error"]["param"] == "max_rows"
    finally:
        server.client.put("/api/settings/audit", json={"sql_max_rows": None}).raise_for_status()


def test_a_query_ends_when_its_client_leaves(server: Running) -> None:
    with pytest.raises(httpx.ReadTimeout):
        server.client.post(SQL, json={"sql": SLEEP}, headers={"X-Request-ID": "gone"}, timeout=1.0)
    assert server.row("gone")["status"] == "cancelled"
    children = psutil.Process(server.process.pid).children()
    end = time.monotonic() + 10
    while any(_cpu_or_sleeping(one) for one in children) and time.monotonic() < end:
        time.sleep(0.05)
    assert ask(server, "SELECT 1").json()["rows"] == [[1]]


def _cpu_or_sleeping(process: psutil.Process) -> bool:
    return (
        process.is_running()
        and "mlx_panel.sandbox" in " ".join(_command(process))
        and process.num_threads() > 3
    )


def test_what_can_be_asked_for(server: Running) -> None:
    tables = server.client.get(f"{SQL}/schema").raise_for_status().json()["tables"]
    assert {"name": "ttft_ms", "type": "DOUBLE", "doc": "time to the first token, ms"} in tables[0]["columns"]


def test_kept_queries_over_http(server: Running) -> None:
    path = f"{SQL}/queries/my%2Fown"
    assert server.client.put(path, json={"sql": f"SELECT '{CANARY}'"}).json() == {
        "name": "my/own", "sql": f"SELECT '{CANARY}'", "doc": "", "built_in": False,
    }  # fmt: skip
    assert server.client.put(path, json={"sql": "SELECT 2", "name": "other", "doc": "d"}).status_code == 200
    assert server.client.get(path).status_code == 404
    names = [one["name"] for one in server.client.get(f"{SQL}/queries").json()["queries"]]
    assert names[0] == "other"
    assert "By model" in names
    assert server.client.delete(f"{SQL}/queries/other").json() == {"status": "deleted", "name": "other"}
    assert server.client.delete(f"{SQL}/queries/other").status_code == 404


def test_a_notebook_gets_a_data_frame(server: Running) -> None:
    log = mlx_panel.connect(server.url).audit
    frame = log.sql(
        "SELECT model_used, timestamp, count(*) AS n FROM audit WHERE dialect = 'openai' GROUP BY ALL"
    )
    assert frame["n"].tolist() == [1]
    assert str(frame["timestamp"].dtype).startswith("datetime64")
    assert frame.attrs["types"]["n"] == "BIGINT"
    with pytest.warns(UserWarning, match="more rows than these 2"):
        assert len(log.sql("SELECT * FROM range(5)", max_rows=2)) == 2
    with pytest.raises(InvalidSql, match="Did you mean"):
        log.sql("SELECT * FROM audits")


def test_an_answer_that_took_too_long_is_no_answer(tmp_path: Path) -> None:
    store = AuditStore(tmp_path / "audit.duckdb")
    store.start()
    store.close()
    with pytest.raises(SqlTimeout) as caught:
        query(tmp_path / "audit.duckdb", SqlOrder(SLEEP, timeout_seconds=0.2))
    assert caught.value.numbers == {"timeout_seconds": 0.2}
