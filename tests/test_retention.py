"""How long the audit log is kept, what it may take, and how its file gets smaller again."""

from __future__ import annotations

import asyncio
import shutil
import stat
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from mlx_panel.audit import AuditStore, rollup
from mlx_panel.audit.database import Database
from mlx_panel.audit.retention import NEWEST, Limits, Retention
from mlx_panel.audit.storage import contents, live_bytes
from mlx_panel.dashboard.audit_settings import AuditStorage
from mlx_panel.dashboard.remote import Remote
from mlx_panel.messages import PoolEvent
from mlx_panel.meter import Meter
from mlx_panel.record import AuditDetail
from mlx_panel.settings import Settings

from .log_rows import fill, record, run_python, wait_until
from .recorded import recorded
from .server import Running, running
from .test_dashboard import tell, turn

NOW = datetime.now(UTC)
MIB = 1 << 20


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(tmp_path / "audit.duckdb")) as one:
        one.open()
        yield one


@pytest.fixture
def cursor(database: Database) -> Iterator[duckdb.DuckDBPyConnection]:
    with closing(database.cursor()) as one:
        yield one


def ask(cursor: duckdb.DuckDBPyConnection, question: str) -> Any:
    return cursor.execute(question).fetchall()[0][0]


def roll(cursor: duckdb.DuckDBPyConnection) -> None:
    """Bring the sums by hour up to date."""
    while rollup.advance(cursor, 5000) == 0:
        pass


def sums_are_true(cursor: duckdb.DuckDBPyConnection) -> bool:
    """Whether the sums by hour and the sample say what the rows that they stand for do."""
    by_hour = cursor.execute(
        "SELECT arrived, sum(requests), sum(prompt_tokens) FROM audit_hour GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    by_row = cursor.execute(
        """SELECT date_trunc('hour', "timestamp"), count(*), sum(prompt_tokens) FROM audit
        WHERE id <= (SELECT id FROM audit_rolled) GROUP BY ALL ORDER BY ALL"""
    ).fetchall()
    older = ask(
        cursor, 'SELECT count(*) FROM audit_sample WHERE "timestamp" < (SELECT min("timestamp") FROM audit)'
    )
    return by_hour == by_row and older == 0


# --- by age ------------------------------------------------------------------------------------------------


def test_rows_that_are_too_old_go_from_every_table(database, cursor):
    fill(cursor, 10_000, NOW - timedelta(days=20), NOW)
    database.next_id = 10_001
    # One that began long ago and ended now is stored last.
    database.append(
        [
            (record(timestamp=NOW - timedelta(days=15)), AuditDetail(block_tokens=1)),
            (record(1, timestamp=NOW), AuditDetail(block_tokens=2)),
            PoolEvent(NOW - timedelta(days=15), "org/smol", "loaded"),
            PoolEvent(NOW, "org/smol", "died"),
        ]
    )
    roll(cursor)
    retention = Retention(lambda: Limits(days=10))
    assert retention(cursor) == 600
    cut = (NOW - timedelta(days=10)).replace(minute=0, second=0, microsecond=0)
    assert (retention.last.reason, retention.last.before) == ("age", cut)
    left = ask(cursor, "SELECT count(*) FROM audit")
    assert retention.last.rows == 10_002 - left
    oldest = ask(cursor, 'SELECT min("timestamp") FROM audit').replace(tzinfo=UTC)
    assert timedelta(0) <= oldest - cut < timedelta(minutes=5)
    assert ask(cursor, "SELECT count(*) FROM audit WHERE id IN (SELECT id FROM detail)") == left
    assert ask(cursor, "SELECT count(*) FROM detail") == left
    assert cursor.execute("SELECT kind FROM pool_event").fetchall() == [("died",)]
    assert sums_are_true(cursor)
    assert retention(cursor) == 600
    assert (retention.last.rows, retention.last.reason) == (0, "")


def test_no_days_are_for_ever(cursor):
    fill(cursor, 100, NOW - timedelta(days=2000), NOW - timedelta(days=1000))
    retention = Retention(Limits)
    retention(cursor)
    assert (retention.last.rows, ask(cursor, "SELECT count(*) FROM audit")) == (0, 100)


def test_ids_are_never_given_again(database, cursor):
    fill(cursor, 100, NOW - timedelta(days=20), NOW - timedelta(days=19))
    Retention(lambda: Limits(days=1))(cursor)
    assert ask(cursor, "SELECT count(*) FROM audit") == 0
    cursor.close()
    database.close()
    with closing(Database(database.path)) as again:
        again.open()
        again.append([(record(), None)])
        assert again.next_id == 102


# --- by size -----------------------------------------------------------------------------------------------


def test_a_log_that_takes_too_much_keeps_its_newest(cursor):
    fill(cursor, 90_000, NOW - timedelta(days=3), NOW)
    roll(cursor)
    cursor.execute("CHECKPOINT")
    size, _ = live_bytes(cursor)
    assert size > 3 * MIB
    allowed = int(size * 0.6) // MIB
    retention = Retention(lambda: Limits(megabytes=allowed))
    retention(cursor)
    ids = [row[0] for row in cursor.execute("SELECT id FROM audit ORDER BY id").fetchall()]
    assert retention.last.reason == "size"
    assert ids == list(range(retention.last.rows + 1, 90_001))
    # As much went as had to.
    assert len(ids) == pytest.approx(90_000 * allowed * MIB / size, rel=0.01)
    assert live_bytes(cursor)[0] <= 1.1 * allowed * MIB  # besides what does not grow with the rows
    assert ask(cursor, "SELECT count(*) FROM detail") == len(ids)
    assert sums_are_true(cursor)


@pytest.mark.parametrize("fast", [0, 9500], ids=["", "while the clock was years fast"])
def test_the_newest_stay_whatever_they_take(cursor, fast):
    fill(cursor, 10_000, NOW - timedelta(hours=1), NOW)
    cursor.execute('UPDATE audit SET "timestamp" = "timestamp" + INTERVAL 5 YEAR WHERE id <= ?', [fast])
    cursor.execute("ALTER TABLE audit ADD COLUMN ballast VARCHAR")
    cursor.execute("UPDATE audit SET ballast = repeat(md5(CAST(id AS VARCHAR)), 80)")
    cursor.execute("CHECKPOINT")
    retention = Retention(lambda: Limits(megabytes=1))
    while retention(cursor) and retention.last.rows:
        pass
    assert ask(cursor, "SELECT count(*) FROM audit") == NEWEST
    assert ask(cursor, "SELECT min(id) FROM audit") == (fast or 10_000) - NEWEST + 1


def test_what_a_reader_still_holds_does_not_go_twice(database, cursor):
    fill(cursor, 60_000, NOW - timedelta(days=3), NOW)
    cursor.execute("CHECKPOINT")
    retention = Retention(lambda: Limits(megabytes=2))
    with closing(database.cursor()) as reader:
        reader.begin()
        ask(reader, "SELECT count(*) FROM audit")
        retention(cursor)
        first = retention.last.rows
        assert first > 1000
        retention(cursor)
        assert retention.last.rows < first / 10


# --- the file ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hollow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed file that is mostly free space, with 500 rows."""
    path = tmp_path_factory.mktemp("hollow") / "audit.duckdb"
    with closing(Database(path)) as database:
        database.open()
        with closing(database.cursor()) as cursor:
            fill(cursor, 150_000, NOW - timedelta(days=3), NOW)
            cursor.execute("CREATE TABLE mine AS SELECT 42 AS x")
            cursor.execute("CHECKPOINT")
            cursor.execute("DELETE FROM audit WHERE id <= 149500")
            cursor.execute("DELETE FROM detail WHERE id <= 149500")
    return path


@pytest.fixture
def copy(hollow: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(hollow, tmp_path / "audit.duckdb"))


def rows_of(path: Path) -> tuple[list[Any], ...]:
    """All there is in a file."""
    with duckdb.connect(str(path), read_only=True) as connection:
        tables = connection.execute("SELECT table_name, sql FROM duckdb_tables() ORDER BY ALL").fetchall()
        rows = [connection.execute(f"SELECT * FROM {name} ORDER BY ALL").fetchall() for name, _ in tables]
    return (tables, *rows)


def test_a_file_that_is_mostly_free_is_written_anew_at_the_start(copy, caplog):
    caplog.set_level("INFO", "mlx_panel.audit")
    before, size = rows_of(copy), copy.stat().st_size
    store = AuditStore(copy)
    store.start()
    try:
        assert store.shrunk.before == size
        assert store.shrunk.after == copy.stat().st_size < size / 2
        with closing(store.cursor()) as cursor:
            assert contents(cursor, copy).rows == 500
        store.put(record())
        store.flush()
    finally:
        store.close()
    assert "written anew" in caplog.text
    assert [file.name for file in copy.parent.iterdir()] == ["audit.duckdb"]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with duckdb.connect(str(copy)) as connection:
        connection.execute("DELETE FROM audit WHERE request_id = 'r0'")
    assert rows_of(copy) == before
    again = AuditStore(copy)
    again.start()
    again.close()
    assert again.shrunk is None


def test_a_file_that_is_mostly_rows_stays(tmp_path):
    path = tmp_path / "audit.duckdb"
    with closing(Database(path)) as database:
        database.open()
        with closing(database.cursor()) as cursor:
            fill(cursor, 150_000, NOW - timedelta(days=3), NOW)
            cursor.execute("CHECKPOINT")
            cursor.execute("DELETE FROM audit WHERE id <= 60000")
    store = AuditStore(path)
    store.start()
    store.close()
    assert store.shrunk is None


def test_no_room_for_the_copy_leaves_the_file_as_it_is(copy):
    code = """
        import logging, resource, sys
        from mlx_panel.audit import AuditStore
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        store = AuditStore(sys.argv[1])
        store.start()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.close()
        print(store.shrunk)
    """
    before = rows_of(copy)
    assert "could not be written anew" in run_python(code, copy)
    assert rows_of(copy) == before
    assert [file.name for file in copy.parent.iterdir()] == ["audit.duckdb"]


KILLED = """
    import os, shutil, signal, sys, time
    from pathlib import Path
    from mlx_panel.audit import AuditStore

    source, folder = Path(sys.argv[1]), Path(sys.argv[2])

    def start(path):
        store = AuditStore(path)
        store.start()
        store.close()

    def killed(path, when, after):
        # A child that ends by SIGKILL at its `when`th touch of the file, or so many seconds after its start.
        child = os.fork()
        if child == 0:
            touched = 0
            def touch(event, arguments):
                nonlocal touched
                if event.startswith(("os.", "open", "shutil.")) and any(str(path.parent) in str(one) for one in arguments):
                    touched += 1
                    if touched == when:
                        os.kill(os.getpid(), signal.SIGKILL)
            sys.addaudithook(touch)
            start(path)
            os._exit(0)
        if after:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        return os.waitpid(child, 0)[1] == signal.SIGKILL

    when, died = 0, True
    plans = [(0, after / 100) for after in (5, 10, 15, 20)]
    while died or plans:
        when += died
        number, after = (when, 0) if died else plans.pop()
        path = folder / f"{number}-{after}" / "audit.duckdb"
        path.parent.mkdir()
        shutil.copy(source, path)
        one = killed(path, number, after)
        died = died and one
        print(number, after, one, flush=True)
        start(path)
"""


def test_kill_9_at_any_moment_of_it_loses_nothing(hollow, tmp_path):
    lines = run_python(KILLED, hollow, tmp_path).splitlines()
    assert sum(line.endswith("True") for line in lines) >= 6
    before = rows_of(hollow)
    for folder in tmp_path.iterdir():
        assert [file.name for file in folder.iterdir()] == ["audit.duckdb"]
        assert rows_of(folder / "audit.duckdb") == before, folder.name


# --- the settings ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("kept")
    with closing(Database(folder / "audit.duckdb")) as database:
        database.open()
        with closing(database.cursor()) as cursor:
            fill(cursor, 60_000, NOW - timedelta(days=40), NOW)
    with running(folder) as one:
        yield one


def storage(server: Running) -> dict[str, Any]:
    return server.client.get("/api/audit/storage").raise_for_status().json()


def put(server: Running, **values: Any) -> dict[str, Any]:
    body = server.client.put("/api/settings/audit", json=values).raise_for_status().json()
    return {one["name"]: one for one in body["options"]}


def test_the_log_is_cut_at_the_start_and_when_a_setting_changes(server: Running) -> None:
    wait_until(lambda: storage(server)["retained"])
    found = storage(server)
    assert found["retained"]["reason"] == "age"
    assert 44_000 < found["contents"]["rows"] < 46_000
    assert found["contents"]["details"] < found["contents"]["rows"] + 1
    assert (found["failed"], found["trouble"]) == (0, "")
    assert put(server, audit_max_mb=1)["audit_max_mb"]["source"] == "live"
    wait_until(lambda: storage(server)["retained"]["reason"] == "size")
    assert 1000 <= (rows := storage(server)["contents"]["rows"]) < 44_000
    put(server, audit_max_mb=0, audit_retention_days=1)
    wait_until(lambda: storage(server)["retained"]["reason"] == "age")
    assert storage(server)["contents"]["rows"] < min(rows, 1700)
    server.client.delete("/api/settings/audit").raise_for_status()
    assert "rows removed for their size" in server.output()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("audit_retention_days", -1, "from 0"),
        ("audit_max_mb", 1.5, "whole"),
        ("audit_prices", {"gpt": "free"}, "input/output"),
        ("audit_prices", {"gpt": "1/2/3/4"}, "input/output"),
        ("audit_prices", {"gpt": "nan/1"}, "input/output"),
        ("audit_prices", ["gpt"], "table"),
        ("port", 1, "no live setting"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(server: Running, name: str, value: Any, words: str) -> None:
    answer = server.client.put("/api/settings/audit", json={name: value})
    assert answer.status_code == 400
    assert words in answer.json()["detail"]
    assert answer.json()["error"]["param"] == name


async def test_the_source_over_http_and_in_a_component(server: Running) -> None:
    remote = Remote(server.url)
    set_now = await remote.set_audit_options({"audit_prices": {"openai": "1.25/10/0.125"}})
    assert {one.name: one.value for one in set_now}["audit_prices"] == {"openai": "1.25/10/0.125"}
    assert (await remote.audit_storage()).path == str(server.folder / "audit.duckdb")
    page = AuditStorage(remote)
    page.refresh()
    for _ in range(200):
        await turn()
        if page.view.storage:
            break
        await asyncio.sleep(0.02)
    assert page.view.storage["contents"]["rows"] > 0
    assert {one.name: one.source for one in await remote.reset_audit_options()}["audit_prices"] == "default"


async def test_the_form_saves_and_takes_back() -> None:
    source = recorded()
    source.audit_settings = Settings(Path("nowhere")).audit_options()
    form = AuditStorage(source)
    form.refresh()
    await turn()
    assert form.view.storage["contents"]["rows"] == 0
    tell(form, "save", values={"audit_retention_days": -1})
    await turn()
    assert form.view.notice["field"] == "audit_retention_days"
    tell(form, "save", values={"audit_retention_days": 7})
    await turn()
    assert shown(form)["audit_retention_days"] == (7, "live")
    tell(form, "reset")
    await turn()
    assert shown(form)["audit_retention_days"] == (30, "default")


def shown(form: AuditStorage) -> dict[str, tuple[Any, str]]:
    return {one["name"]: (one["value"], one["source"]) for one in form.view.options}


def test_lost_rows_are_told() -> None:
    meter = Meter(lambda: 3)
    assert meter.figures()["audit_dropped"] == 3
