"""Rows of the audit log, and stores of them, for tests."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from mlx_panel.audit import AuditStore
from mlx_panel.audit.rows import Entry
from mlx_panel.messages import AuditRecord

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


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


def entries(numbers: Iterable[int]) -> list[Entry]:
    return [(record(number), None) for number in numbers]


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
        caller="fe80::1",
        cache_outcome="changed",
        cache_diverged_at=2**40,
        cache_role="tool",
    )


@contextmanager
def stores(path: Path) -> Iterator[Callable[..., AuditStore]]:
    """Starts stores on `path` and closes what was left open."""
    opened: list[AuditStore] = []

    def start(**settings: Any) -> AuditStore:
        store = AuditStore(path, **settings)
        store.start()
        opened.append(store)
        return store

    try:
        yield start
    finally:
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


@contextmanager
def held(store: AuditStore) -> Iterator[threading.Event]:
    """The writer's thread kept busy until the event is set."""
    started, release = threading.Event(), threading.Event()

    def wait(cursor: duckdb.DuckDBPyConnection) -> None:
        started.set()
        release.wait(5)

    done = store.in_writer(wait)
    assert started.wait(5)
    yield release
    release.set()
    done.result(5)


def run_python(code: str, *arguments: object) -> str:
    """What a fresh Python process prints."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fill(cursor: duckdb.DuckDBPyConnection, rows: int, first: datetime, last: datetime) -> None:
    """Store so many requests that arrived evenly from `first` to `last`, with details, behind those that are there."""
    cursor.execute(
        """
        INSERT INTO audit BY NAME
        SELECT start + i AS id, 'r' || hash(i) AS request_id,
            $first::TIMESTAMP + to_microseconds((i * epoch_us($last::TIMESTAMP - $first::TIMESTAMP)) // $rows) AS "timestamp",
            '/v1/chat/completions' AS endpoint, 'openai' AS dialect, 'success' AS status, 200 AS http_status, false AS stream,
            'model-' || i % 3 AS model_used, (hash(i) % 100000) / 100.0 AS duration_ms, hash(i) % 1000 AS prompt_tokens,
            0 AS cached_tokens, 1 AS completion_tokens, 0 AS reasoning_tokens, 1 AS total_tokens
        FROM range($rows) AS r (i), (SELECT coalesce(max(id), 0) + 1 AS start FROM audit)
        """,
        {"rows": rows, "first": first.replace(tzinfo=None), "last": last.replace(tzinfo=None)},
    )
    cursor.execute(
        "INSERT INTO detail BY NAME SELECT id, 64 AS block_tokens, encode(request_id) AS blocks FROM audit"
    )
