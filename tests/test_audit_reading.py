"""Questions to the audit log, and asking them from a loop that must not wait."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from mlx_panel.audit import AuditReader, AuditStore, queries, stored
from mlx_panel.audit.rows import COLUMNS
from mlx_panel.errors import AuditError, InvalidParameter
from mlx_panel.messages import AuditRecord

from .log_rows import NOON, ids, record, stores


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.duckdb"


@pytest.fixture
def open_store(path: Path) -> Iterator[Callable[..., AuditStore]]:
    with stores(path) as start:
        yield start


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
    await asyncio.to_thread(store.flush, 30)
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


def test_column_lists_agree():
    assert ("id", *COLUMNS) == stored.COLUMNS == ("id", *AuditRecord.__struct_fields__)
