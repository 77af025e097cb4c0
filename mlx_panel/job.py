"""The server's benchmarks in structs: what is asked for, how far it is, and what is stored, each in one line or one point."""

from __future__ import annotations

import math
import shlex
from datetime import datetime
from typing import Annotated, Literal, NamedTuple

import msgspec

from .bench import Progress, Result, Run, Workload, matrix

JobState = Literal["running", "done", "cancelled", "failed"]
Callers = Annotated[int, msgspec.Meta(ge=1, le=512)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep over concurrency measures; see `bench.Workload` for the words.

    `requests` is how many each level sends, 0 for twice the callers and at least 8.
    """

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    concurrency: Annotated[tuple[Callers, ...], msgspec.Meta(min_length=1, max_length=16)] = (1, 4, 16)
    prompt_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 128
    output_tokens: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 64
    requests: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 0
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    shared_prefix: Share = 0.0
    cancel: Share = 0.0

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """One a level, fewest callers first."""
        names = (
            "prompt_tokens",
            "output_tokens",
            "requests",
            "temperature",
            "top_p",
            "shared_prefix",
            "cancel",
        )
        base = Workload(**{name: getattr(self, name) for name in names})
        return matrix(base, concurrency=sorted(set(self.concurrency)))

    def command(self, url: str) -> str:
        """The command line that measures the same."""
        levels = ",".join(map(str, sorted(set(self.concurrency))))
        words = ["mlx-benchmark", "sweep", "--url", url, "--model", self.model, "--concurrency", levels]
        words += ["--prompt-tokens", str(self.prompt_tokens), "--output-tokens", str(self.output_tokens)]
        words += ["--sampling", f"{self.temperature:g}:{self.top_p:g}"] if self.temperature else []
        for flag in ("shared_prefix", "cancel", "requests"):
            value = getattr(self, flag)
            words += [f"--{flag.replace('_', '-')}", f"{value:g}"] if value else []
        return shlex.join(words)


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """A measured workload in the figures that are plotted. Times are milliseconds, None where nothing was measured."""

    label: str
    concurrency: int
    requests: int
    failed: int
    tokens_per_second: float
    ttft_p50: float | None
    ttft_p95: float | None
    itl_p50: float | None
    itl_p95: float | None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The benchmark that runs, or the last one that did.

    `step` of `steps` levels are measured, of the present one, `label`, `done` of `total` requests are answered.
    `fraction` (0 to 1) estimates the share of the time that is over, `seconds_left` the rest, None when it is not
    known. `result` is the id under which its levels were stored, empty before that and where nothing was measured.
    """

    order: Order
    state: JobState = "running"
    started: datetime
    step: int = 0
    steps: int = 0
    label: str = ""
    done: int = 0
    total: int = 0
    tokens_per_second: float = 0.0
    fraction: float = 0.0
    seconds_left: float | None = None
    levels: tuple[Level, ...] = ()
    result: str = ""
    error: str = ""


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A stored result in one line. `id` is its file's name; `best` the highest tokens per second, at `best_at` callers.

    `requests` and `failed` count over all its runs.
    """

    id: str
    kind: str
    created: datetime
    complete: bool
    models: tuple[str, ...]
    targets: tuple[str, ...]
    machine: str
    versions: dict[str, str]
    workloads: tuple[str, ...]
    best: float
    best_at: int
    requests: int
    failed: int


class Shelved(NamedTuple):
    """All stored results, newest first, and for each file that is none a line that says why."""

    benchmarks: list[Stored]
    skipped: list[str]


def share(workloads: tuple[Workload, ...], progress: Progress) -> float:
    """How much of the time is over, estimated: a level's rounds take longer the more callers it has, by a root of them."""
    weights = [workload.total / math.sqrt(workload.concurrency) for workload in workloads]
    part = weights[progress.step] * progress.done / progress.total if progress.step < len(weights) else 0.0
    return min(1.0, (sum(weights[: progress.step]) + part) / sum(weights))


def level(run: Run) -> Level:
    """A run in the figures that are plotted."""
    summary = run.summary
    return Level(
        label=run.workload.label, concurrency=run.workload.concurrency, requests=summary.requests,
        failed=summary.failed, tokens_per_second=summary.tokens_per_second, ttft_p50=summary.ttft.p50,
        ttft_p95=summary.ttft.p95, itl_p50=summary.itl.p50, itl_p95=summary.itl.p95,
    )  # fmt: skip


def stored(result: Result, id: str = "") -> Stored:
    """A result in one line, under its file's name."""
    runs = result.measured
    best = max(runs, key=lambda run: run.summary.tokens_per_second, default=None)
    machine = (result.machine.cpu, f"{result.machine.cores} cores", result.machine.system)
    return Stored(
        id=id or result.id, kind=result.kind, created=result.created, complete=result.complete,
        models=tuple(dict.fromkeys(target.model for target in result.targets)),
        targets=tuple(target.name for target in result.targets), machine=", ".join(filter(None, machine)),
        versions={**result.versions, **(result.targets[0].versions if result.targets else {})},
        workloads=tuple(dict.fromkeys(run.workload.label for run in result.runs)),
        best=best.summary.tokens_per_second if best else 0.0, best_at=best.workload.concurrency if best else 0,
        requests=sum(run.summary.requests for run in runs),
        failed=sum(run.summary.failed for run in runs),
    )  # fmt: skip
