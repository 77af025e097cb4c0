"""Results on a terminal: tables, a chart of text, and progress."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from . import columns, replay_tables
from .records import Progress, Result, Run
from .report import typical
from .sweep import Report

PLAIN_WIDTH = 200
CHART_WIDTH = 50


def console(*, stderr: bool = False) -> Console:
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if terminal else PLAIN_WIDTH, highlight=False, markup=False)


def show(result: Result, out: Console) -> None:
    """All of a result a person wants to see."""
    out.print(columns.machine_line(result.machine))
    for line in columns.titles(result):
        out.print(line)
    for place in range(len(result.targets)):
        runs = typical([run for run in result.runs if run.target == place])
        if runs:
            out.print(
                _table(
                    f"{columns.name(result, place)}. {columns.UNITS}",
                    columns.HEADERS,
                    map(columns.cells, runs),
                )
            )
    if result.kind == "replay" and len(result.runs) > 1:
        out.print(_table("Then and now", replay_tables.headers(result), iter(replay_tables.rows(result))))
        for line in replay_tables.closing(result):
            out.print(line)
    if result.ratios:
        ratios = map(columns.ratio_cells, result.ratios)
        out.print(_table("A over B", columns.RATIO_HEADERS, ratios))
    if len(result.targets) == 1:
        for line in chart(result.runs):
            out.print(line)
    for note in columns.notes(result):
        out.print(f"! {note}")


def chart(runs: Sequence[Run]) -> list[str]:
    """Tokens per second against concurrency as bars of text, for runs that differ in concurrency; else nothing."""
    if len({run.workload.concurrency for run in runs}) < 2:
        return []
    most = max(run.summary.tokens_per_second for run in runs)
    width = max(len(run.workload.label) for run in runs)
    lines = ["Tokens/s, all callers together"]
    for run in runs:
        speed = run.summary.tokens_per_second
        bar = "█" * (round(CHART_WIDTH * speed / most) if most else 0)
        lines.append(f"{run.workload.label:<{width}} {bar} {speed:,.1f}")
    return lines


@contextmanager
def progress(quiet: bool) -> Iterator[Report]:
    """Where progress is told: bars on a terminal, a line a run elsewhere, nothing where it is not wanted."""
    if quiet:
        yield lambda progress: None
    elif not sys.stderr.isatty():
        yield Lines()
    else:
        parts = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        with Bars(*parts, console=console(stderr=True)) as bars:
            yield Bar(bars)


class Bar:
    """One bar for the whole."""

    def __init__(self, bars: Bars):
        self._bars = bars
        self._task: TaskID = bars.add_task("Starting", total=1.0, speed="")

    def __call__(self, now: Progress) -> None:
        speed = f"{now.tokens_per_second:,.0f} tok/s" if now.tokens_per_second else ""
        text = f"{min(now.step + 1, now.steps)}/{now.steps} {now.label}"
        self._bars.update(self._task, completed=now.fraction, description=text, speed=speed)


class Lines:
    """A line when a run is done."""

    def __init__(self) -> None:
        self._step = 0

    def __call__(self, now: Progress) -> None:
        if now.step > self._step:
            self._step = now.step
            speed = f"{now.tokens_per_second:,.1f} tok/s"
            print(f"{now.step} of {now.steps}: {now.label}: {speed}", file=sys.stderr, flush=True)


def _table(title: str, headers: Sequence[str], rows: Iterator[list[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for place, header in enumerate(headers):
        table.add_column(header, justify="left" if place == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
