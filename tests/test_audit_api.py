"""The audit log over HTTP and WebSocket, as a file, on the command line and in a notebook, on one real server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import csv
import io
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_panel import cli
from mlx_panel.analytics import AuditFilter, Row
from mlx_panel.app import Runtime
from mlx_panel.audit import queries
from mlx_panel.audit.cells import FORMULA
from mlx_panel.audit.export import PLACES
from mlx_panel.audit.feed import MOST_RESUMED, ROOM, SHOWN
from mlx_panel.audit.flat import flat_page, unflat_page
from mlx_panel.audit.generate import generate
from mlx_panel.audit.matching import matcher
from mlx_panel.audit.render import PIECE_ROWS
from mlx_panel.audit.schema import migrate
from mlx_panel.audit.where import where
from mlx_panel.audit_access.live import Notice, follow
from mlx_panel.errors import InvalidParameter
from mlx_panel.host import Host
from mlx_panel.notebook_audit import AuditLog
from mlx_panel.record import AuditRecord
from mlx_panel.settings import Settings

from .server import Running, free_port, running

LOGS = "/v1/admin/audit-logs"
FEED = "/v1/admin/ws/audit-logs"
STORED = 30_000
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
COLUMNS = ("id", *AuditRecord.__struct_fields__)
number = itertools.count()


class Log:
    """A server in this process, on a log that had `STORED` rows when it started."""

    def __init__(self, host: Host, folder: Path):
        assert host._runtime is not None
        self.host, self.folder = host, folder
        self.runtime: Runtime = host._runtime
        self.url = f"http://127.0.0.1:{host.port}"
        self.client = httpx.Client(base_url=self.url, timeout=30)

    def put(self, *records: AuditRecord) -> list[int]:
        """Store rows and return their ids."""
        with self.told(len(records)) as ids:
            for record in records:
                self.runtime.audit.put(record)
        return ids

    @contextlib.contextmanager
    def told(self, count: int) -> Iterator[list[int]]:
        """The ids of `count` rows that are put in the block, once all of them are stored."""
        ids: list[int] = []
        done = threading.Event()

        def committed(first: int, records: Any) -> None:
            ids.extend(first + place for place, one in enumerate(records) if one.preset)
            if len(ids) >= count:
                done.set()

        self.runtime.audit.committed.append(committed)
        yield ids
        self.runtime.audit.flush()
        assert done.wait(20) or not count
        self.runtime.audit.committed.remove(committed)

    def get(self, path: str, **params: Any) -> Any:
        return self.client.get(path, params=params).raise_for_status().json()

    def refused(self, path: str, **params: Any) -> tuple[int, str, str | None]:
        reply = self.client.get(path, params=params)
        assert reply.headers["content-type"] == "application/problem+json"
        return reply.status_code, reply.json()["error"]["code"], reply.json()["error"]["param"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Log]:
    folder = tmp_path_factory.mktemp("log")
    generate(folder / "audit.duckdb", STORED, days=3)
    (folder / "exports").mkdir()
    (folder / "exports" / "left.parquet").write_bytes(b"of a server that was killed")
    given = {"MLX_SERVER_DATA_DIR": str(folder), "MLX_SERVER_WARM_SPARE": "false"}
    host = Host(Settings.load({"host": "127.0.0.1", "port": 0}, {**os.environ, **given}))
    host.start()
    log = Log(host, folder)
    yield log
    log.client.close()
    host.stop()


def record(tag: str, **changes: Any) -> AuditRecord:
    """A row that the filter `preset=tag` finds."""
    given: dict[str, Any] = {
        "request_id": f"r{next(number)}", "timestamp": NOON, "endpoint": "/v1/chat/completions", "dialect": "openai",
        "status": "success", "http_status": 200, "preset": tag,
    }  # fmt: skip
    return AuditRecord(**(given | changes))


def tag() -> str:
    return f"tag{next(number)}"


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


# --- pages -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 4), max_size=14), st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=4), st.integers(1, 5)
)  # fmt: skip
def test_pages_are_one_sorted_list_whatever_comes_between(
    table: duckdb.DuckDBPyConnection, seconds: list[int], later: list[list[int]], limit: int
) -> None:
    table.execute("DELETE FROM audit")
    store(table, [record("x", timestamp=NOON + timedelta(seconds=one)) for one in seconds])
    found, before, news = [], "", iter([seconds, *later])
    stored = [(one, id) for id, one in enumerate(next(news))]
    while True:
        page = unflat_page(flat_page(queries.rows(table, AuditFilter(), limit=limit, before=before)))
        found += [row.id for row in page.rows]
        before = page.next
        if not before:
            break
        more = [record("x", timestamp=NOON + timedelta(seconds=one)) for one in next(news, [])]
        store(table, more, first=1000 + len(found) * 10)
    assert len(found) == len(set(found))
    assert [id for id in found if id < 1000] == [id for _, id in sorted(stored, reverse=True)]


def test_the_old_parameters_mean_what_they_did(log: Log) -> None:
    name = tag()
    ids = log.put(
        record(name, model_used="org/Small-4bit"), record(name, model_requested="smaller", status="error", http_status=503),
        record(name, model_used="other"), record(name, dialect="management", endpoint="/api/system"),
    )  # fmt: skip
    assert [row["id"] for row in log.get(LOGS, preset=name)["rows"]] == ids[2::-1]
    assert log.get(LOGS, preset=name)["total"] == 3
    assert log.get(LOGS, preset=name, scope="all")["total"] == 4
    assert [row["id"] for row in log.get(LOGS, preset=name, model="SMALL")["rows"]] == ids[1::-1]
    assert log.get(LOGS, preset=name, model="SMALL", match="exact")["rows"] == []
    assert [row["id"] for row in log.get(LOGS, preset=name, model=["other", "smaller"])["rows"]] == ids[
        2:0:-1
    ]
    assert [row["id"] for row in log.get(LOGS, preset=name, offset=1, limit=1)["rows"]] == ids[1:2]
    assert log.get(LOGS, preset=name, offset=9)["rows"] == []
    assert log.get(LOGS, preset=name, offset=9)["total"] == 3
    row = log.get(LOGS, preset=name, status="error")["rows"][0]
    assert tuple(row) == COLUMNS
    assert log.get(LOGS, preset=name, limit=1, count="false")["total"] is None
    second = log.get(LOGS, preset=name, limit=1, before=log.get(LOGS, preset=name, limit=1)["next"])
    assert (second["rows"][0]["id"], second["total"]) == (ids[1], None)


@pytest.mark.parametrize(
    ("path", "given", "field"),
    [
        (LOGS, {"colour": "red"}, "colour"), (LOGS, {"limit": 0}, "limit"), (LOGS, {"limit": 1001}, "limit"),
        (LOGS, {"limit": "ten"}, "limit"), (LOGS, {"limit": [1, 2]}, "limit"), (LOGS, {"offset": -1}, "offset"),
        (LOGS, {"offset": 10**30}, "offset"), (LOGS, {"before": "x"}, "before"), (LOGS, {"before": "eA", "offset": 1}, "offset"),
        (LOGS, {"count": "yes"}, "count"), (LOGS, {"match": "like"}, "match"), (LOGS, {"status": "fine"}, "status"),
        (LOGS, {"since": "yesterday"}, "since"), (f"{LOGS}/stats", {"limit": 5}, "limit"), (f"{LOGS}/stats", {"range": "1y"}, "range"),
        (f"{LOGS}/charts", {"by": "model"}, "by"), (f"{LOGS}/charts/requests", {"by": "day"}, "by"),
        (f"{LOGS}/charts/requests", {"metric": "ttft"}, "metric"), (f"{LOGS}/charts/requests", {"buckets": 0}, "buckets"),
        (f"{LOGS}/charts/requests", {"format": "xlsx"}, "format"), (f"{LOGS}/timeseries", {"metric": "heatmap"}, "metric"),
        (f"{LOGS}/timeseries", {"metric": "ttft", "by": "model"}, "by"), (f"{LOGS}/export", {"format": "xml"}, "format"),
        (f"{LOGS}/export", {"limit": 5}, "limit"), (LOGS, {"range": ["1h", "6h"]}, "range"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(
    log: Log, path: str, given: dict[str, Any], field: str
) -> None:
    assert log.refused(path, **given) == (400, "invalid_parameter", field)


def test_figures_and_charts(log: Log) -> None:
    name = tag()
    log.put(*(record(name, model_used=model, ttft_ms=5.0) for model in ("=one", "two", "two")))
    assert log.get(f"{LOGS}/stats", preset=name, model="two")["requests"] == 2
    names = [chart["name"] for chart in log.get(f"{LOGS}/charts")["charts"]]
    assert {"requests", "latency", "slowest"} <= set(names)
    for one in names:
        assert log.get(f"{LOGS}/charts/{one}", preset=name, buckets=5)["name"] == one
    assert log.client.get(f"{LOGS}/charts/none").status_code == 404
    chart = log.get(f"{LOGS}/timeseries", metric="requests", by="model", preset=name, buckets=1)
    assert {(row[1], row[2]) for row in chart["rows"]} == {("=one", 1), ("two", 2)}
    assert log.get(f"{LOGS}/timeseries", metric="total", preset=name)["options"] == {"metric": "total"}


def test_a_chart_as_a_file(log: Log, tmp_path: Path) -> None:
    name = tag()
    log.put(*(record(name, model_used=model) for model in ("=one", "two", "two")))
    asked = {"preset": name, "buckets": "1", "by": "model"}
    told = log.client.get(f"{LOGS}/charts/requests", params={**asked, "format": "csv"})
    assert told.headers["content-disposition"] == 'attachment; filename="requests.csv"'
    lines = list(csv.reader(io.StringIO(told.text)))
    assert lines[0] == ["time", "group", "requests"]
    assert {(line[1], line[2]) for line in lines[1:]} == {("'=one", "1"), ("two", "2")}
    assert datetime.fromisoformat(lines[1][0]) <= NOON
    file = tmp_path / "chart.parquet"
    file.write_bytes(log.client.get(f"{LOGS}/charts/requests", params={**asked, "format": "parquet"}).content)
    rows = duckdb.sql(f"SELECT typeof(time), \"group\", requests FROM '{file}'").fetchall()
    assert sorted(rows) == [("TIMESTAMP WITH TIME ZONE", "=one", 1), ("TIMESTAMP WITH TIME ZONE", "two", 2)]


# --- files ---------------------------------------------------------------------------------------------------------

names = st.text(
    st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=8
) | st.sampled_from(['=1+1", "x', "+a", "-a", "@a", ",", '"', "'", "a b"])
floats = st.none() | st.floats(0, 1e12, allow_nan=False)
rows_of = st.lists(
    st.fixed_dictionaries(
        {
            "timestamp": st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
            "model_used": st.none() | names, "model_requested": st.none() | names, "stream": st.booleans(), "ttft_ms": floats,
            "duration_ms": st.floats(0, 1e9), "prompt_tokens": st.integers(0, 2**60), "cache_diverged_at": st.none() | st.integers(0, 9),
            "structure": st.sampled_from([None, "regex"]), "request_id": st.from_regex(r"\A[A-Za-z0-9_.:\-]{1,20}\Z"),
        }
    ),
    max_size=12,
)  # fmt: skip


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows_of)
def test_a_file_holds_the_rows_that_were_stored(
    log: Log, tmp_path_factory: pytest.TempPathFactory, given: list[dict[str, Any]]
) -> None:
    name = tag()
    records = [record(name, **one) for one in given]
    ids = log.put(*records)
    stored = [(id, *msgspec.structs.astuple(one)) for id, one in zip(ids, records, strict=True)]

    lines = exported(log, "jsonl", name).content.splitlines()
    assert [msgspec.convert(json.loads(line), AuditRecord) for line in lines] == records
    assert [json.loads(line)["id"] for line in lines] == ids

    head, *cells = csv.reader(io.StringIO(exported(log, "csv", name).content.decode(), newline=""))
    assert tuple(head) == COLUMNS
    assert cells == [[told(value) for value in row] for row in stored]

    file = tmp_path_factory.mktemp("files") / "rows.parquet"
    file.write_bytes(exported(log, "parquet", name).content)
    found = duckdb.sql(f"SELECT * REPLACE (epoch_us(timestamp) AS timestamp) FROM '{file}'")
    assert tuple(found.columns) == COLUMNS
    at = COLUMNS.index("timestamp")
    micros = [
        (
            *row[:at],
            int((row[at] - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)),
            *row[at + 1 :],
        )
        for row in stored
    ]
    assert found.fetchall() == micros


def exported(log: Log, format: str, name: str) -> httpx.Response:
    reply = log.client.get(f"{LOGS}/export", params={"format": format, "preset": name}).raise_for_status()
    assert reply.headers["content-disposition"] == f'attachment; filename="audit-logs.{format}"'
    return reply


def told(value: Any) -> str:
    """A value as the CSV file should have it."""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ").zfill(27)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: ""}[value]
    if isinstance(value, str):
        return f"'{value}" if value[0] in FORMULA else value
    return (
        duckdb.sql("SELECT CAST(?::DOUBLE AS VARCHAR)", params=[value]).fetchall()[0][0]
        if isinstance(value, float)
        else str(value)
    )


def test_a_file_without_rows_says_what_it_would_hold(log: Log, tmp_path: Path) -> None:
    assert exported(log, "jsonl", "nobody").content == b""
    assert exported(log, "csv", "nobody").text == ",".join(COLUMNS) + "\r\n"
    file = tmp_path / "none.parquet"
    file.write_bytes(exported(log, "parquet", "nobody").content)
    assert tuple(duckdb.sql(f"FROM '{file}'").columns) == COLUMNS
    for format in ("jsonl", "csv", "parquet"):
        reply = log.client.head(f"{LOGS}/export", params={"format": format})
        assert (reply.status_code, "content-length" in reply.headers) == (200, False)
        assert f"audit-logs.{format}" in reply.headers["content-disposition"]


@contextlib.contextmanager
def reading(log: Log, format: str) -> Iterator[socket.socket]:
    """An export whose reader has not read anything yet."""
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 19)
        reader.connect(("127.0.0.1", log.host.port))
        request = f"GET {LOGS}/export?scope=all&format={format} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        reader.sendall(request.encode())
        wait_for(lambda: log.runtime.exports.under_way)
        yield reader


def test_a_large_file_is_made_as_it_is_read(log: Log) -> None:
    """Nothing but the pieces on their way is in memory, whatever the reader does."""
    with reading(log, "jsonl") as reader:
        (export,) = log.runtime.exports.under_way
        wait_for(lambda: (made := export.made) and not time.sleep(0.3) and made == export.made)
        assert export.made < STORED / 2
        first = export.made
        file = reader.makefile("rb")
        while export.made == first:
            assert file.read(1 << 16)
        assert export.made <= first + PIECE_ROWS
        file.close()
    wait_for(lambda: not log.runtime.exports.under_way)
    lines = log.client.get(f"{LOGS}/export", params={"scope": "all"}).content.splitlines()
    ids = [json.loads(line)["id"] for line in lines]
    assert ids == list(range(1, len(ids) + 1))
    assert len(ids) > STORED


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_reader_that_leaves_ends_its_export(log: Log, format: str) -> None:
    exports = log.runtime.exports
    assert list(exports.folder.iterdir()) == []  # nor is there what a server left that was killed
    with reading(log, format):
        wait_for(lambda: format != "parquet" or list(exports.folder.iterdir()))
    wait_for(lambda: not exports.under_way)
    wait_for(lambda: not list(exports.folder.iterdir()))
    wait_for(lambda: not [one for one in threading.enumerate() if one.name.startswith("audit-export")])
    row = log.get(LOGS, endpoint=f"{LOGS}/export", scope="all", limit=1)["rows"][0]
    assert (row["status"], row["error_type"]) == ("cancelled", "client_gone")


async def test_leaving_an_export_interrupts_its_query(log: Log) -> None:
    export = log.runtime.exports.begin(AuditFilter(), "jsonl")
    async with export:
        endless = export._begin(
            lambda: export._ask(lambda one: one.execute("SELECT sum(range) FROM range(1000000000000)"))
        )
        while export._cursor is None:
            await asyncio.sleep(0.001)
    assert "Interrupt" in str(endless.exception(0))
    assert not log.runtime.exports.under_way


def test_two_exports_at_a_time(log: Log) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(PLACES):
            reply = stack.enter_context(log.client.stream("GET", f"{LOGS}/export", params={"scope": "all"}))
            assert reply.status_code == 200
        third = log.client.get(f"{LOGS}/export")
        assert (third.status_code, third.headers["retry-after"], third.json()["error"]["code"]) == (
            503,
            "1",
            "queue_full",
        )
        assert log.get(LOGS, limit=1)["rows"]  # other questions are answered meanwhile
    wait_for(lambda: not log.runtime.exports.under_way)


# --- the feed ------------------------------------------------------------------------------------------------------


class Peer:
    """A WebSocket client that does what it is told, and answers no ping by itself (RFC 6455)."""

    def __init__(self, url: str, path: str = FEED, *, buffer: int = 0, **headers: str):
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(20)
        self.socket.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        asked = {
            "Host": url.partition("//")[2], "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(), **{name.replace("_", "-"): text for name, text in headers.items()},
        }  # fmt: skip
        lines = "".join(f"{name}: {value}\r\n" for name, value in asked.items() if value)
        self.socket.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        self.file = self.socket.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = {}
        while (line := self.file.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            self.headers[name.lower()] = value

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *unused: object) -> None:
        self.file.close()
        self.socket.close()

    def body(self) -> dict[str, Any]:
        return json.loads(self.file.read(int(self.headers["content-length"])))

    def frame(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload; the close frame's code, or 0 where the connection is just gone."""
        head = self.file.read(2)
        if len(head) < 2:
            return 0, b""
        size = head[1] & 0x7F
        if size > 125:
            size = int.from_bytes(self.file.read(2 if size == 126 else 8))
        return head[0] & 0x0F, self.file.read(size)

    def message(self, *, pings: bool = False) -> dict[str, Any]:
        while True:
            opcode, payload = self.frame()
            assert opcode in (1, 9), (opcode, payload)
            if opcode == 1 and (pings or payload != b'{"type":"ping"}'):
                return json.loads(payload)

    def ids(self, count: int) -> list[int]:
        return [self.message()["id"] for _ in range(count)]

    def say(self, text: str) -> None:
        data, mask = text.encode(), b"\0\0\0\0"
        size = bytes([0x80 | len(data)]) if len(data) < 126 else bytes([0xFE]) + struct.pack("!H", len(data))
        self.socket.sendall(b"\x81" + size + mask + data)


def test_the_feed_tells_the_last_hundred_and_then_each_new_one(log: Log) -> None:
    name, other = tag(), tag()
    ids = log.put(*(record(one) for _ in range(SHOWN + 20) for one in (name, other)))[::2]
    with Peer(log.url, f"{FEED}?preset={name}") as peer:
        assert peer.status == 101
        first = peer.message()
        assert (first["type"], first["id"], tuple(first["data"])) == ("log", ids[-SHOWN], COLUMNS)
        assert peer.ids(SHOWN - 1) == ids[-SHOWN + 1 :]
        new = log.put(record(other), record(name), record(name, dialect="management"), record(name))
        assert peer.ids(2) == [new[1], new[3]]
        peer.say(json.dumps({"filter": {"preset": other}}))
        assert peer.message() == {"type": "filter", "filter": {"preset": [other]}}
        assert peer.ids(SHOWN)[-1] == new[0]
        assert peer.ids(0) == []
        for wrong, code in (
            ('{"filter": {"status": "fine"}}', "invalid_parameter"),
            ("{}", "invalid_parameter"),
            ("x", "invalid_body"),
        ):
            peer.say(wrong)
            assert peer.message()["problem"]["error"]["code"] == code
        assert peer.ids(0) == []
        last = log.put(record(name), record(other))
        assert peer.ids(1) == last[1:]


@pytest.mark.parametrize("source", ["memory", "file"])
def test_whoever_resumes_misses_nothing_and_hears_nothing_twice(log: Log, source: str) -> None:
    """Rows are stored all the while, and the connection is torn again and again."""
    name, count = tag(), 4000
    start = log.put(record(name))[0]
    if source == "file":
        log.put(*(record(name) for _ in range(2500)))  # more than lies in memory

    def write() -> None:
        for place in range(count):
            log.runtime.audit.put(record(name))
            if place % 40 == 0:
                time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    found: list[int] = []
    with log.told(count) as ids:
        feed = follow(log.url, AuditFilter(preset=(name,)), start)
        for item in feed:
            assert isinstance(item, Row)
            found.append(item.id)
            if len(found) in (10, 1500, 3000):
                for visitor in list(log.runtime._visitors):
                    log.host._loop.call_soon_threadsafe(visitor.on_connection_close)
            if ids and len(ids) == count and item.id == max(ids):
                break
        feed.close()
    writer.join()
    whole = [row["id"] for row in map(json.loads, exported(log, "jsonl", name).content.splitlines())]
    assert found == whole[1:]


def test_a_reader_that_was_away_too_long_hears_how_much_it_missed(log: Log) -> None:
    feed = follow(log.url, AuditFilter(scope="all"), 0)
    gap = next(feed)
    assert isinstance(gap, Notice)
    items = [item for item in itertools.islice(feed, MOST_RESUMED) if isinstance(item, Row)]
    feed.close()
    assert gap == Notice("gap", items[0].id - 1)
    assert [one.id for one in items] == list(range(items[0].id, items[0].id + MOST_RESUMED))


def test_a_slow_reader_loses_the_oldest_with_a_count_and_takes_no_memory(log: Log) -> None:
    name, count, letters = tag(), 12_000, "m" * 500
    with Peer(log.url, f"{FEED}?preset={name}", buffer=4096) as peer:
        wait_for(lambda: log.runtime.feed._followers)
        (follower,) = log.runtime.feed._followers
        ids, most = [], 0
        for _ in range(count // 500):
            ids += log.put(*(record(name, model_used=letters) for _ in range(500)))
            most = max(most, len(follower._waiting))
        assert most <= ROOM
        seen, dropped = [], 0
        while not seen or seen[-1] != ids[-1]:
            frame = peer.message()
            if frame["type"] == "log":
                seen.append(frame["id"])
            else:
                assert frame["type"] == "dropped"
                dropped += frame["count"]
    assert dropped > 0
    assert (len(seen) + dropped, seen) == (count, sorted(set(seen)))


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"Origin": "https://evil.example"}, 403, "host_refused"), ({"Host": "evil.example"}, 403, "host_refused"),
        ({"Upgrade": ""}, 426, "upgrade_required"), ({"Connection": "close"}, 426, "upgrade_required"),
        ({"Sec_WebSocket_Version": "8"}, 426, "upgrade_required"), ({"Sec_WebSocket_Key": ""}, 400, "invalid_request"),
    ],
)  # fmt: skip
def test_who_may_not_follow_is_told_why_before_the_upgrade(
    log: Log, change: dict[str, str], status: int, code: str
) -> None:
    if change.get("Connection") == "close":
        change = {**change, "Connection": "keep-alive"}
    with Peer(log.url, X_Request_ID=(given := tag()), **change) as peer:
        assert (peer.status, peer.headers["content-type"]) == (status, "application/problem+json")
        assert peer.body()["error"]["code"] == code
        assert status != 426 or (peer.headers["upgrade"], peer.headers["sec-websocket-version"]) == (
            "websocket",
            "13",
        )
    rows = [row for row in log.get(LOGS, scope="all", endpoint=FEED)["rows"] if row["request_id"] == given]
    assert [(row["http_status"], row["error_type"], row["endpoint"]) for row in rows] == [
        (status, code, FEED)
    ]


def test_what_a_feed_is_asked_for_is_checked(log: Log) -> None:
    for query, field in (
        ("after=x", "after"),
        ("after=-1", "after"),
        ("colour=red", "colour"),
        ("status=fine", "status"),
    ):
        with Peer(log.url, f"{FEED}?{query}") as peer:
            assert (peer.status, peer.body()["error"]["param"]) == (400, field)
    assert log.client.head(FEED).status_code == 426
    with Peer(log.url, FEED, Origin="http://localhost:3000") as peer:
        assert peer.status == 101


def test_pings_and_those_that_do_not_answer(log: Log) -> None:
    log.runtime.settings.websocket_ping_seconds = 0.1
    try:
        with Peer(log.url, f"{FEED}?preset={tag()}", X_Request_ID=(given := tag())) as peer:
            found = {peer.frame() for _ in range(2)}
            assert found == {(9, b""), (1, b'{"type":"ping"}')}
            while (frame := peer.frame())[0] in (1, 9):
                pass
            assert frame[0] == 8
    finally:
        log.runtime.settings.websocket_ping_seconds = 30
    wait_for(lambda: not log.runtime.feed._followers)
    rows = log.get(LOGS, scope="all", endpoint=FEED, status="success", limit=5)["rows"]
    assert [row["http_status"] for row in rows if row["request_id"] == given] == [101]


def test_under_panels_own_command_a_server_that_stops_says_goodbye(tmp_path: Path) -> None:
    path = str(Path(cli.__file__).parent / "dashboard" / "main.py")
    command = (
        "-m",
        "panel",
        "serve",
        path,
        "--plugins",
        "mlx_panel.plugin",
        "--port",
        str(port := free_port()),
    )
    with running(tmp_path, command=command, port=port) as server:
        server.chat(max_tokens=1)
        with Peer(server.url) as peer:
            (first,) = peer.ids(1)
            server.chat(max_tokens=1)
            assert peer.ids(1)[0] > first
            server.process.send_signal(signal.SIGTERM)
            while (frame := peer.frame())[0] in (1, 9):
                pass
            assert (frame[0], int.from_bytes(frame[1][:2])) == (8, 1001)


def test_nothing_of_it_blocks_the_loop(serving: Running) -> None:
    """That server raises where something would."""
    serving.chat(max_tokens=1)
    with Peer(serving.url) as peer:
        assert peer.message()["type"] == "log"
        peer.say('{"filter": {"scope": "all"}}')
        while peer.message()["type"] != "filter":
            pass  # rows of the filter before
        assert peer.message()["type"] == "log"
        for path in (
            "",
            "/stats",
            "/charts/requests?format=parquet",
            "/export",
            "/export?format=csv",
            "/export?format=parquet",
        ):
            assert serving.client.get(f"{LOGS}{path}").status_code == 200, path


# --- filters in memory ---------------------------------------------------------------------------------------------

few = st.sampled_from(["a", "Ab", "unknown"])
filters = st.builds(
    AuditFilter,
    model=st.lists(few, max_size=2).map(tuple), caller=st.lists(st.sampled_from(["::1", "unknown"]), max_size=1).map(tuple),
    status=st.lists(st.sampled_from(["success", "error"]), max_size=2).map(tuple), preset=st.lists(few, max_size=1).map(tuple),
    error=st.lists(st.sampled_from(["timeout", "error", "queue_full"]), max_size=2).map(tuple),
    backend=st.lists(st.sampled_from(["local"]), max_size=1).map(tuple), endpoint=st.lists(st.sampled_from(["/a", "/b"]), max_size=1).map(tuple),
    text=st.sampled_from(["", "A", "nk"]), scope=st.sampled_from(["model", "all"]),
    since=st.none() | st.sampled_from([NOON, NOON + timedelta(seconds=1)]), until=st.none() | st.sampled_from([NOON + timedelta(seconds=1)]),
)  # fmt: skip
some = st.builds(
    record, st.none() | few,
    model_used=st.none() | few, model_requested=st.none() | few, caller=st.sampled_from([None, "::1"]),
    status=st.sampled_from(["success", "error", "timeout", "cancelled"]), error_type=st.sampled_from([None, "timeout", "queue_full"]),
    backend_type=st.sampled_from([None, "local"]), endpoint=st.sampled_from(["/a", "/b"]), dialect=st.sampled_from(["openai", "management"]),
    timestamp=st.sampled_from([NOON, NOON + timedelta(seconds=1)]),
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(filters, st.lists(some, min_size=1, max_size=8))
def test_a_filter_means_the_same_in_memory_and_in_the_file(
    table: duckdb.DuckDBPyConnection, filter: AuditFilter, records: list[AuditRecord]
) -> None:
    table.execute("DELETE FROM audit")
    store(table, records)
    condition, bound = where(filter)
    found = table.execute(f"SELECT id FROM audit WHERE {condition} ORDER BY id", bound).fetchall()
    match = matcher(filter)
    assert [id for (id,) in found] == [id for id, one in enumerate(records) if match(one)]


def store(table: duckdb.DuckDBPyConnection, records: list[AuditRecord], first: int = 0) -> None:
    with table.appender("audit") as appender:
        for id, one in enumerate(records, first):
            values = msgspec.structs.replace(one, timestamp=one.timestamp.replace(tzinfo=None))
            appender.append_row(id, *msgspec.structs.astuple(values))


@pytest.fixture(scope="module")
def table() -> Iterator[duckdb.DuckDBPyConnection]:
    """A log in memory."""
    with contextlib.closing(duckdb.connect(config={"threads": 1})) as connection:
        migrate(connection)
        yield connection


# --- the command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def audit(
    log: Log, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """`mlx-panel audit`: what it prints, after it ended well."""
    monkeypatch.setenv("MLX_SERVER_DATA_DIR", str(log.folder))
    monkeypatch.setenv("MLX_SERVER_PORT", str(log.host.port))

    def run(*words: object, status: int = 0) -> str:
        assert cli.main(["audit", *map(str, words)]) == status
        said = capsys.readouterr()
        return said.out if status == 0 else said.err

    return run


def test_the_command_line_asks_the_server_that_runs(
    log: Log, audit: Callable[..., str], tmp_path: Path
) -> None:
    name = tag()
    ids = log.put(
        record(name, model_used="one", ttft_ms=1500.0),
        record(name, model_used="two", status="error", http_status=503),
    )
    listed = audit("list", "--preset", name)
    assert "1.5 s" in listed
    assert "error 503" in listed
    page = json.loads(audit("list", "--preset", name, "--limit", 1, "--json"))
    assert ([row["id"] for row in page["rows"]], page["total"]) == (ids[1:], 2)
    assert (
        json.loads(audit("list", "--preset", name, "--before", page["next"], "--json"))["rows"][0]["id"]
        == ids[0]
    )
    assert "No request" in audit("list", "--preset", name, "--model", "three")
    assert json.loads(audit("show", ids[0], "--json"))["record"]["model_used"] == "one"
    assert json.loads(audit("stats", "--preset", name, "--json"))["requests"] == 2
    assert "half in 1.5 s" in audit(
        "stats", "--preset", name, "--until", "2026-03-02", "--since", "2026-03-01T00:00Z"
    )
    assert "slowest" in audit("chart")
    assert "two" in audit("chart", "requests", "--preset", name, "--option", "by=model")
    audit("chart", "requests", "--preset", name, "-o", tmp_path / "chart.csv")
    assert (tmp_path / "chart.csv").read_text().startswith("time,group,requests")
    audit("export", "--preset", name, "-o", tmp_path / "rows.jsonl")
    assert [json.loads(line)["id"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == ids
    assert "--force" in audit("export", "-o", tmp_path / "rows.jsonl", status=1)
    assert "by=model" in audit("chart", "requests", "--option", "model", status=1)
    assert "status is one of" in audit("list", "--status", "fine", status=1)


def test_the_command_line_reads_a_file_that_no_server_has(
    log: Log, audit: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "made.duckdb"
    audit("generate", file, "--rows", 2000, "--days", 2)
    assert json.loads(audit("stats", "--file", file, "--scope", "all", "--json"))["requests"] == 2000
    assert json.loads(audit("list", "--file", file, "--since", "30d", "--limit", 3, "--json"))["total"] > 1000
    for format in ("csv", "parquet"):
        audit("export", "--file", file, "--scope", "all", "-o", tmp_path / f"rows.{format}")
        assert duckdb.sql(f"SELECT count(*) FROM '{tmp_path}/rows.{format}'").fetchall() == [(2000,)]
    assert json.loads(audit("chart", "requests", "--file", file, "--json"))["total"] > 1000
    assert "less than half" in audit("shrink", "--file", file)
    assert "no audit log" in audit("stats", "--file", tmp_path / "none.duckdb", status=1)
    with contextlib.closing(duckdb.connect(str(file))) as connection:
        connection.execute("DELETE FROM schema_version WHERE version > 3")
    assert "older version" in audit("stats", "--file", file, status=1)


def test_the_command_line_says_who_has_the_file(
    audit: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_SERVER_PORT", str(free_port()))  # the command does not find the server
    assert "No server runs" in audit("follow", status=1)
    done = subprocess.run(
        [sys.executable, "-m", "mlx_panel", "audit", "stats"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert f"in use by process {os.getpid()}" in done.stderr
    assert "--url" in done.stderr


# --- in a notebook -------------------------------------------------------------------------------------------------


def test_a_notebook_asks_for_data_frames(log: Log, tmp_path: Path) -> None:
    name, server = tag(), AuditLog(log.url)
    ids = log.put(*(record(name, model_used=f"m{place % 2}") for place in range(5)))
    frame = server.list(preset=name, limit=3)
    assert (list(frame.index), frame.timestamp.dt.tz is not None) == (ids[:1:-1], True)
    assert len(server.list(preset=name, model=["m0"], since=NOON, until="2026-03-02", limit=None)) == 3
    assert server.stats(preset=name).requests == 5
    assert "slowest" in server.charts().index
    chart = server.chart("requests", by="model", preset=name, buckets=1)
    assert sorted(zip(chart.group, chart.requests, strict=True)) == [("m0", 3), ("m1", 2)]
    assert (chart.time.dt.tz is not None, chart.attrs["units"]["time"]) == (True, "time")
    assert server.export(tmp_path / "rows.csv", preset=name).read_bytes().count(b"\r\n") == 6
    assert [row["id"] for row in itertools.islice(server.follow(preset=name), 5)] == ids
    with pytest.raises(InvalidParameter) as wrong:
        server.list(colour="red")
    assert wrong.value.field == "colour"
    with pytest.raises(InvalidParameter):
        server.chart("requests", by="day")
    assert server.__panel__() is not None
