"""What exports and the live feed cost: rows a second, memory, and how long others wait meanwhile.

python -m tests.checks.measure_audit_api [ROWS | FILE.duckdb [FORMAT …]]   (1000000, all; a file is copied)
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil

from mlx_panel.analytics import AuditFilter
from mlx_panel.audit.generate import generate
from mlx_panel.audit_access.live import Notice, follow
from mlx_panel.host import Host
from mlx_panel.record import AuditRecord
from mlx_panel.settings import Settings

from ..server import running

LOGS = "/v1/admin/audit-logs"
SECONDS = 4.0
RATES = (
    200,
    2000,
    10_000,
)  # a second; whoever follows is in the server's process here, and takes its time too


def waits(url: str, done: threading.Event) -> list[float]:
    """How long /health takes, milliseconds, again and again."""
    took = []
    with httpx.Client(base_url=url) as client:
        while not done.is_set():
            began = time.perf_counter()
            client.get("/health")
            took.append((time.perf_counter() - began) * 1000)
            time.sleep(0.005)
    return took


def beside(url: str, work: Callable[[], None]) -> list[float]:
    """The waits of others while `work` runs."""
    done, found = threading.Event(), []
    thread = threading.Thread(target=lambda: found.extend(waits(url, done)))
    thread.start()
    work()
    done.set()
    thread.join()
    return found


def told(took: list[float]) -> str:
    return f"/health p50 {statistics.median(took):.1f} p99 {statistics.quantiles(took, n=100)[98]:.1f} max {max(took):.1f} ms"


def exports(folder: Path, formats: list[str]) -> None:
    with running(folder, command=("-m", "mlx_panel", "serve")) as server:
        process = psutil.Process(server.process.pid)
        rows = server.client.get(f"{LOGS}/stats", params={"scope": "all"}, timeout=300).json()["requests"]
        print(f"{rows:,} rows; idle: {told(beside(server.url, lambda: time.sleep(3)))}")
        for format in formats:
            reader = Reader(server.url, format, process)
            took = beside(server.url, reader.read)
            print(f"{format:8}{reader.told(rows)}; {told(took)}", flush=True)


class Reader:
    """An export read as fast as it comes, and the server's memory meanwhile."""

    def __init__(self, url: str, format: str, process: psutil.Process):
        self.url, self.format, self.process = url, format, process
        self.before = self.most = process.memory_info().rss
        self.size, self.first, self.seconds = 0, 0.0, 0.0

    def read(self) -> None:
        began = time.monotonic()
        asked = {"format": self.format, "scope": "all"}
        with httpx.stream("GET", f"{self.url}{LOGS}/export", params=asked, timeout=600) as reply:
            for number, piece in enumerate(reply.iter_raw()):
                self.first = self.first or time.monotonic() - began
                self.size += len(piece)
                if number % 50 == 0:
                    self.most = max(self.most, self.process.memory_info().rss)
        self.seconds = time.monotonic() - began

    def told(self, rows: int) -> str:
        return (
            f"{self.size / 1e6:8,.0f} MB in {self.seconds:6.1f} s, {rows / self.seconds:8,.0f} rows/s, "
            f"first byte {self.first:.2f} s, memory +{(self.most - self.before) / 1e6:.0f} MB"
        )


def feed(folder: Path) -> None:
    given = {"MLX_SERVER_DATA_DIR": str(folder), "MLX_SERVER_WARM_SPARE": "false"}
    host = Host(Settings.load({"host": "127.0.0.1", "port": 0}, {**os.environ, **given}))
    host.start()
    try:
        for rate in RATES:
            for followers in (0, 1):
                one_feed(host, rate, followers)
    finally:
        host.stop()


def one_feed(host: Host, rate: int, followers: int) -> None:
    assert host._runtime is not None
    store, url = host._runtime.audit, f"http://127.0.0.1:{host.port}"
    rows, left_out, stop = [0], [0], f"last-{rate}-{followers}"

    def listen() -> None:
        for item in follow(url, AuditFilter()):
            if isinstance(item, Notice):
                left_out[0] += item.count
            elif item.record.request_id == stop:
                return
            else:
                rows[0] += 1

    thread = threading.Thread(target=listen)
    if followers:
        thread.start()
        time.sleep(1)
    lag = asyncio.run_coroutine_threadsafe(lags(SECONDS), host._loop)
    began = time.monotonic()
    sent = 0
    while time.monotonic() < began + SECONDS:
        for _ in range(int((time.monotonic() - began) * rate) - sent):
            store.put(record(f"r{sent}"))
            sent += 1
        time.sleep(0.002)
    worst = lag.result()
    store.put(record(stop))
    if followers:
        thread.join()
    print(
        f"{sent / SECONDS:8,.0f} rows/s, {followers} follow: told {rows[0]:,}, left out {left_out[0]:,}; "
        f"loop's lag p99 {statistics.quantiles(worst, n=100)[98]:.1f} max {max(worst):.1f} ms"
    )


def record(id: str) -> AuditRecord:
    return AuditRecord(
        id, datetime.now(UTC), "/v1/chat/completions", "openai", "success", 200, model_used="made-up"
    )


async def lags(seconds: float) -> list[float]:
    """How much later than asked for a loop comes back, milliseconds."""
    found, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        found.append((time.perf_counter() - began) * 1000 - 1)
    return found


def main() -> None:
    given = sys.argv[1] if len(sys.argv) > 1 else "1000000"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.isdecimal():
            generate(folder / "audit.duckdb", int(given))
        else:
            shutil.copy(given, folder / "audit.duckdb")
        exports(folder, sys.argv[2:] or ["jsonl", "csv", "parquet"])
        feed(folder)


if __name__ == "__main__":
    main()
