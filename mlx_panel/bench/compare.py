"""Two targets, or two results: the same workloads on both, and ratios with their spread."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

import msgspec

from .drive import driving
from .figures import percentile
from .load import salted
from .records import BenchmarkError, Better, Ratio, Result, Run, Summary, Target, Workload
from .results import new, with_run
from .sweep import Report, Steps

DRAWS = 2000
FEWEST_ROUNDS = 5
SURE = (0.025, 0.975)


class Metric(NamedTuple):
    """A figure that is compared; `of` is None where a run did not measure it."""

    name: str
    better: Better
    of: Callable[[Summary], float | None]


METRICS = (
    Metric("tokens/s", "higher", lambda summary: summary.tokens_per_second),
    Metric("TTFT p50", "lower", lambda summary: summary.ttft.p50),
    Metric("TTFT p95", "lower", lambda summary: summary.ttft.p95),
    Metric("ITL p50", "lower", lambda summary: summary.itl.p50),
    Metric("ITL p95", "lower", lambda summary: summary.itl.p95),
    Metric("TPOT p50", "lower", lambda summary: summary.tpot.p50),
    Metric("E2E p50", "lower", lambda summary: summary.e2e.p50),
)

Pair = tuple[Summary, Summary]


async def compare(
    a: Target,
    b: Target,
    workloads: Sequence[Workload],
    report: Report = lambda progress: None,
    *,
    rounds: int = 5,
    keys: tuple[str, str] = ("", ""),
    command: str = "",
    say: Callable[[str], None] = lambda message: None,
) -> Result:
    """Measure both in turns: AB, BA, AB, …, so that a machine that grows warm or busy favours neither.

    In a round both get the same prompts; only one works at a time. Raises BenchmarkError as `sweep` does.
    """
    if not workloads:
        raise BenchmarkError("There is no workload to measure.")
    result = await asyncio.to_thread(new, "compare", command)
    async with contextlib.AsyncExitStack() as stack:
        drivers = [
            await stack.enter_async_context(driving(target, workloads[0], key))
            for target, key in zip((a, b), keys, strict=True)
        ]
        result = msgspec.structs.replace(result, targets=tuple(driver.info for driver in drivers))
        steps = Steps(2 * rounds * len(workloads), report, result)
        for round, workload, place in turns(workloads, rounds):
            steps.begin(workload, result, f"round {round + 1} {'AB'[place]} {workload.label}")
            measured = await drivers[place].measure(workload, steps.move)
            run = msgspec.structs.replace(measured.run, target=place, round=round)
            result = with_run(result, run)
            result = msgspec.structs.replace(result, ratios=ratios(result.runs))
            steps.end(result)
            for message in measured.messages:
                say(f"{'AB'[place]}: {message}")
    return msgspec.structs.replace(result, complete=True)


def turns(workloads: Sequence[Workload], rounds: int) -> Iterator[tuple[int, Workload, int]]:
    """Round, workload and whose turn it is. A round's workload has one salt and one seed for both."""
    for round in range(rounds):
        for workload in workloads:
            same = salted(msgspec.structs.replace(workload, seed=workload.seed + round))
            for place in (0, 1) if round % 2 == 0 else (1, 0):
                yield round, same, place


def compare_results(a: Result, b: Result) -> tuple[Ratio, ...]:
    """Ratios between two results: runs of like workloads, the first of A with the first of B, and so on."""
    first = [msgspec.structs.replace(run, target=0) for run in a.measured]
    second = [msgspec.structs.replace(run, target=1) for run in b.measured]
    return ratios([*first, *second])


def ratios(runs: Iterable[Run]) -> tuple[Ratio, ...]:
    """A over B for every workload that both have, figure by figure. Runs in which nothing succeeded are left out."""
    found = []
    for label, pairs in _pairs(list(runs)):
        for metric in METRICS:
            ratio = _ratio(label, metric, pairs)
            if ratio is not None:
                found.append(ratio)
    return tuple(found)


def _pairs(runs: list[Run]) -> Iterator[tuple[str, list[Pair]]]:
    """For each workload its label and the summaries of A and B, round by round."""
    kinds: list[Workload] = []
    for run in runs:
        if not any(run.workload.same_as(kind) for kind in kinds):
            kinds.append(run.workload)
    for kind in kinds:
        mine = [run for run in runs if run.workload.same_as(kind) and run.summary.succeeded]
        sides = [sorted((run for run in mine if run.target == place), key=_when) for place in (0, 1)]
        pairs = [(a.summary, b.summary) for a, b in zip(*sides, strict=False)]
        if pairs:
            yield kind.label, pairs


def _when(run: Run) -> int:
    return run.round


def _ratio(label: str, metric: Metric, pairs: Sequence[Pair]) -> Ratio | None:
    values = [(metric.of(a), metric.of(b)) for a, b in pairs]
    known = [(a, b) for a, b in values if a is not None and b]
    if not known:
        return None
    quotients = [a / b for a, b in known]
    low, high = interval(quotients) if len(quotients) >= FEWEST_ROUNDS else (None, None)
    return Ratio(
        workload=label, metric=metric.name, better=metric.better, a=round(median(a for a, _ in known), 3),
        b=round(median(b for _, b in known), 3), median=round(median(quotients), 4),
        low=round(min(quotients), 4), high=round(max(quotients), 4), rounds=len(quotients),
        sure_low=low, sure_high=high,
    )  # fmt: skip


def interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the median by the percentile bootstrap (Efron 1979, "Bootstrap Methods"), always the same draws."""
    draws = random.Random(0)
    medians = sorted(median(draws.choices(values, k=len(values))) for _ in range(DRAWS))
    low, high = (round(percentile(medians, part), 4) for part in SURE)
    return low, high
