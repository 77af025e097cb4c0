"""The audit log against real DuckDB files: when it commits, what survives, what it can hold."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, get_args

import duckdb
import pytest

from mlx_panel.audit import AuditReader, AuditStore, queries
from mlx_panel.audit.database import COLUMNS, CONFIG, Database, migrations
from mlx_panel.errors import AuditError, AuditLocked, InvalidParameter
from mlx_panel.messages import AuditRecord, BackendType, Status

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

# Every column that can hold text. Whoever adds one says here why it cannot hold a prompt or an answer.
TEXT_COLUMNS = {
    "request_id": "ours, or a well-formed X-Request-ID",
    "endpoint": "a route of ours",
    "dialect": "a closed vocabulary, one word",
    "model_requested": "a name the server knows, else 'unknown'",
    "model_used": "a name the server knows",
    "error_type": "a code of the error tree, one word",
    "finish_reason": "a closed vocabulary, one word",
    "caller": "the name of a key or a user",
}


def record(number: int = 0, **changes: Any) -> AuditRecord:
    given: dict[str, Any] = {
        "request_id": f"r{number}",
        "timestamp": NOON + timedelta(milliseconds=number),
        "endpoint": "/v1/chat/completions",
        "dialect": "openai",
        "status": "success",
        "http_status": 200,
    }
    return AuditRecord(**(given | changes))


def full_record() -> AuditRecord:
    return record(
        model_requested="smol",
        model_used="org/smol",
        backend_type="local",
        stream=True,
        error_type="timeout",
        queue_ms=0.25,
        load_ms=1.5,
        ttft_ms=20.0,
        duration_ms=321.125,
        prompt_tokens=2**40,
        cached_tokens=3,
        completion_tokens=4,
        reasoning_tokens=5,
        total_tokens=6,
        finish_reason="stop",
        caller="team-a",
        cache_outcome="changed",
        cache_diverged_at=2**40,
        cache_role="tool",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.duckdb"


@pytest.fixture
def open_store(path: Path) -> Iterator[Callable[..., AuditStore]]:
    """Starts stores on `path` and closes what the test left open."""
    opened: list[AuditStore] = []

    def start(**settings: Any) -> AuditStore:
        store = AuditStore(path, **settings)
        store.start()
        opened.append(store)
        return store

    yield start
    for store in opened:
        store.close()


def ids(path: Path) -> list[str]:
    """Request ids in a file nobody writes, in the order they were stored; the row ids must ascend."""
    with duckdb.connect(str(path), read_only=True) as connection:
        rows = connection.execute("SELECT id, request_id FROM audit").fetchall()
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})
    return [row[1] for row in rows]


def wait_until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def run_python(code: str, *arguments: object) -> str:
    """What a fresh Python process prints."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


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


def test_text_columns_are_the_allowed_ones(path, open_store):
    open_store().close()
    found = columns(path)
    assert {name for name, kind in found.items() if kind == "VARCHAR"} == set(TEXT_COLUMNS)
    plain = {"VARCHAR", "TIMESTAMP", "SMALLINT", "INTEGER", "BIGINT", "DOUBLE", "BOOLEAN"}
    closed = {name for name, kind in found.items() if kind not in plain}
    assert closed == {"status", "backend_type", "cache_outcome", "cache_role", "structure"}


@pytest.mark.parametrize(("column", "vocabulary"), [("status", Status), ("backend_type", BackendType)])
def test_enums_are_the_contracts_vocabularies(path, open_store, column, vocabulary):
    store = open_store()
    with closing(store.cursor()) as cursor:
        words = cursor.execute(f"SELECT enum_range(NULL::{columns_of(cursor)[column]})").fetchall()[0][0]
    assert tuple(words) == get_args(vocabulary)


def columns_of(cursor: duckdb.DuckDBPyConnection) -> dict[str, str]:
    return {row[0]: row[1] for row in cursor.execute("DESCRIBE audit").fetchall()}


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
        {"caller": "x" * 201},
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


def test_a_commit_holds_at_most_flush_rows(open_store):
    store = open_store(flush_seconds=60, flush_rows=4)
    for number in range(10):
        store.put(record(number))
    wait_until(lambda: store.written == 8)
    time.sleep(0.1)
    assert (store.written, store.pending) == (8, 2)


def test_flush_does_not_wait_for_the_clock(open_store):
    store = open_store(flush_seconds=60)
    store.put(record())
    started = time.monotonic()
    store.flush()
    assert (store.written, store.pending) == (1, 0)
    assert time.monotonic() - started < 2
    store.flush()


@pytest.mark.parametrize(
    "settings", [{"flush_seconds": 0}, {"flush_rows": 0}, {"flush_rows": 5, "capacity": 4}]
)
def test_settings_that_cannot_work_are_refused(path, settings):
    with pytest.raises(ValueError, match="flush"):
        AuditStore(path, **settings)


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


def test_a_file_of_the_first_version_is_brought_up_to_date(path, open_store):
    first = dict(migrations())[1]
    with duckdb.connect(str(path)) as connection:
        connection.execute(first)
        connection.execute(
            "CREATE TABLE schema_version (version INTEGER NOT NULL, applied TIMESTAMP NOT NULL)"
        )
        connection.execute("INSERT INTO schema_version VALUES (1, TIMESTAMP '2026-01-01')")
        old_row(connection, 1)
    # A server of that version was killed while it moved to a new file.
    with duckdb.connect(f"{path}.kept") as connection:
        connection.execute(first)
        old_row(connection, 2)
    store = open_store()
    store.put(record(3, cache_outcome="changed", cache_diverged_at=1804, cache_role="system"))
    store.close()
    with duckdb.connect(str(path), read_only=True) as connection:
        rows = connection.execute(
            "SELECT request_id, cache_outcome, cache_diverged_at, cache_role FROM audit ORDER BY id"
        ).fetchall()
    assert rows == [("old1", None, None, None), ("old2", None, None, None), ("r3", "changed", 1804, "system")]


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


# --- faults ------------------------------------------------------------------------------------------------


def test_kill_9_loses_nothing_that_was_flushed(path):
    code = """
        import itertools, sys
        from datetime import UTC, datetime
        from mlx_panel.audit import AuditStore
        from mlx_panel.messages import AuditRecord
        store = AuditStore(sys.argv[1], flush_seconds=0.01)
        store.start()
        for number in itertools.count(1):
            store.put(AuditRecord(f"r{number}", datetime.now(UTC), "/v1/models", "openai", "success", 200))
            if number % 50 == 0:
                store.flush()
                print(number, flush=True)
    """
    acknowledged, before = 0, 0
    for round_ in range(3):
        command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            lines = [writer.stdout.readline() for _ in range(5 + 7 * round_)]
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.readlines()
        assert writer.returncode == -signal.SIGKILL
        acknowledged = int([line for line in lines if line.endswith("\n")][-1])
        stored = ids(path)[before:]
        assert len(stored) >= acknowledged >= 250
        assert stored == [f"r{number}" for number in range(1, len(stored) + 1)]
        before += len(stored)


def test_a_disk_that_is_full_loses_nothing(path):
    code = """
        import resource, sys, time
        from datetime import UTC, datetime
        from mlx_panel.audit import AuditStore
        from mlx_panel.messages import AuditRecord
        store = AuditStore(sys.argv[1], flush_seconds=0.02, flush_rows=100)
        store.start()
        def put(first, last):
            for number in range(first, last):
                store.put(AuditRecord(f"r{number}", datetime.now(UTC), "/v1/models", "openai", "success", 200))
        put(0, 1000)
        store.flush()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        put(1000, 2000)
        time.sleep(0.3)
        stuck = (store.written, store.pending)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        store.flush()
        print(*stuck, store.written, store.failed)
        store.close()
    """
    assert run_python(code, path) == "1000 1000 2000 0"
    assert ids(path) == [f"r{number}" for number in range(2000)]


def test_a_checkpoint_that_fails_loses_nothing_and_readers_go_on(path):
    # DuckDB then gives up on the open file for good; the writer opens it anew.
    code = """
        import asyncio, io, logging, resource, sys, time
        from datetime import UTC, datetime
        from mlx_panel.audit import AuditReader, AuditStore
        from mlx_panel.messages import AuditRecord
        log = io.StringIO()
        logging.basicConfig(stream=log)
        store = AuditStore(sys.argv[1], flush_seconds=0.02, flush_rows=1000)
        store.start()
        reader = AuditReader(store)
        cursor = store.cursor()
        cursor.execute("SET checkpoint_threshold = '1KB'")
        cursor.close()
        def put(first, last):
            for number in range(first, last):
                store.put(AuditRecord(f"r{number}", datetime.now(UTC), "/v1/models", "openai", "success", 200))
        put(0, 1000)
        store.flush()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
        put(1000, 21000)
        time.sleep(0.5)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        store.flush(timeout=30)
        print("FatalException" in log.getvalue(), store.written, store.failed, asyncio.run(reader.page()).total)
        reader.close()
        store.close()
    """
    assert run_python(code, path) == "True 21000 0 21000"
    assert ids(path) == [f"r{number}" for number in range(21000)]


def test_a_commit_that_failed_after_it_reached_the_file_is_not_repeated(path):
    database = Database(path)
    database.open()
    records = [record(number) for number in range(5)]
    with closing(database.cursor()) as cursor:
        cursor.begin()
        cursor.execute("ALTER TABLE audit ADD COLUMN blocker INTEGER")
        with pytest.raises(duckdb.TransactionException):
            database.append(records[:3])
        cursor.rollback()
        # What is left behind when the commit was durable and what followed it failed.
        names = "id, request_id, timestamp, endpoint, dialect, status, http_status, stream"
        tokens = (
            "duration_ms, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, total_tokens"
        )
        cursor.execute(
            f"INSERT INTO audit ({names}, {tokens}) SELECT 1 + i, 'r' || i, now()::TIMESTAMP, '/', 'openai', "
            "'success', 200, false, 0, 0, 0, 0, 0, 0 FROM range(3) AS t(i)"
        )
    assert database.append(records) == 3
    assert database.append(records[3:]) == 2
    database.close()
    assert ids(path) == [f"r{number}" for number in range(5)]


def restore(path: Path, monday: int = 3) -> None:
    """Put a file with rows r0 to r2 in the place of the one that is there."""
    with closing(Database(path.with_name("backup.duckdb"))) as database:
        database.open()
        database.append([record(number) for number in range(monday)])
    path.with_name("backup.duckdb").replace(path)


def delete(path: Path) -> None:
    path.unlink()


def delete_all(path: Path) -> None:
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()


@pytest.mark.parametrize("strike", [delete, delete_all, restore], ids=lambda strike: strike.__name__)
def test_a_file_that_vanishes_comes_back_with_all_its_rows(tmp_path, strike, caplog):
    path = tmp_path / "folder's" / "audit.duckdb"
    store = AuditStore(path, flush_seconds=0.02)
    store.start()
    for number in range(5):
        store.put(record(number))
    store.flush()
    strike(path)
    store.put(record(5))
    store.flush()
    assert (store.written, store.pending, store.failed, store.trouble) == (6, 0, 0, "")
    with closing(store.cursor()) as cursor:
        assert queries.page(cursor).total == 6
    # The rows are told written before the log line is: closing waits for both.
    wait_until(lambda: [line.levelname for line in caplog.records] == ["ERROR"])
    assert "deleted or replaced" in caplog.text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # Once more, and nothing waits when the store closes.
    strike(path)
    store.close()
    assert ids(path) == [f"r{number}" for number in range(6)]
    assert [file.name for file in path.parent.iterdir()] == ["audit.duckdb"]


def test_rows_wait_while_something_else_lies_in_the_files_place(path, open_store, caplog):
    store = open_store(flush_seconds=0.02)
    store.put(record(0))
    store.flush()
    path.unlink()
    path.write_text("not a database")
    store.put(record(1))
    wait_until(lambda: store.trouble)
    assert (store.trouble, store.pending, store.failed) == ("AuditError", 1, 0)
    assert "AuditError" in repr(store)
    with pytest.raises(AuditError):
        store.cursor()
    path.unlink()
    store.flush()
    store.close()
    assert ids(path) == ["r0", "r1"]
    assert [line.levelname for line in caplog.records] == ["ERROR", "ERROR", "WARNING"]


def test_rows_kept_by_a_server_that_was_killed_are_taken_in_at_the_next_start(path, open_store):
    store = open_store(flush_seconds=0.02)
    store.put(record(0))
    store.flush()
    path.unlink()
    path.write_text("not a database")
    store.put(record(1))
    wait_until(lambda: store.trouble)
    store.close(timeout=0.1)
    assert store.failed == 1
    path.unlink()
    open_store().close()
    assert ids(path) == ["r0"]


def test_rows_that_cannot_be_copied_are_counted(path):
    database = Database(path)
    database.open()
    assert database.append([record(number) for number in range(3)]) == 3
    path.unlink()
    path.with_name("audit.duckdb.copy").mkdir()
    assert database.append([record(3)]) == 1
    assert (database.moves, database.lost) == (1, 3)
    database.close()
    assert ids(path) == ["r3"]


@pytest.fixture
def stuck_store(open_store) -> Iterator[tuple[AuditStore, duckdb.DuckDBPyConnection]]:
    """A store whose writes fail as long as the cursor's transaction lives."""
    store = open_store(flush_seconds=0.02, flush_rows=10, capacity=50)
    cursor = store.cursor()
    cursor.begin()
    cursor.execute("ALTER TABLE audit ADD COLUMN blocker INTEGER")
    yield store, cursor
    cursor.close()


def test_rows_wait_for_a_disk_that_refuses(path, stuck_store, caplog):
    caplog.set_level(logging.WARNING, "mlx_panel.audit")
    store, cursor = stuck_store
    for number in range(30):
        store.put(record(number))
    with pytest.raises(AuditError, match="in time"):
        store.flush(timeout=0.4)
    assert (store.written, store.pending, store.failed) == (0, 30, 0)
    assert "TransactionException" in repr(store)
    cursor.rollback()
    cursor.close()
    store.flush()
    store.close()
    assert ids(path) == [f"r{number}" for number in range(30)]
    assert [line.levelname for line in caplog.records] == ["ERROR", "WARNING"]
    assert "TransactionException" in caplog.text
    assert "altered" not in caplog.text


def test_memory_is_bounded_and_put_never_waits(path, stuck_store):
    store, cursor = stuck_store
    slowest = 0.0
    for number in range(2000):
        started = time.perf_counter()
        store.put(record(number))
        slowest = max(slowest, time.perf_counter() - started)
    assert (store.pending, store.failed) == (50, 1950)
    assert slowest < 0.2
    cursor.rollback()
    cursor.close()
    store.close()
    assert ids(path) == [f"r{number}" for number in range(50)]


def test_close_gives_up_on_a_disk_that_refuses(stuck_store, caplog):
    store, cursor = stuck_store
    store.put(record())
    started = time.monotonic()
    store.close(timeout=0.2)
    assert 0.2 <= time.monotonic() - started < 2
    assert (store.failed, store.pending) == (1, 0)
    assert "lost" in caplog.text
    store.flush()
    cursor.close()


# --- reading -----------------------------------------------------------------------------------------------

MIXED = [
    {
        "status": "success",
        "model_requested": "alias",
        "model_used": "smol",
        "ttft_ms": 10.0,
        "total_tokens": 7,
    },
    {"status": "error", "model_requested": "smol", "http_status": 503, "error_type": "worker_died"},
    {
        "status": "cancelled",
        "model_used": "big",
        "endpoint": "/v1/messages",
        "dialect": "anthropic",
        "ttft_ms": 30.0,
    },
    {"status": "success", "endpoint": "/api/models", "dialect": "management", "total_tokens": 1000},
    {"status": "timeout", "model_used": "big", "http_status": 408, "total_tokens": 5},
]


@pytest.fixture
def mixed(open_store) -> Iterator[duckdb.DuckDBPyConnection]:
    store = open_store()
    for number, changes in enumerate(MIXED):
        store.put(record(number, **changes))
    store.flush()
    with closing(store.cursor()) as cursor:
        yield cursor


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [4, 2, 1, 0]),
        ({"scope": "all"}, [4, 3, 2, 1, 0]),
        ({"status": "success"}, [0]),
        ({"status": "success", "scope": "all"}, [3, 0]),
        ({"status": "rejected"}, []),
        ({"model": "smol"}, [1, 0]),
        ({"model": "alias"}, [0]),
        ({"model": "ALI"}, [0]),
        ({"model": "mo"}, [1, 0]),
        ({"model": "%"}, []),
        ({"model": "smo_"}, []),
        ({"model": "x' OR '1'='1"}, []),
        ({"endpoint": "/v1/messages"}, [2]),
        ({"endpoint": "/api/models"}, []),
        ({"endpoint": "/api/models", "scope": "all"}, [3]),
        ({"status": "timeout", "model": "big", "endpoint": "/v1/chat/completions"}, [4]),
    ],
)
def test_page_filters(mixed, filters, expected):
    found = queries.page(mixed, **filters)
    assert [row.request_id for row in found.rows] == [f"r{number}" for number in expected]
    assert found.total == len(expected)


def test_pages_follow_each_other(mixed):
    pages = [queries.page(mixed, limit=2, offset=offset, scope="all") for offset in (0, 2, 4, 6)]
    assert [[row.request_id for row in page.rows] for page in pages] == [
        ["r4", "r3"],
        ["r2", "r1"],
        ["r0"],
        [],
    ]
    assert {page.total for page in pages} == {5}


def test_newest_first_is_by_arrival_then_by_storing(open_store):
    store = open_store()
    for name, second in [("slow", 0), ("later", 2), ("tie-a", 1), ("tie-b", 1)]:
        store.put(record(request_id=name, timestamp=NOON + timedelta(seconds=second)))
    store.flush()
    with closing(store.cursor()) as cursor:
        assert [row.request_id for row in queries.page(cursor).rows] == ["later", "tie-b", "tie-a", "slow"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limit", 0),
        ("limit", 1001),
        ("offset", -1),
        ("offset", 2**62),
        ("status", "maybe"),
        ("scope", "mine"),
    ],
)
def test_page_refuses_what_it_does_not_know(mixed, field, value):
    with pytest.raises(InvalidParameter) as caught:
        queries.page(mixed, **{field: value})
    assert caught.value.field == field
    assert queries.page(mixed, limit=1).total == 4


@pytest.mark.parametrize("limit", [1, 1000])
def test_page_takes_the_limits_bounds(mixed, limit):
    assert len(queries.page(mixed, limit=limit).rows) == min(limit, 4)


def test_totals(mixed):
    assert queries.totals(mixed) == {"requests": 4, "errors": 2, "tokens": 12}
    assert queries.totals(mixed, scope="all") == {"requests": 5, "errors": 2, "tokens": 1012}


def test_totals_and_ttft_of_an_empty_log(open_store):
    with closing(open_store().cursor()) as cursor:
        assert queries.totals(cursor) == {"requests": 0, "errors": 0, "tokens": 0}
        assert queries.recent_ttft(cursor) is None
        assert queries.page(cursor).rows == []


def test_recent_ttft_is_the_median_of_the_last_seconds(open_store):
    store = open_store()
    now = datetime.now(UTC)
    for age, ttft in [(1, 10.0), (2, 30.0), (3, None), (100, 5000.0), (101, 5000.0), (102, 5000.0)]:
        store.put(record(timestamp=now - timedelta(seconds=age), ttft_ms=ttft))
    store.flush()
    with closing(store.cursor()) as cursor:
        assert queries.recent_ttft(cursor) == 20.0
        assert queries.recent_ttft(cursor, seconds=3600) == 5000.0


def test_paging_is_right_while_four_threads_write(path, open_store):
    store = open_store(flush_seconds=0.01, flush_rows=50)

    def write(writer: int) -> None:
        for number in range(500):
            store.put(record(number, request_id=f"{writer}-{number}"))
            if number % 50 == 0:
                time.sleep(0.002)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    seen = []
    with closing(store.cursor()) as cursor:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            seen.append(queries.page(cursor, limit=1000))
        store.flush()
        pages = [queries.page(cursor, limit=300, offset=offset).rows for offset in range(0, 2100, 300)]
    assert all(len(page.rows) == min(page.total, 1000) for page in seen)
    assert all(a.total <= b.total for a, b in itertools.pairwise(seen))
    rows = list(itertools.chain(*pages))
    assert len({row.request_id for row in rows}) == len(rows) == 2000
    assert [row.timestamp for row in rows] == sorted((row.timestamp for row in rows), reverse=True)
    store.close()
    for writer in range(4):
        own = [name for name in ids(path) if name.startswith(f"{writer}-")]
        assert own == [f"{writer}-{number}" for number in range(500)]


# --- reading off the loop ----------------------------------------------------------------------------------


@pytest.fixture
def open_reader(open_store) -> Iterator[Callable[[AuditStore], AuditReader]]:
    """Makes readers and closes them before their store."""
    opened: list[AuditReader] = []

    def make(store: AuditStore) -> AuditReader:
        opened.append(AuditReader(store))
        return opened[-1]

    yield make
    for reader in opened:
        reader.close()


async def test_reader_sees_what_was_put_before(open_store, open_reader):
    store = await asyncio.to_thread(open_store, flush_seconds=60)
    reader = open_reader(store)
    for number in range(3):
        store.put(record(number, ttft_ms=5.0, timestamp=datetime.now(UTC)))
        assert (await reader.page(limit=1)).total == number + 1
    assert (await reader.totals(scope="all"))["requests"] == 3
    assert await reader.recent_ttft() == 5.0


async def test_reader_passes_errors_on_and_survives_them(open_store, open_reader):
    store = await asyncio.to_thread(open_store)
    reader = open_reader(store)
    with pytest.raises(InvalidParameter):
        await reader.page(limit=0)
    assert (await reader.page()).total == 0
    with closing(store.cursor()) as cursor:
        cursor.execute("ALTER TABLE audit RENAME TO gone")
    with pytest.raises(AuditError, match="could not be read"):
        await reader.page()
    await asyncio.to_thread(reader.close)
    with pytest.raises(AuditError, match="closed"):
        await reader.page()


async def test_readers_keep_the_loop_free_beside_a_writer(open_store, open_reader):
    store = await asyncio.to_thread(open_store, flush_seconds=0.01)
    for number in range(20_000):
        store.put(record(number))
    readers = [open_reader(store), open_reader(store)]
    asked = [asyncio.ensure_future(reader.page(limit=1000)) for reader in readers * 5]
    number, turns = 20_000, 0
    while not all(question.done() for question in asked):
        store.put(record(number))
        number, turns = number + 1, turns + 1
        await asyncio.sleep(0.001)
    totals = [(await question).total for question in asked]
    assert turns > 20
    assert all(20_000 <= total <= number for total in totals)


async def test_reader_answers_while_the_disk_refuses(stuck_store, open_reader):
    store, cursor = stuck_store
    reader = open_reader(store)
    store.put(record())
    assert (await reader.page()).total == 0
    cursor.rollback()
    assert (await reader.page()).total == 1
    assert repr(reader) == "<AuditReader audit.duckdb>"


def test_column_lists_agree():
    assert COLUMNS == queries.COLUMNS == AuditRecord.__struct_fields__
