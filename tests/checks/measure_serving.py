"""Measures a server on this machine: tokens per second, time to first token, loop lag, what a page load stalls.

    python -m tests.checks.measure_serving [--seconds 15] [--clients 1,8,32]

Not a test: machines differ. It serves the demo model (fetched once) through the released OpenAI client, and prints
the figures of docs/PERFORMANCE.md by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import openai

from ..browser import Visit, browser
from ..server import Running, environment, running, scripted

DEMO = "SmolLM2-135M-Instruct"
SERVE = ("-m", "mlx_panel", "serve")


class Client:
    """One caller who asks again and again, and the gaps between what it hears."""

    def __init__(self, server: Running, model: str, number: int, tokens: int):
        self.tokens, self.first, self.gaps = 0, [], []  # type: ignore[var-annotated]
        self._server, self._model, self._number, self._max = server, model, number, tokens

    async def run(self, client: openai.AsyncOpenAI, until: float) -> None:
        while time.monotonic() < until:
            await self._ask(client)

    async def _ask(self, client: openai.AsyncOpenAI) -> None:
        asked = last = time.monotonic()
        turn: Any = {"role": "user", "content": f"Write a story about the number {self._number}."}
        stream = await client.chat.completions.create(
            model=self._model, messages=[turn], max_tokens=self._max, temperature=0.7, top_p=0.9, stream=True, stream_options={"include_usage": True}
        )  # fmt: skip
        async for chunk in stream:
            now = time.monotonic()
            if chunk.usage:
                self.tokens += chunk.usage.completion_tokens
            elif chunk.choices and chunk.choices[0].delta.content:
                (self.gaps if last > asked else self.first).append(now - last)
                last = now


async def load(server: Running, model: str, clients: int, seconds: float, tokens: int) -> str:
    """Figures of so many clients at once for so long."""
    callers = [Client(server, model, number, tokens) for number in range(clients)]
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        began = time.monotonic()
        await asyncio.gather(*(caller.run(client, began + seconds) for caller in callers))
        took = time.monotonic() - began
    gaps = sorted(gap for caller in callers for gap in caller.gaps)
    first = statistics.median(one for caller in callers for one in caller.first)
    rate = sum(caller.tokens for caller in callers) / took
    return f"{clients:3d} clients: {rate:7.1f} tok/s, first token p50 {first * 1000:6.0f} ms, between tokens p50 {at(gaps, 0.5):6.1f} p99 {at(gaps, 0.99):6.1f} max {at(gaps, 1):6.1f} ms"


def at(values: list[float], part: float) -> float:
    """A percentile of sorted seconds, in milliseconds."""
    return values[min(len(values) - 1, int(len(values) * part))] * 1000


def lag(server: Running) -> float:
    """The server's own loop lag, p99 over ten seconds, in milliseconds."""
    with httpx.stream("GET", f"{server.url}/api/live", timeout=5) as stream:
        line = next(stream.iter_lines())
    return httpx.Response(200, content=line.removeprefix("data: ")).json()["now"]["loop_lag_ms"]


@contextlib.contextmanager
def pages(server: Running, count: int) -> Any:
    """So many open dashboards."""
    with browser() as chromium:
        visits = [Visit(chromium, f"{server.url}/") for _ in range(count)]
        yield visits
        for visit in visits:
            visit.close()


def watched(server: Running, model: str, clients: int, seconds: float, tokens: int) -> None:
    """Loop lag while clients stream and two dashboards are open, and what one more page load adds."""
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(asyncio.run, load(server, model, clients, seconds, tokens))
        time.sleep(seconds * 0.8)
        print(f"{clients:3d} streams, two dashboards: loop lag p99 {lag(server):.1f} ms")
        print("   ", work.result())
        work = pool.submit(asyncio.run, load(server, model, clients, seconds / 2, tokens))
        time.sleep(2)
        took = []
        for _ in range(5):
            began = time.monotonic()
            httpx.get(f"{server.url}/").raise_for_status()
            took.append(time.monotonic() - began)
            time.sleep(0.2)
        print(f"    while a page is loaded five times, {statistics.median(took) * 1000:.0f} ms each:")
        print("   ", work.result())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--clients", default="1,8,32")
    options = parser.parse_args()
    print(
        f"{platform.platform()}, {platform.processor() or platform.machine()}, Python {platform.python_version()}"
    )
    print(
        ", ".join(
            f"{name} {metadata.version(name)}" for name in ("mlx-panel", "mlx", "mlx-lm", "panel", "tornado")
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "mlx_panel", "models", "demo"], env=environment(Path(folder)), check=True
        )
        scripted(
            Path(folder),
            "paced",
            text="The quick brown fox jumps over the lazy dog.",
            repeat=200,
            step_seconds=0.02,
        )
        with running(Path(folder), command=SERVE, models=DEMO) as server:
            measure(server, options)


def measure(server: Running, options: argparse.Namespace) -> None:
    while server.client.get("/health").status_code != 200:
        time.sleep(0.1)
    print(
        f"{DEMO}, temperature 0.7, top_p 0.9, BLAS {server.client.get('/api/system').json()['blas']['name']}"
    )
    for clients in map(int, options.clients.split(",")):
        print(asyncio.run(load(server, DEMO, clients, options.seconds, 64)))
    print("A scripted model with a step of 20 ms, so that the server is what is measured:")
    print(asyncio.run(load(server, "paced", 32, options.seconds, 500)))
    with pages(server, 2):
        watched(server, "paced", 32, options.seconds, 500)


if __name__ == "__main__":
    main()
