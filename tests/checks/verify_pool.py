"""What the pool is measured by: the first token of a cold model, memory given back, a worker that aborts, and churn.

    python -m tests.checks.verify_pool [cold] [back] [abort] [churn]

Each part runs on a real server with tiny random models and prints what it found.
"""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from mlx_panel.footprint import footprint

from ..models import tiny_model
from ..server import Running, running


@contextmanager
def serving(*names: str, **settings: Any) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            tiny_model(Path(folder) / "models" / name, seed=number)
        with running(Path(folder), **settings) as server:
            yield server


def status(server: Running) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    found = server.client.get("/v1/admin/models/status").json()
    return {one["id"]: one for one in found["models"]}, found["pool"]


def first_token(server: Running, model: str) -> float:
    """Seconds from sending a request to the first token of its stream."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 4}
    began = time.perf_counter()
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as reply:
        next(line for line in reply.iter_lines() if '"role":"assistant"' in line or '"content"' in line)
        return time.perf_counter() - began


def cold() -> None:
    for spare in (False, True):
        with serving("tiny", warm_spare=str(spare).lower()) as server:
            times = []
            for _ in range(6):
                while spare and not status(server)[1]["spare_memory"]:
                    time.sleep(0.2)
                time.sleep(1)
                times.append(first_token(server, "tiny"))
                server.client.post("/v1/admin/models/unload/tiny").raise_for_status()
            print(
                f"first token on a cold model, {'with' if spare else 'without'} a warm spare: median"
                f" {statistics.median(times):.2f} s, slowest {max(times):.2f} s of {len(times)}"
            )


def taken(server: Running) -> tuple[int, int]:
    """Bytes that the server's workers take: resident, and footprint."""
    workers = server.workers()
    return sum(one.memory_info().rss for one in workers), sum(footprint(one.pid) for one in workers)


def back() -> None:
    with serving("tiny", warm_spare="false") as server:
        free = psutil.virtual_memory().available
        server.chat("tiny", max_tokens=400, ignore_eos=True)
        time.sleep(1)
        held, loaded = taken(server), psutil.virtual_memory().available
        server.client.post("/v1/admin/models/unload/tiny").raise_for_status()
        left, after = taken(server), psutil.virtual_memory().available
        print(
            f"memory back: worker had {held[0] / 1e6:.0f} MB resident, {held[1] / 1e6:.0f} MB footprint; left after unload"
            f" {left[0]} bytes ({1 - left[0] / held[0]:.0%} back); the machine had {(free - loaded) / 1e6:.0f} MB less and"
            f" got {(after - loaded) / 1e6:.0f} MB back"
        )


def read(server: Running, model: str) -> tuple[str, float]:
    """The last event of a long stream, and when it came."""
    body = {
        "model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 600,
        "ignore_eos": True, "temperature": 0.7,
    }  # fmt: skip
    last = ""
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=120) as reply:
        for line in reply.iter_lines():
            last = line or last
    return last, time.perf_counter()


def abort() -> None:
    with serving("a", "b", warm_spare="false") as server, ThreadPoolExecutor(16) as clients:
        for name in ("a", "b"):
            server.client.post(f"/v1/admin/models/load/{name}").raise_for_status()
        doomed = [clients.submit(read, server, "a") for _ in range(8)]
        others = [clients.submit(read, server, "b") for _ in range(8)]
        while status(server)[0]["a"]["running"] < 8 or status(server)[0]["b"]["running"] < 8:
            time.sleep(0.1)
        os.kill(status(server)[0]["a"]["pid"], signal.SIGABRT)
        began = time.perf_counter()
        ends = [one.result() for one in doomed]
        retried = time.perf_counter()
        reply = server.chat("a", max_tokens=1)
        again = time.perf_counter() - retried
        typed = sum('"code":"worker_died"' in last for last, _ in ends)
        slowest = max(when - began for _, when in ends)
        whole = sum("[DONE]" in one.result()[0] for one in others)
        load = status(server)[0]["a"]
        print(
            f"abort: {typed} of 8 ended with worker_died, the last after {slowest:.2f} s; {whole} of 8 others complete;"
            f" next request {reply.status_code} after {again:.2f} s"
            f" (restarts {load['restarts']}; {load['state']})"
        )


def churn() -> None:
    names = [f"m{number}" for number in range(6)]
    with serving(*names, warm_spare="false") as server:
        expected = 0
        for name in names:  # measured once, so that the budget for three is known
            server.client.post(f"/v1/admin/models/load/{name}").raise_for_status()
            server.client.post(f"/v1/admin/models/unload/{name}").raise_for_status()
        time.sleep(6)
        expected = max(one["expected"] for id, one in status(server)[0].items() if id in names)
        budget = int(3.5 * expected)
        server.client.put(
            "/api/settings/pool", json={"memory_limit": f"{budget / 1e6:.0f}MB"}
        ).raise_for_status()
        codes: Counter[str] = Counter()
        peak, most, evictions, stop = 0, 0, 0, threading.Event()

        def watch() -> None:
            nonlocal peak, most
            while not stop.is_set():
                now = taken(server)[1]
                peak, most = max(peak, now), max(most, len(server.workers()))
                time.sleep(0.02)

        def client(number: int) -> None:
            for turn in itertools.count():
                model = names[(number * 7 + turn * 5) % 6]
                reply = server.chat(model, max_tokens=24, ignore_eos=True)
                codes["200" if reply.status_code == 200 else reply.json()["error"]["code"]] += 1
                if evictions >= 50:
                    break

        watcher = threading.Thread(target=watch)
        watcher.start()
        began = time.perf_counter()
        with ThreadPoolExecutor(16) as clients:
            working = [clients.submit(client, number) for number in range(16)]
            while not all(one.done() for one in working):
                evictions = status(server)[1]["evictions"]
                time.sleep(0.5)
        for one in working:
            one.result()
        stop.set()
        watcher.join()
        print(
            f"churn: {dict(codes)} in {time.perf_counter() - began:.0f} s, {evictions} evictions; budget {budget / 1e6:.0f} MB"
            f" (a model counts {expected / 1e6:.0f} MB), most ever taken {peak / 1e6:.0f} MB by {most} processes"
        )
        family = psutil.Process(server.process.pid).children(recursive=True)
    left = [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    print(f"churn: {len(left)} processes left after the server's end")


PARTS = {"cold": cold, "back": back, "abort": abort, "churn": churn}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
