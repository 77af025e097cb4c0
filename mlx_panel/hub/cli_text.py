"""How `mlx-panel models` shows things: sizes, times, tables, bars."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from ..chat import printable
from ..library import HubModel, LibraryModel, Verdict

PLAIN_WIDTH = 160
STAGES = {"download": "Downloading", "weights": "Writing weights"}
FITS: dict[Verdict, Text] = {
    "fits": Text("yes", "green"),
    "evicts": Text("evicts", "yellow"),
    "too_large": Text("no", "red"),
    "unknown": Text("?", "dim"),
}
SPANS = ((86400 * 365, "year"), (86400 * 30, "month"), (86400, "day"), (3600, "hour"), (60, "minute"))


def console(*, stderr: bool = False) -> Console:
    """As wide as the terminal; where there is none, wide enough that no row is broken."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PLAIN_WIDTH, highlight=False)


def size(count: int) -> str:
    return (
        f"{count / 1e9:.2f} GB"
        if count >= 1e9
        else f"{count / 1e6:.0f} MB"
        if count >= 1e6
        else f"{count / 1e3:.0f} kB"
    )


def ago(when: float | None) -> str:
    """How long a time is past, in one unit."""
    if when is None:
        return "never"
    passed = time.time() - when
    for seconds, name in SPANS:
        if passed >= seconds:
            count = int(passed // seconds)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def many(count: int) -> str:
    """A count in three digits: 12.3k."""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= scale:
            digits = ".0f" if count >= 100 * scale else ".3g"
            return f"{count / scale:{digits}}{unit}"
    return str(count)


def hits_table(models: tuple[HubModel, ...]) -> Table:
    table = _table(("Model", "fold"), ("Kind", ""), ("Can", ""))
    for title in ("Bits", "Size", "Fits", "Downloads"):
        table.add_column(title, justify="right", no_wrap=True)
    for model in models:
        name = (
            Text(printable(model.id))
            + Text(" here" * model.local, "green")
            + Text(" gated" * bool(model.gated), "yellow")
        )
        weight = ("~" * model.estimated + size(model.bytes)) if model.bytes else "?"
        table.add_row(
            name, Text(printable(model.architecture)), ", ".join(model.capabilities), str(model.bits or "?"), weight,
            FITS[model.verdict], many(model.downloads),
        )  # fmt: skip
    return table


def local_table(models: list[LibraryModel]) -> Table:
    table = _table(("Model", "fold"), ("Kind", ""), ("Can", ""), ("Weights", ""))
    for title in ("Size", "Context", "Last used"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("State", "Where"):
        table.add_column(title, no_wrap=True)
    for model in models:
        can = model.capabilities
        context = f"{can.context_length:,}" if can.context_length else ""
        state = Text(model.state) if model.complete else Text("incomplete", "red")
        table.add_row(
            Text(model.id), Text(printable(can.architecture)), ", ".join(can.kinds), Text(printable(model.dtype)), size(model.bytes), context,
            ago(model.last_used), state, model.source,
        )  # fmt: skip
    return table


def facts(rows: list[tuple[str, str]]) -> Table:
    """Two columns without a head; rows that say nothing are left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        if text:
            table.add_row(name, Text(printable(text)))
    return table


def _table(*columns: tuple[str, str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title, overflow in columns:
        if overflow:
            table.add_column(title, overflow="fold")
        else:
            table.add_column(title, no_wrap=True)
    return table


class Bars(Protocol):
    """Where progress goes: a step, how far it is and of how much; `total` 0 is not known."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


@contextmanager
def progress(*, steps: bool = False, speed: bool = False) -> Iterator[Bars]:
    """Bars on a terminal, else a line a quarter; of bytes, or of `steps`."""
    if not sys.stderr.isatty():
        yield Lines(steps)
        return
    counts = (MofNCompleteColumn(),) if steps else (DownloadColumn(),)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        *counts,
        *([TransferSpeedColumn()] if speed else []),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True)) as bars:
        yield Drawn(bars)


class Drawn:
    """One bar a stage."""

    def __init__(self, bars: Progress):
        self.bars = bars
        self.tasks: dict[str, TaskID] = {}

    def __repr__(self) -> str:
        return f"<Drawn {list(self.tasks)}>"

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.bars.add_task(STAGES.get(stage, stage), total=total or None)
        self.bars.update(self.tasks[stage], completed=done, total=total or None)


class Lines:
    """A line when a stage has begun, and when it has come a quarter further."""

    def __init__(self, steps: bool = False):
        self.told: dict[str, int] = {}
        self._steps = steps

    def __repr__(self) -> str:
        return f"<Lines {self.told}>"

    def __call__(self, stage: str, done: int, total: int) -> None:
        quarter = 4 * done // max(total, 1)
        if quarter > self.told.get(stage, 0 if total else -1):
            self.told[stage] = quarter
            print(f"{STAGES.get(stage, stage)}{self._much(done, total)}", file=sys.stderr, flush=True)

    def _much(self, done: int, total: int) -> str:
        if not total:
            return ""
        return f": {done} of {total}" if self._steps else f": {size(done)} of {size(total)}"
