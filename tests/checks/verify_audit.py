"""Measures the audit log's store: what it costs a request, how many rows a second it takes, what kill -9 loses, how fast rows go.

    python -m tests.checks.verify_audit cost
    python -m tests.checks.verify_audit ingest [--rate 50000] [--seconds 20] [--details 0]
    python -m tests.checks.verify_audit kill [--rounds 10]
    python -m tests.checks.verify_audit retention [--rows 10000000] [--file FILE]

`cost` times what one request does on the server's loop: making the row, making what is kept beside it, handing both
over. `ingest` puts rows from an asyncio loop at a rate and tells how late that loop's timers were, beside a loop that
puts the same rows nowhere. `kill` ends a server under load with SIGKILL, looks at the file after each round, and starts
on a write-ahead log of 100 MB. `retention` removes half of a log while a loop measures how late it is. Each prints the
machine's load before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from mlx_panel.audit import AuditStore, generate, rollup
from mlx_panel.audit.retention import Limits, Retention
from mlx_panel.audit.storage import live_bytes
from mlx_panel.http.ledger import Ledger
from mlx_panel.messages import AuditDetail, AuditRecord, Done, Neighbour, Span, Stage, Text, Trace, Usage

TICK = 0.001


def load() -> str:
    return "load " + " ".join(f"{one:.1f}" for one in os.getloadavg())


def spread(values: list[float], scale: float = 1e3) -> str:
    """p50, p99 and the largest."""
    ordered = sorted(values)
    p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    return f"p50 {p50 * scale:.2f}, p99 {p99 * scale:.2f}, max {ordered[-1] * scale:.2f}"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "audit.duckdb"


# --- cost -------------------------------------------------------------------------------------------------------


def ended(spans: int) -> Ledger:
    """What a streamed request of 200 pieces leaves behind."""
    ledger = Ledger(
        request_id="0123456789abcdef", endpoint="/v1/chat/completions", dialect="openai", caller="127.0.0.1"
    )
    ledger.model_requested, ledger.stream, ledger.finish_reason = "org/model", True, "stop"
    ledger.passage.asked()
    ledger.loaded("org/model", 0.001)
    ledger.passage.sent()
    ledger.saw(Stage("0", "prefill", done=0, total=512))
    for _ in range(200):
        ledger.saw(Text("0", "word ", 1))
    found = tuple(Span("prefill", 2.0 * number, 2.0, 64) for number in range(spans))
    ledger.saw(
        Trace(
            "0",
            spans=found,
            neighbours=(Neighbour("fedcba9876543210", 3.0, 4.0, 5, 6),),
            block_tokens=64,
            blocks=bytes(64),
        )
    )
    ledger.saw(Done("0", "stop", Usage(prompt_tokens=512, completion_tokens=200, cached_tokens=64)))
    return ledger


def cost(arguments: argparse.Namespace) -> None:
    with scratch() as path:
        store = AuditStore(path)
        store.start()
        for spans in (4, 20):
            times: dict[str, list[float]] = {"record": [], "detail": [], "put": [], "all": []}
            for _ in range(3000):
                ledger = ended(spans)
                gc.disable()
                began = time.perf_counter()
                record = ledger.record(None, 200)
                made = time.perf_counter()
                detail = ledger.detail()
                more = time.perf_counter()
                store.put(record, detail)
                end = time.perf_counter()
                gc.enable()
                for name, one in (
                    ("record", made - began),
                    ("detail", more - made),
                    ("put", end - more),
                    ("all", end - began),
                ):
                    times[name].append(one)
            print(f"a request with {spans} spans, µs:")
            for name, one in times.items():
                print(f"  {name:<7} {spread(one, 1e6)}")
        store.close()
        print(f"rows {store.written} written, {store.failed} lost")


# --- ingest -----------------------------------------------------------------------------------------------------


def sample(number: int) -> AuditRecord:
    return AuditRecord(
        f"r{number}", datetime.now(UTC), "/v1/chat/completions", "openai", "success", 200, "smol", "org/smol", "local", True,
        queue_ms=0.25, load_ms=0.0, ttft_ms=20.5, duration_ms=number % 1000 + 0.125, prompt_tokens=number % 4096,
        cached_tokens=64, completion_tokens=128, total_tokens=number % 4096 + 128, finish_reason="stop", caller="127.0.0.1",
        cache_outcome="hit", prefill_ms=12.5, decode_ms=300.25, itl_ms=2.5, itl_max_ms=9.0, temperature=0.7, max_tokens=512,
    )  # fmt: skip


DETAIL = AuditDetail(tuple(Span("prefill", 2.0 * n, 2.0, 64) for n in range(8)), (), 64, bytes(64))


async def late(work: Awaitable[None]) -> list[float]:
    """How late a timer of a millisecond was, again and again while `work` runs, seconds."""
    running, found = asyncio.ensure_future(work), []
    while not running.done():
        due = time.perf_counter() + TICK
        await asyncio.sleep(TICK)
        found.append(time.perf_counter() - due)
    await running
    return found


async def at_rate(put: Callable[[int], None], rate: int, seconds: float) -> None:
    """Call `put` so many times a second, a millisecond's worth at a time, more to catch up."""
    began, given = time.perf_counter(), 0
    while (now := time.perf_counter() - began) < seconds:
        upto = min(int(now * rate), given + max(1, rate // 200))
        for number in range(given, upto):
            put(number)
        given = upto
        await asyncio.sleep(TICK if given >= int(now * rate) else 0)


def ingest(arguments: argparse.Namespace) -> None:
    rate, seconds = arguments.rate, arguments.seconds
    share = f"one in {arguments.details} with a detail" if arguments.details else "without details"
    print(f"{rate} rows/s for {seconds:g} s, {share}")
    print("loop late, ms:")
    with scratch() as path:
        base = asyncio.run(late(at_rate(sample, rate, min(seconds, 5.0))))
        print(f"  rows made and put nowhere   {spread(base)}")
        store = AuditStore(path)
        store.housekeeping.append(rollup.advance)
        commits: list[tuple[float, int]] = []
        store.committed.append(lambda first, rows: commits.append((time.perf_counter(), len(rows))))
        store.start()
        most, put = [0], store.put

        def one(number: int) -> None:
            put(sample(number), DETAIL if arguments.details and number % arguments.details == 0 else None)
            most[0] = max(most[0], store.pending)

        began, busy = time.perf_counter(), store.in_writer(lambda cursor: time.thread_time()).result()
        found = asyncio.run(late(at_rate(one, rate, seconds)))
        made = store.pending + store.written + store.failed
        took = time.perf_counter() - began
        print(f"  rows put into the store     {spread(found)}")
        print(
            f"put {made} rows in {took:.1f} s ({made / took:.0f}/s); waiting at the end {store.pending}, at most {most[0]}, lost {store.failed}"
        )
        store.flush(60)
        busy = store.in_writer(lambda cursor: time.thread_time()).result() - busy
        print(
            f"the writer's own time {busy / store.written * 1e6:.1f} µs a row: {store.written / busy:.0f} rows/s on a core of its own"
        )
        sizes = [rows for _, rows in commits]
        print(
            f"written {store.written} after {time.perf_counter() - began:.1f} s; commits {len(sizes)}, rows each p50 {sorted(sizes)[len(sizes) // 2]}, at most {max(sizes)}"
        )
        store.close()
        print(f"file {path.stat().st_size / made:.0f} bytes a row")


# --- kill -------------------------------------------------------------------------------------------------------

WRITER = """
import itertools, sys, time
from datetime import UTC, datetime
from mlx_panel.audit import AuditStore, rollup
from tests.checks.verify_audit import DETAIL, sample
store = AuditStore(sys.argv[1])
store.housekeeping.append(rollup.advance)
store.start()
print("started", flush=True)
for number in itertools.count(int(sys.argv[2])):
    store.put(sample(number), DETAIL if number % 10 == 0 else None)
    if number % 2000 == 1999:
        store.flush()
        print(number, flush=True)
"""


def kill(arguments: argparse.Namespace) -> None:
    with scratch() as path:
        number = 0
        for round_ in range(arguments.rounds):
            process = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path), str(number)], stdout=subprocess.PIPE, text=True
            )
            assert process.stdout is not None
            threading.Timer(2.0 + 0.37 * round_, process.send_signal, (signal.SIGKILL,)).start()
            lines = process.stdout.readlines()
            process.wait()
            told = int(lines[-1]) if len(lines) > 1 else number - 1
            began = time.perf_counter()
            with duckdb.connect(str(path)) as connection:
                opened = time.perf_counter() - began
                rows, last, distinct = connection.execute(
                    "SELECT count(*), max(CAST(substr(request_id, 2) AS BIGINT)), count(DISTINCT request_id) FROM audit"
                ).fetchall()[0]
                (details,) = connection.execute(
                    "SELECT count(*) FROM detail WHERE id IN (SELECT id FROM audit)"
                ).fetchall()[0]
            whole = rows == distinct == last + 1 and details == (last + 10) // 10
            print(
                f"round {round_ + 1}: acknowledged up to {told}, file has up to {last}, {'whole' if whole and last >= told else 'ROWS ARE MISSING'}, opened in {opened:.2f} s"
            )
            number = last + 1
    long_log(arguments.megabytes)


def long_log(megabytes: int) -> None:
    """Start on a write-ahead log that long."""
    with scratch() as path:
        code = """
import os, sys
from mlx_panel.audit import AuditStore
from tests.checks.verify_audit import sample
store = AuditStore(sys.argv[1], capacity=1_000_000)
store.start()
store.in_writer(lambda cursor: cursor.execute("SET checkpoint_threshold = '10GB'")).result()
number = 0
while os.path.getsize(sys.argv[1] + ".wal") < int(sys.argv[2]) << 20:
    for number in range(number, number + 20000):
        store.put(sample(number))
    number += 1
    store.flush(60)
print(number)
os.kill(os.getpid(), 9)
"""
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), str(megabytes)], capture_output=True, text=True
        )
        rows, wal = int(done.stdout), path.with_name("audit.duckdb.wal").stat().st_size
        store = AuditStore(path)
        began = time.perf_counter()
        store.start()
        took = time.perf_counter() - began
        with contextlib.closing(store.cursor()) as cursor:
            (found,) = cursor.execute("SELECT count(*) FROM audit").fetchall()[0]
        store.close()
        print(f"start on a write-ahead log of {wal / 1e6:.0f} MB: {took:.2f} s, {found} of {rows} rows")


# --- retention --------------------------------------------------------------------------------------------------


def retention(arguments: argparse.Namespace) -> None:
    with scratch() as path:
        if arguments.file:
            shutil.copy(arguments.file, path)
        else:
            began = time.perf_counter()
            generate.generate(path, arguments.rows, days=60)
            print(
                f"{arguments.rows} rows made in {time.perf_counter() - began:.0f} s, {path.stat().st_size / 1e6:.0f} MB"
            )
        store = AuditStore(path)
        began = time.perf_counter()
        store.start()
        print(f"started in {time.perf_counter() - began:.2f} s")
        with contextlib.closing(store.cursor()) as cursor:
            (middle,) = cursor.execute('SELECT quantile_disc("timestamp", 0.5) FROM audit').fetchall()[0]
            size, rows = live_bytes(cursor)
        days = (datetime.now(UTC).replace(tzinfo=None) - middle) / timedelta(days=1)
        chore = Retention(lambda: Limits(days=days))

        async def work(removing: bool) -> None:
            for number in range(1500):  # requests go on meanwhile
                store.put(sample(number))
                if removing and number == 200:
                    store.housekeeping.append(chore)
                    store.soon(chore)
                await asyncio.sleep(0.0005)
            while removing and chore.last is None:
                await asyncio.sleep(0.01)

        print(f"loop late, ms: {spread(asyncio.run(late(work(False))))}")
        print(f"  while rows go: {spread(asyncio.run(late(work(True))))}")
        assert chore.last is not None
        with contextlib.closing(store.cursor()) as cursor:
            after, left = live_bytes(cursor)
        print(
            f"{rows} rows ({size / 1e6:.0f} MB) to {left} ({after / 1e6:.0f} MB): {chore.last.rows} removed in {chore.last.seconds:.3f} s"
        )
        store.close()
        began, again = time.perf_counter(), AuditStore(path)
        again.start()
        print(f"next start {time.perf_counter() - began:.2f} s, file made smaller: {again.shrunk}")
        again.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for work in (cost, ingest, kill, retention):
        one = commands.add_parser(work.__name__)
        one.set_defaults(work=work)
        if work is ingest:
            one.add_argument("--rate", type=int, default=50_000)
            one.add_argument("--seconds", type=float, default=20)
            one.add_argument("--details", type=int, default=0, help="every so many rows one with a detail")
        if work is kill:
            one.add_argument("--rounds", type=int, default=10)
            one.add_argument("--megabytes", type=int, default=100)
        if work is retention:
            one.add_argument("--rows", type=int, default=10_000_000)
            one.add_argument("--file", type=Path)
    arguments = parser.parse_args()
    print(load())
    arguments.work(arguments)
    print(load())


if __name__ == "__main__":
    main()
