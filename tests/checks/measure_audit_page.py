"""Measures what opening the page Audit takes: until every chart is drawn, and what streams that run notice of it.

    python -m tests.checks.measure_audit_page --file audit.duckdb [--query '?range=30d'] [--rounds 5] [--streams 4]

Not a test: machines differ. A server runs on a copy of the file (`mlx-panel audit generate` makes one of any size).
Each round opens the page in a fresh browser context with every chart on screen, while scripted answers are streamed, a
piece each 20 ms. Told are: page asked for to document loaded; to every chart drawn; from the browser's first question to
the last chart drawn; and the longest gap between two pieces, with the page and without.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from playwright.sync_api import Browser

from ..browser import browser
from ..server import Running, running

SIZE = {"width": 1440, "height": 3600}  # all charts are on screen
# The cards of a page lie in shadow roots. Done when there are cards, and none waits for its answer.
DONE = """() => {
  const found = []
  const walk = (node) => {
    if (!node) return
    if (node.shadowRoot) walk(node.shadowRoot)
    for (const child of node.children || []) walk(child)
    if (node.matches?.("section.card")) found.push(node)
  }
  walk(document.body)
  return found.length >= 13 && found.every((card) => !card.hasAttribute("aria-busy")) ? performance.now() : null
}"""
LOADED = "() => performance.getEntriesByType('navigation')[0].loadEventEnd"


class Streams:
    """Answers that are being streamed, and the longest gap between two pieces of any of them."""

    def __init__(self, server: Running, number: int):
        self.longest = 0.0
        self._server, self._ends = server, threading.Event()
        self._threads = [threading.Thread(target=self._read, daemon=True) for _ in range(number)]

    def __enter__(self) -> Streams:
        for thread in self._threads:
            thread.start()
        time.sleep(1)
        self.longest = 0.0
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        body = {
            "model": "slow",
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": True,
            "max_tokens": 4000,
        }
        with httpx.Client(base_url=self._server.url, timeout=60) as client:
            while not self._ends.is_set():
                with client.stream("POST", "/v1/chat/completions", json=body) as response:
                    last = 0.0
                    for line in response.iter_lines():
                        if line.startswith("data:"):
                            now = time.perf_counter()
                            self.longest, last = max(self.longest, now - last if last else 0.0), now
                        if self._ends.is_set():
                            break


def opened(browser: Browser, url: str) -> tuple[float, float, float]:
    """Milliseconds from asking for the page: to its load, to the first question, to the last chart drawn."""
    context = browser.new_context(viewport=SIZE)  # type: ignore[arg-type]
    page, asked = context.new_page(), []
    page.on("websocket", lambda socket: socket.on("framesent", lambda data: _note(asked, data)))
    began = time.perf_counter()
    page.goto(url, wait_until="commit")
    drawn = page.wait_for_function(DONE, timeout=120_000, polling=20).json_value()
    loaded = page.evaluate(LOADED)
    context.close()
    return loaded, 1000 * (asked[0] - began), drawn


def _note(asked: list[float], data: str | bytes) -> None:
    if "see" in str(data) and "charts" in str(data):
        asked.append(time.perf_counter())


@contextlib.contextmanager
def server(file: Path) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(file, Path(name) / "audit.duckdb")
        with running(
            Path(name), audit_retention_days=0, audit_max_mb=0, command=("-m", "mlx_panel", "serve")
        ) as one:
            yield one


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--query", default="?range=30d")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=4)
    args = parser.parse_args()
    with server(args.file) as one, browser() as chrome:
        rows = one.client.get("/v1/admin/audit-logs", params={"limit": 1, "count": "true"}).json()["total"]
        with Streams(one, args.streams) as streams:
            time.sleep(5)
        alone, gaps, times = streams.longest, [], []
        for _ in range(args.rounds):
            with Streams(one, args.streams) as streams:
                times.append(opened(chrome, f"{one.url}/audit{args.query}"))
            gaps.append(streams.longest)
    loaded, asked, drawn = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{rows:,} rows, {args.query}, {args.streams} streams, median of {args.rounds}:")
    print(
        f"document loaded {loaded:.0f} ms, charts asked for {asked:.0f} ms, all drawn {drawn:.0f} ms ({drawn - asked:.0f} ms after)"
    )
    print(
        f"longest gap between pieces: {1000 * statistics.median(gaps):.0f} ms with the page, {1000 * alone:.0f} ms without"
    )


if __name__ == "__main__":
    main()
