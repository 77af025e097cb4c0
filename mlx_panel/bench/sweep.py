"""Many workloads on one target, one after the other, and the usual sets of them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from .drive import driving
from .records import BenchmarkError, Kind, Plan, Progress, Result, Workload, checked
from .results import new, with_run
from .wire import Moved

CONCURRENCY = (1, 2, 4, 8, 16, 32, 64)
SAMPLED = {"temperature": 0.7, "top_p": 0.9}
MIDDLE = 8

Report = Callable[[Progress], None]


def matrix(base: Workload, **axes: Sequence[Any]) -> tuple[Workload, ...]:
    """Every combination of some fields' values; the last axis moves fastest. Raises BenchmarkError for a bad value."""
    names = list(axes)
    rows = itertools.product(*axes.values())
    return tuple(checked(msgspec.structs.replace(base, **dict(zip(names, row, strict=True)))) for row in rows)


def standard(base: Workload | None = None) -> tuple[Workload, ...]:
    """The usual questions to a server: concurrency 1 to 64, and from its middle one thing changed at a time."""
    base = base or Workload()
    middle = msgspec.structs.replace(base, concurrency=MIDDLE)
    changes: list[dict[str, Any]] = [
        {"prompt_tokens": 16}, {"prompt_tokens": 512}, {"output_tokens": 16}, {"output_tokens": 256},
        SAMPLED, {**SAMPLED, "concurrency": 32}, {"shared_prefix": 0.9, "prompt_tokens": 512}, {"cancel": 0.25},
    ]  # fmt: skip
    return (
        *matrix(base, concurrency=CONCURRENCY),
        *(checked(msgspec.structs.replace(middle, **change)) for change in changes),
    )


async def sweep(
    plan: Plan,
    report: Report = lambda progress: None,
    *,
    key: str = "",
    command: str = "",
    kind: Kind = "sweep",
    say: Callable[[str], None] = lambda message: None,
) -> Result:
    """Measure each workload of a plan, which has at least one. `key` is the server's API key; it is kept nowhere.

    `report` hears of every step, with the runs that are done; whoever cancels this keeps the last. `say` hears what a
    server says of failed requests. Raises BenchmarkError where the target cannot be measured at all.
    """
    if not plan.workloads:
        raise BenchmarkError("There is no workload to measure.")
    result = await asyncio.to_thread(new, kind, command)
    async with driving(plan.target, plan.workloads[0], key) as driver:
        result = msgspec.structs.replace(result, targets=(driver.info,))
        steps = Steps(len(plan.workloads), report, result)
        for workload in plan.workloads:
            steps.begin(workload, result)
            measured = await driver.measure(workload, steps.move)
            result = with_run(result, measured.run)
            steps.end(result)
            for message in measured.messages:
                say(message)
    return msgspec.structs.replace(result, complete=True)


class Steps:
    """Turns what a load process tells into progress of the whole."""

    def __init__(self, steps: int, report: Report, result: Result):
        self._report = report
        self._label = ""
        self._now = Progress(
            step=0, steps=steps, label="", done=0, total=1, tokens_per_second=0.0, result=result
        )
        self._since: tuple[float, int] | None = None

    def __repr__(self) -> str:
        return f"<Steps {self._now.step} of {self._now.steps}>"

    def begin(self, workload: Workload, result: Result, label: str = "") -> None:
        """A run begins."""
        self._since = None
        self._tell(
            label=label or workload.label,
            done=0.0,
            total=float(workload.total or workload.duration),
            result=result,
            tokens_per_second=0.0,
        )

    def move(self, moved: Moved) -> None:
        """It goes on."""
        now = time.monotonic()
        began, before = self._since = self._since or (now, moved.tokens)
        rate = (moved.tokens - before) / (now - began) if now > began else 0.0
        self._tell(done=moved.done, total=moved.total, tokens_per_second=rate)

    def end(self, result: Result) -> None:
        """It is done, and in the result."""
        rate = result.runs[-1].summary.tokens_per_second
        self._tell(step=self._now.step + 1, done=0.0, result=result, tokens_per_second=rate)

    def _tell(self, **changes: Any) -> None:
        self._now = msgspec.structs.replace(self._now, **changes)
        self._report(self._now)
