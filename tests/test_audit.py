"""The audit log against real DuckDB files: what it can hold, when it commits, how it starts and ends."""

from __future__ import annotations

import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from importlib.resources import files
from pathlib import Path
from typing import get_args

import duckdb
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_panel.audit import AuditStore, queries
from mlx_panel.audit.database import CONFIG, Database
from mlx_panel.audit.schema import migrations
from mlx_panel.errors import AuditError, AuditLocked
from mlx_panel.messages import AuditDetail, AuditRecord, BackendType, PoolEvent, Status
from mlx_panel.record import Neighbour, PoolEventKind, Span, SpanKind

from .log_rows import NOON, full_record, held, ids, record, stores, wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.duckdb"


@pytest.fixture
def open_store(path: Path) -> Iterator[Callable[..., AuditStore]]:
    with stores(path) as start:
        yield start


# --- what a row can hold -----------------------------------------------------------------------------------


def columns(path: Path) -> dict[str, str]:
    with duckdb.connect(str(path), read_only=True) as connection:
        rows = connection.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'audit' ORDER BY column_index"
        ).fetchall()
    return dict(rows)


def test_columns_are_the_records_fields(path, open_store):
    open_store().close()
    assert tuple(columns(path)) == ("id", *AuditRecord.__struct_fields__)


@pytest.mark.parametrize(("column", "vocabulary"), [("status", Status), ("backend_type", BackendType)])
def test_enums_are_the_contracts_vocabularies(path, open_store, column, vocabulary):
    store = open_store()
    with closing(store.cursor()) as cursor:
        words = cursor.execute(f"SELECT enum_range(NULL::{columns_of(cursor)[column]})").fetchall()[0][0]
    assert tuple(words) == get_args(vocabulary)


def columns_of(cursor: duckdb.DuckDBPyConnection) -> dict[str, str]:
    return {row[0]: row[1] for row in cursor.execute("DESCRIBE audit").fetchall()}


WORDS = st.sampled_from(["r1", "0af3-77", "a.b:c"])
NUMBERS = st.integers(0, 2**31 - 1)
SECONDS = st.floats(0, 1e7)
SPANS = st.builds(Span, st.sampled_from(get_args(SpanKind)), SECONDS, SECONDS, NUMBERS)
DETAILS = st.builds(
    AuditDetail,
    st.lists(SPANS, max_size=5).map(tuple),
    st.lists(st.builds(Neighbour, WORDS, SECONDS, SECONDS, NUMBERS, NUMBERS), max_size=3).map(tuple),
    st.integers(0, 1024),
    st.binary(max_size=64),
)
EVENTS = st.builds(
    PoolEvent, st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    st.text("abc /é", min_size=1, max_size=20), st.sampled_from(get_args(PoolEventKind)), SECONDS, st.integers(0, 2**60),
    st.none() | st.just("killed"),
)  # fmt: skip


@settings(max_examples=8, deadline=None)
@given(st.lists(st.none() | DETAILS, min_size=1, max_size=12), st.lists(EVENTS, max_size=6))
def test_details_and_events_come_back_as_they_were(found, events):
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Database(Path(folder) / "audit.duckdb")) as database,
    ):
        database.open()
        batch = [*((record(number), detail) for number, detail in enumerate(found)), *events]
        assert database.append(batch) == len(batch)
        with closing(database.cursor()) as cursor:
            rows = cursor.execute("SELECT * FROM detail ORDER BY id").fetchall()
            kept = cursor.execute("SELECT * FROM pool_event").fetchall()
    names = AuditDetail.__struct_fields__
    back = {id: msgspec.convert(dict(zip(names, values, strict=True)), AuditDetail) for id, *values in rows}
    assert back == {number: detail for number, detail in enumerate(found, 1) if detail is not None}
    assert [PoolEvent(when.replace(tzinfo=UTC), *rest) for when, *rest in kept] == events


@pytest.mark.parametrize(
    "broken",
    [
        (record(), AuditDetail(spans=(Span("nap", 0.0, 1.0),))),
        (record(), AuditDetail(neighbours=(Neighbour("once upon a time"),))),
        (record(), AuditDetail(blocks="a text")),
        PoolEvent(NOON, "org/smol", "exploded"),
        PoolEvent(NOON, "org/smol", "died", reason="it said: once upon a time"),
        PoolEvent(datetime(2026, 3, 1), "org/smol", "died"),
    ],
    ids=lambda broken: type(broken).__name__,
)
def test_what_breaks_a_rule_is_dropped_alone(path, open_store, caplog, broken):
    store = open_store(flush_seconds=0.02)
    store.put(record(1), AuditDetail(block_tokens=64))
    store.note(broken) if isinstance(broken, PoolEvent) else store.put(*broken)
    store.note(PoolEvent(NOON, "org/smol", "loaded"))
    store.flush()
    assert (store.written, store.failed) == (2, 1)
    assert "once upon" not in caplog.text


@pytest.mark.parametrize("original", [record(), full_record()], ids=["smallest", "full"])
def test_a_record_comes_back_as_it_was(open_store, original):
    store = open_store()
    store.put(original)
    store.flush()
    with closing(store.cursor()) as cursor:
        assert queries.page(cursor).rows == [original]


def test_timestamps_are_utc_whatever_zone_they_came_in(open_store):
    store = open_store()
    store.put(record(timestamp=NOON.astimezone(timezone(timedelta(hours=9)))))
    store.flush()
    with closing(store.cursor()) as cursor:
        (back,) = queries.page(cursor).rows
        (stored,) = cursor.execute("SELECT CAST(timestamp AS VARCHAR) FROM audit").fetchall()[0]
    assert back.timestamp == NOON
    assert back.timestamp.tzinfo is UTC
    assert stored == "2026-03-01 12:00:00"


@pytest.mark.parametrize(
    "changes",
    [
        {"error_type": "the model said: once upon a time"},
        {"finish_reason": "x" * 65},
        {"dialect": "two words"},
        {"caller": "two words"},
        {"status": "maybe"},
        {"backend_type": "gpt"},
        {"http_status": 10**6},
        {"request_id": "\ud800"},
        {"request_id": None},
        {"timestamp": datetime(2026, 3, 1)},
        {"timestamp": None},
        {"prompt_tokens": "many"},
        {"duration_ms": object()},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_row_that_does_not_fit_is_dropped_alone(path, open_store, caplog, changes):
    store = open_store(flush_seconds=0.02)
    for number in range(9):
        store.put(record(number, **(changes if number == 4 else {})))
    store.flush()
    assert (store.written, store.failed, store.pending) == (8, 1, 0)
    store.close()
    assert ids(path) == [f"r{number}" for number in range(9) if number != 4]
    assert len(caplog.records) == 1
    assert "once upon" not in caplog.text


# --- when it commits ---------------------------------------------------------------------------------------


def test_flush_rows_decides_when_a_batch_is_full(open_store):
    store = open_store(flush_seconds=60, flush_rows=10)
    for number in range(9):
        store.put(record(number))
    time.sleep(0.3)
    assert (store.written, store.pending) == (0, 9)
    store.put(record(9))
    wait_until(lambda: store.written == 10)


@pytest.mark.parametrize("flush_seconds", [0.05, 0.6])
def test_flush_seconds_decides_how_long_a_row_waits(open_store, flush_seconds):
    store = open_store(flush_seconds=flush_seconds)
    started = time.monotonic()
    store.put(record())
    wait_until(lambda: store.written == 1)
    assert flush_seconds <= time.monotonic() - started < flush_seconds + 0.4


def test_a_commit_takes_all_that_wait(open_store):
    store = open_store(flush_seconds=60, flush_rows=4)
    with held(store) as release:
        for number in range(10):
            store.put(record(number))
        release.set()
    wait_until(lambda: store.written == 10)


def test_flush_does_not_wait_for_the_clock(open_store):
    store = open_store(flush_seconds=60)
    store.put(record())
    started = time.monotonic()
    store.flush()
    assert (store.written, store.pending) == (1, 0)
    assert time.monotonic() - started < 2
    store.flush()


@pytest.mark.parametrize(
    "values", [{"flush_seconds": 0}, {"flush_rows": 0}, {"flush_rows": 5, "capacity": 4}]
)
def test_settings_that_cannot_work_are_refused(path, values):
    with pytest.raises(ValueError, match="flush"):
        AuditStore(path, **values)


def test_ten_thousand_rows_are_quick(path, open_store):
    store = open_store()
    started = time.monotonic()
    for number in range(10_000):
        store.put(record(number))
    handed_over = time.monotonic() - started
    store.flush(timeout=30)
    assert store.written == 10_000
    assert handed_over < 1
    assert time.monotonic() - started < 10
    store.close()
    assert ids(path) == [f"r{number}" for number in range(10_000)]


def test_model_rows_leave_management_out(open_store):
    store = open_store()
    for dialect in ("openai", "anthropic", "management"):
        store.put(record(dialect=dialect))
    assert store.model_rows == 2


# --- beside the rows ---------------------------------------------------------------------------------------


def test_listeners_learn_the_ids_of_what_is_committed(path):
    heard = []
    for start in (1, 4):
        store = AuditStore(path, flush_seconds=60)
        store.committed += [broken_listener, lambda first, rows: heard.append((first, list(rows)))]
        store.start()
        for number in range(start, start + 3):
            store.put(record(number))
        store.note(PoolEvent(NOON, "org/smol", "loaded"))
        store.close()
    assert heard == [(1, [record(1), record(2), record(3)]), (4, [record(4), record(5), record(6)])]


def broken_listener(first: int, rows: Sequence[AuditRecord]) -> None:
    raise KeyError(first)


def test_jobs_run_in_the_writer_with_what_is_stored(open_store):
    store = open_store(flush_seconds=0.02)
    store.put(record())
    store.flush()
    assert store.in_writer(count_rows).result(5) == 1
    names = store.in_writer(lambda cursor: threading.current_thread().name)
    assert names.result(5) == "audit-writer"
    with pytest.raises(duckdb.CatalogException):
        store.in_writer(lambda cursor: cursor.execute("FROM nowhere")).result(5)
    store.close()
    with pytest.raises(AuditError, match="closed"):
        store.in_writer(count_rows).result(5)


def count_rows(cursor: duckdb.DuckDBPyConnection) -> int:
    return cursor.execute("SELECT count(*) FROM audit").fetchall()[0][0]


def test_housekeeping_comes_round_also_while_rows_never_end(path, caplog):
    store = AuditStore(path, flush_rows=1)
    asked = []

    def soon(cursor):
        asked.append("soon")
        return 0.0

    def late(cursor):
        asked.append("late")
        return 60.0

    def failing(cursor):
        asked.append("failing")
        raise ValueError("once upon a time")

    store.housekeeping.extend([late, failing, soon])
    ending = threading.Event()
    writer = threading.Thread(target=put_until, args=(store, ending))
    store.start()
    writer.start()
    wait_until(lambda: asked.count("soon") > 5)
    assert (asked.count("late"), asked.count("failing")) == (1, 1)
    store.soon(late)
    wait_until(lambda: asked.count("late") == 2)
    ending.set()
    writer.join()
    store.close()
    assert "ValueError" in caplog.text
    assert "once upon" not in caplog.text


def put_until(store: AuditStore, ending: threading.Event) -> None:
    number = 0
    while not ending.wait(0.0002):
        store.put(record(number := number + 1))


# --- starting, closing, opening again ----------------------------------------------------------------------


def test_close_commits_what_waits_and_unlocks(path, open_store):
    store = open_store(flush_seconds=60)
    for number in range(3):
        store.put(record(number))
    store.close()
    store.close()
    assert ids(path) == ["r0", "r1", "r2"]
    assert not path.with_name("audit.duckdb.wal").exists()


def test_rows_after_close_are_counted_as_lost(open_store):
    store = open_store()
    store.close()
    store.put(record())
    assert (store.failed, store.pending) == (1, 0)
    with pytest.raises(AuditError):
        store.cursor()
    with pytest.raises(AuditError):
        store.start()


def test_rows_put_before_start_are_kept(path):
    store = AuditStore(path)
    store.put(record())
    with pytest.raises(AuditError, match="in time") as caught:
        store.flush(timeout=0.01)
    assert caught.value.numbers == {"pending": 1}
    store.start()
    store.close()
    assert ids(path) == ["r0"]


def test_a_store_that_never_started_says_what_it_lost(path):
    store = AuditStore(path)
    store.put(record())
    store.close()
    assert store.failed == 1
    assert not path.exists()


def test_reopening_appends(path, open_store):
    for number in range(3):
        store = open_store()
        store.put(record(number))
        store.close()
    assert ids(path) == ["r0", "r1", "r2"]
    with duckdb.connect(str(path), read_only=True) as connection:
        versions = connection.execute("SELECT version FROM schema_version ORDER BY version").fetchall()
    assert [row[0] for row in versions] == [version for version, _ in migrations()]


def test_migrations_are_numbered_without_gap():
    assert [version for version, _ in migrations()] == list(range(1, len(list(migrations())) + 1))


LAST = max(version for version, _ in migrations())


@pytest.mark.parametrize("version", range(1, LAST + 1))
def test_a_file_of_any_version_is_brought_up_to_date(path, open_store, version):
    make_old(path, version)
    # A server of that version was killed while it moved to a new file.
    make_old(path.with_name("audit.duckdb.kept"), version, first=2)
    store = open_store()
    store.put(record(3, cache_outcome="changed", cache_diverged_at=1804, preset="fast"))
    store.close()
    with duckdb.connect(str(path), read_only=True) as connection:
        rows = connection.execute(
            "SELECT id, request_id, cache_outcome, cache_diverged_at, preset FROM audit ORDER BY id"
        ).fetchall()
        (found,) = connection.execute("SELECT max(version) FROM schema_version").fetchall()[0]
    assert rows == [
        (1, "old1", None, None, None),
        (2, "old2", None, None, None),
        (3, "r3", "changed", 1804, "fast"),
    ]
    assert found == LAST
    assert shape(path) == shape_of_page(path)


def make_old(path: Path, version: int, first: int = 1) -> None:
    """A file as a program of that version left it, with a request."""
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE schema_version (version INTEGER NOT NULL, applied TIMESTAMP NOT NULL)"
        )
        for number, sql in migrations():
            if number <= version:
                connection.execute(sql)
                connection.execute("INSERT INTO schema_version VALUES (?, TIMESTAMP '2026-01-01')", [number])
        old_row(connection, first)


def shape(path: Path) -> list[tuple]:
    """Every column with its type and constraints, and every table's check constraints."""
    with duckdb.connect(str(path), read_only=True) as connection:
        columns = connection.execute(
            "SELECT table_name, column_index, column_name, data_type, is_nullable, column_default FROM duckdb_columns() "
            "WHERE NOT internal ORDER BY ALL"
        ).fetchall()
        rules = connection.execute(
            "SELECT table_name, constraint_type, constraint_text, constraint_column_names FROM duckdb_constraints() "
            "ORDER BY ALL"
        ).fetchall()
    return [*columns, *rules]


def shape_of_page(path: Path) -> list[tuple]:
    """The same of a file made from the page that tells the whole schema."""
    page = path.with_name("page.duckdb")
    with duckdb.connect(str(page)) as connection:
        connection.execute(files("mlx_panel.audit").joinpath("schema.sql").read_text(encoding="utf-8"))
    return shape(page)


def old_row(connection: duckdb.DuckDBPyConnection, number: int) -> None:
    connection.execute(
        "INSERT INTO audit BY NAME SELECT ? AS id, ? AS request_id, TIMESTAMP '2026-01-01' AS \"timestamp\", "
        "'/health' AS endpoint, 'management' AS dialect, 'success' AS status, 200 AS http_status, false AS stream, "
        "1.0 AS duration_ms, 0 AS prompt_tokens, 0 AS cached_tokens, 0 AS completion_tokens, 0 AS reasoning_tokens, "
        "0 AS total_tokens",
        [number, f"old{number}"],
    )


def test_a_file_of_a_newer_version_is_left_alone(path, open_store):
    open_store().close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO schema_version VALUES (9999, TIMESTAMP '2030-01-01')")
    with pytest.raises(AuditError, match="newer version"):
        AuditStore(path).start()
    assert ids(path) == []


@pytest.mark.parametrize("sql", ["CREATE TABLE audit (x INTEGER)", "CREATE TABLE schema_version (x INTEGER)"])
def test_a_foreign_table_of_our_name_is_left_alone(path, sql):
    with duckdb.connect(str(path)) as connection:
        connection.execute(sql)
    with pytest.raises(AuditError, match="cannot be opened"):
        AuditStore(path).start()
    with duckdb.connect(str(path)) as connection:
        assert len(connection.execute("SHOW TABLES").fetchall()) == 1


def test_another_database_may_hold_the_log_too(path, open_store):
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 42 AS x")
    store = open_store()
    store.put(record())
    store.close()
    assert ids(path) == ["r0"]


def test_a_file_that_is_no_database_is_refused(path):
    path.write_text("hello")
    with pytest.raises(AuditError, match="cannot be opened"):
        AuditStore(path).start()
    with pytest.raises(AuditError, match="cannot be opened"):
        AuditStore(path / "below" / "a.file").start()
    assert path.read_text() == "hello"


def test_only_the_owner_reads_the_files(tmp_path, open_store):
    store = open_store()
    for round_ in range(2):
        store.put(record(round_))
        store.flush()
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        assert modes == {"audit.duckdb": 0o600, "audit.duckdb.wal": 0o600}
        with closing(store.cursor()) as cursor:
            cursor.execute("CHECKPOINT")


def test_the_lock_names_the_process_that_holds_it(path, open_store):
    code = """
        import os, sys
        from mlx_panel.audit import AuditStore
        store = AuditStore(sys.argv[1])
        store.start()
        print(os.getpid(), flush=True)
        sys.stdin.read()
        store.close()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        pid = int(holder.stdout.readline())
        with pytest.raises(AuditLocked, match=f"process {pid}") as caught:
            open_store()
    assert caught.value.numbers == {"pid": pid}
    open_store()


def test_one_thread_little_memory_nothing_fetched(open_store):
    with closing(open_store().cursor()) as cursor:
        settings = {
            name: cursor.execute(f"SELECT current_setting('{name}')").fetchall()[0][0] for name in CONFIG
        }
    assert settings["threads"] == 1
    assert settings["memory_limit"] == "488.2 MiB"
    assert not any(value for name, value in settings.items() if name not in ("threads", "memory_limit"))


def test_repr_says_where_it_stands(path, open_store):
    assert repr(AuditStore(path)) == "<AuditStore audit.duckdb not started pending=0 written=0 failed=0>"
    store = open_store()
    store.put(record())
    store.flush()
    assert repr(store) == "<AuditStore audit.duckdb writing pending=0 written=1 failed=0>"
    store.close()
    assert repr(store) == "<AuditStore audit.duckdb closed pending=0 written=1 failed=0>"
