"""What survives: kill -9, full disks, failing checkpoints, files that vanish."""

from __future__ import annotations

import logging
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pytest

from mlx_panel.audit import AuditReader, AuditStore, queries
from mlx_panel.audit.database import Database
from mlx_panel.errors import AuditError
from mlx_panel.messages import AuditDetail, AuditRecord, PoolEvent

from .log_rows import NOON, entries, ids, record, run_python, stores, wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.duckdb"


@pytest.fixture
def open_store(path: Path) -> Iterator[Callable[..., AuditStore]]:
    with stores(path) as start:
        yield start


def test_kill_9_loses_nothing_that_was_flushed(path):
    code = """
        import itertools, sys
        from datetime import UTC, datetime
        from mlx_panel.audit import AuditReader, AuditStore
        from mlx_panel.messages import AuditDetail, AuditRecord, PoolEvent, AuditRecord
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
        from mlx_panel.audit import AuditReader, AuditStore
        from mlx_panel.messages import AuditDetail, AuditRecord, PoolEvent, AuditRecord
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
        from mlx_panel.messages import AuditDetail, AuditRecord, PoolEvent, AuditRecord
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
        time.sleep(1.0)  # long enough for several tries
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
    records = entries(range(5))
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


def detailed(number: int) -> tuple[AuditRecord, AuditDetail | None]:
    """A row; odd ones have a detail."""
    return record(number), AuditDetail(block_tokens=number) if number % 2 else None


def restore(path: Path, monday: int = 3) -> None:
    """Put a file with rows r0 to r2 in the place of the one that is there."""
    with closing(Database(path.with_name("backup.duckdb"))) as database:
        database.open()
        database.append([detailed(number) for number in range(monday)])
    path.with_name("backup.duckdb").replace(path)


def details(cursor: duckdb.DuckDBPyConnection) -> list[tuple[str, int]]:
    """Of each request that has a detail, its id and the detail's number."""
    found = "SELECT request_id, block_tokens FROM audit JOIN detail USING (id) ORDER BY id"
    return cursor.execute(found).fetchall()


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
        store.put(*detailed(number))
    store.note(PoolEvent(NOON, "org/smol", "loaded"))
    store.flush()
    strike(path)
    store.put(*detailed(5))
    store.flush()
    assert (store.written, store.pending, store.failed, store.trouble) == (7, 0, 0, "")
    with closing(store.cursor()) as cursor:
        assert queries.page(cursor).total == 6
        assert details(cursor) == [("r1", 1), ("r3", 3), ("r5", 5)]
        assert cursor.execute("SELECT model FROM pool_event").fetchall() == [("org/smol",)]
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
    assert database.append(entries(range(3))) == 3
    path.unlink()
    path.with_name("audit.duckdb.copy").mkdir()
    assert database.append(entries([3])) == 1
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


async def test_reader_answers_while_the_disk_refuses(stuck_store):
    store, cursor = stuck_store
    reader = AuditReader(store)
    store.put(record())
    assert (await reader.page()).total == 0
    cursor.rollback()
    assert (await reader.page()).total == 1
    assert repr(reader) == "<AuditReader audit.duckdb>"
    reader.close()
