"""What it costs to know where the time of requests went: in the worker, and on the server's loop.

    python -m tests.checks.measure_timeline

Prints microseconds: a step with 32 rows, passes over prompts beside them, the end of a request after a short and after
a long life, a token, and the row and detail of a request that ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple

from mlx_panel.engine.timeline import Timeline
from mlx_panel.http.ledger import Ledger
from mlx_panel.messages import Done, GenerateRequest, Stage, Text, Trace, Usage

ROWS = 32


class Row(NamedTuple):
    id: str


def cost(work: Callable[[], object], times: int, rounds: int = 5) -> float:
    """Microseconds of one call, the median of some rounds."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(times):
            work()
        found.append((time.perf_counter() - began) / times * 1e6)
    return median(found)


def worker() -> None:
    timeline = Timeline()
    rows = [Row(f"row-{number}") for number in range(ROWS)]
    for row in rows:
        timeline.began(row.id, time.monotonic())
    timeline.stepped(1, time.monotonic(), rows, joined=True)
    events = [Text(row.id, "x") for row in rows]

    def step() -> None:
        timeline.stepped(1, timeline.now(), rows, joined=False)
        timeline.ended(events)

    print(f"a step with {ROWS} rows: {cost(step, 20_000):.2f} µs")
    busy = [(row.id, 10) for row in rows[:4]]
    print(f"a pass over 4 prompts: {cost(lambda: timeline.passed(timeline.now(), busy), 5_000):.2f} µs")
    print(f"a request's end, beside {ROWS} others after a long time: {_end(timeline):.0f} µs")
    fresh = Timeline()
    for row in rows:
        fresh.began(row.id, time.monotonic())
    fresh.stepped(1, time.monotonic(), rows, joined=True)
    print(f"a request's end, beside {ROWS} others after a short time: {_end(fresh):.0f} µs")


def _end(timeline: Timeline) -> float:
    """The end of a request that lived from the beginning, with 2,000 passes and as many requests that came and went."""
    found = []
    long = len(timeline._entries) > 100
    for number in range(2_000 if long else 3):
        other = f"other-{number}"
        timeline.began(other, time.monotonic())
        timeline.passed(timeline.now(), [(other, 20)])
        timeline.stepped(
            1, timeline.now(), [*(Row(f"row-{one}") for one in range(ROWS)), Row(other)], joined=True
        )
        timeline.ended([Done(other, "stop", Usage())])
    for number in range(8):
        began = time.thread_time()
        timeline.ended([Done(f"row-{number}", "stop", Usage())])
        found.append((time.thread_time() - began) * 1e6)
    return median(found)


def server() -> None:
    ledger = Ledger(request_id="req_1", endpoint="/v1/chat/completions", dialect="openai", caller="127.0.0.1")
    now = time.monotonic()
    print(f"a token: {cost(lambda: ledger.heard(1, now), 200_000):.3f} µs")
    timeline = Timeline()
    timeline.began("one", time.monotonic(), ledger.passage.sent())
    for number in range(10):
        timeline.passed(timeline.now(), [("one", 100)])
        timeline.began(f"other-{number}", time.monotonic())
        timeline.passed(timeline.now(), [(f"other-{number}", 100)])
        timeline.stepped(1, timeline.now(), [Row("one"), Row(f"other-{number}")], joined=True)
    (trace,) = timeline.ended([Done("one", "stop", Usage())])
    ledger.passage.asked()
    ledger.loaded("model", 0.0, now)
    ledger.asks(GenerateRequest("one", "model"))
    for event in (
        Stage("one", "prefill", 5, 10),
        Text("one", "x"),
        Text("one", "y"),
        trace,
        Done("one", "stop", Usage(10, 0, 2)),
    ):
        ledger.saw(event)
    spans, others = len(trace.spans), len(trace.neighbours)
    print(
        f"the row of a request ({spans} spans, {others} neighbours): {cost(lambda: ledger.record(None, 200), 5_000):.2f} µs"
    )
    print(f"its detail: {cost(ledger.detail, 5_000):.2f} µs")
    ledger.passage.trace = Trace("one", trace.spans * 10, trace.neighbours)
    print(f"the row of one with {spans * 10} spans: {cost(lambda: ledger.record(None, 200), 2_000):.2f} µs")


if __name__ == "__main__":
    worker()
    server()
