"""Measures what a streamed token costs the server process, on its way from a worker's frame to the client's socket.

    python -m tests.checks.measure_chain [--streams 1,16,64] [--steps 0.005,0.02] [--seconds 5]

Not a test: machines differ. The model is scripted, the clients read raw sockets in a process of their own, and the
server's CPU time is its own alone: neither the worker's nor the clients'. A step of 0 is a worker that does not pause.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import selectors
import socket
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import psutil

from ..server import Running, running, scripted

SERVE = ("-m", "mlx_panel", "serve")
# Each token has one mark and each chunk one bracket, so that a client need not parse what it reads.
WORDS, MARK, CHUNK = "~The ~quick ~brown ~fox ~jumps ~over ~the ~lazy ~dog.", b"~", b"["
WARM_SECONDS = 1.0


class Figures(NamedTuple):
    """What one load was: seconds; `gaps` are sorted, between two reads of the same stream."""

    seconds: float
    cpu: float
    tokens: int
    chunks: int
    gaps: list[float]

    def told(self, idle: float) -> str:
        each = self.cpu / self.tokens * 1e6
        above = (self.cpu - idle * self.seconds) / self.tokens * 1e6
        p50, p99, longest = (at(self.gaps, part) * 1000 for part in (0.5, 0.99, 1))
        return (
            f"{self.tokens / self.seconds:8.0f} tok/s  CPU {self.cpu / self.seconds:5.1%}  {each:6.2f} µs/token, "
            f"{above:6.2f} without idle  {self.tokens / self.chunks:5.2f} tokens/write  "
            f"gap p50 {p50:5.1f} p99 {p99:5.1f} longest {longest:6.1f} ms"
        )


def at(values: list[float], part: float) -> float:
    return values[min(len(values) - 1, int(len(values) * part))]


class Client:
    """One stream: counts what comes, and notes when."""

    def __init__(self, port: int, body: bytes):
        self.tokens, self.chunks, self.last, self.gaps = 0, 0, 0.0, []  # type: ignore[var-annotated]
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )

    def read(self, now: float) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise SystemExit("a stream ended before the measurement did")
        self.tokens += data.count(MARK)
        self.chunks += data.count(CHUNK)
        if self.last:
            self.gaps.append(now - self.last)
        self.last = now

    def forget(self) -> None:
        """Begin to count: what came so far was warming up."""
        self.tokens, self.chunks, self.gaps = 0, 0, []


class Load:
    """So many streams in this process."""

    def __init__(self, port: int, model: str, streams: int):
        body = {"model": model, "messages": [{"role": "user", "content": "Go"}], "stream": True}
        body |= {"max_tokens": 10_000_000}
        self.clients = [Client(port, json.dumps(body).encode()) for _ in range(streams)]
        self._selector = selectors.DefaultSelector()
        for client in self.clients:
            self._selector.register(client.socket, selectors.EVENT_READ, client)

    def read(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            ready = self._selector.select(0.5)
            now = time.perf_counter()
            for key, _ in ready:
                key.data.read(now)

    def warm(self) -> None:
        while not all(client.tokens for client in self.clients):
            self.read(0.1)
        self.read(WARM_SECONDS)
        for client in self.clients:
            client.forget()

    def close(self) -> None:
        for client in self.clients:
            client.socket.close()


def measured(port: int, pid: int, model: str, streams: int, seconds: float) -> Figures:
    """Stream for so long; the CPU time is that of the process `pid`."""
    load, server = Load(port, model, streams), psutil.Process(pid)
    load.warm()
    began, before = time.perf_counter(), cpu(server)
    load.read(seconds)
    took, used = time.perf_counter() - began, cpu(server) - before
    load.close()
    clients = load.clients
    gaps = sorted(gap for client in clients for gap in client.gaps)
    return Figures(took, used, sum(one.tokens for one in clients), sum(one.chunks for one in clients), gaps)


def cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def idle(server: Running, seconds: float) -> float:
    """CPU seconds a second of a server that nobody asks anything."""
    process = psutil.Process(server.process.pid)
    before = cpu(process)
    time.sleep(seconds)
    return (cpu(process) - before) / seconds


def quiet(server: Running) -> None:
    while server.client.get("/health").json()["requests"]:
        time.sleep(0.1)
    time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", default="1,16,64")
    parser.add_argument("--steps", default="0.005,0.02", help="seconds between a stream's tokens")
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    print(f"{platform.platform()}, Python {sys.version.split()[0]}")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(1, mp_context=context) as pool:
        folder, steps = Path(name), [float(step) for step in options.steps.split(",")]
        for step in steps:
            scripted(
                folder,
                f"paced-{step:g}",
                text=WORDS,
                repeat=50_000,
                step_seconds=step,
                context_length=1 << 30,
            )
        with running(folder, command=SERVE, max_batch=64) as server:
            for step in steps:
                measure(server, pool, step, options)


def measure(server: Running, pool: ProcessPoolExecutor, step: float, options: argparse.Namespace) -> None:
    model = f"paced-{step:g}"
    server.chat(model, max_tokens=1).raise_for_status()
    quiet(server)
    still = idle(server, 3)
    print(f"a step of {step * 1000:g} ms; idle CPU {still:.2%}")
    port = int(server.url.rpartition(":")[2])
    for streams in map(int, options.streams.split(",")):
        figures = pool.submit(measured, port, server.process.pid, model, streams, options.seconds).result()
        print(f"{streams:4d} streams: {figures.told(still)}", flush=True)
        quiet(server)


if __name__ == "__main__":
    main()
