"""A sweep of the server over concurrency, and what stored ones found: start, follow, plot, compare."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import panel as pn
import param

from ..bench import Ratio, Result, TargetInfo, compare_results
from ..bench.columns import notes
from ..errors import InvalidParameter
from ..job import Order
from ..snapshot import Sample, Snapshot
from .assets import module
from .plots import Series, panes, series
from .source import Source
from .watching import Face, Watching

LETTERS = "AB"
PAPER = "var(--mui-palette-background-paper, var(--jp-layout-color1, Canvas))"
EDGE = "var(--mui-palette-divider, var(--jp-border-color2, #8884))"
CARD = {
    "display": "grid", "grid-template-columns": "repeat(auto-fit, minmax(min(100%, 330px), 1fr))", "gap": "8px 16px",
    "padding": "12px 14px 6px", "background": PAPER, "border": f"1px solid {EDGE}", "border-radius": "12px",
}  # fmt: skip
NOTHING = {"display": "none"}
PLAIN = ".scroll-button { display: none; }"  # it would take a place in the grid


class BenchmarksView(Face):
    """The browser's half of `Benchmarks`. It asks for the job again when `news` has grown."""

    models = param.List(default=[], doc="`id` and `state` of each model.")
    news = param.Integer(default=-1, doc="The snapshot's `benchmark_changes`.")
    job = param.Dict(default={}, doc="The `Job` that runs or ran last; empty where there is none.")
    stored = param.List(default=None, allow_None=True, doc="`Stored` lines; None before the first answer.")
    skipped = param.List(default=[], doc="Files that could not be read, a line each.")
    chosen = param.List(default=[], doc="Ids of the results that are shown, at most two: A and B.")
    shown = param.Dict(default={}, doc="What is shown of them: `results` and `ratios`.")
    busy = param.Boolean(default=False, doc="Whether Start, Cancel or Delete is under way.")
    file = param.Dict(default={}, doc="A result to be saved by the browser: `name`, `text`, `count`.")

    _esm = module("benchmarks")


class ResultsView(pn.custom.JSComponent):
    """The tables below the figures."""

    shown = param.Dict(default={}, doc="As in `BenchmarksView`.")

    _esm = module("results")


class Benchmarks(Watching):
    """One benchmark at a time runs on the server; it goes on without anybody looking, and all who look see the same."""

    view: BenchmarksView

    def __init__(self, source: Source):
        super().__init__(source, BenchmarksView(sizing_mode="stretch_width"))
        self.plots = pn.Column(
            pn.Spacer(), styles=NOTHING, stylesheets=[PLAIN], sizing_mode="stretch_width", margin=(16, 0)
        )
        self.results = ResultsView(sizing_mode="stretch_width")
        self._layout = pn.Column(self.view, self.plots, self.results, sizing_mode="stretch_width")
        self._results: dict[str, Result] = {}

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def refresh(self) -> None:
        super().refresh()
        self.work(self._ask)

    def take(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        models = [{"id": model.id, "state": model.state} for model in snapshot.models]
        self.view.param.update(models=models, news=snapshot.benchmark_changes)

    def act(self, message: dict[str, Any]) -> None:
        match message:
            case {"do": "ask"}:
                self.work(self._ask)
            case {"do": "start", "order": order}:
                self.work(partial(self._busy, partial(self._start, order)))
            case {"do": "cancel"}:
                self.work(partial(self._busy, self._cancel))
            case {"do": "delete", "id": str(id)}:
                self.work(partial(self._busy, partial(self._delete, id)))
            case {"do": "choose", "ids": list(ids)}:
                self.work(partial(self._show, [id for id in ids if isinstance(id, str)], {}))
            case {"do": "download", "id": str(id)}:
                self.work(partial(self._download, id))

    async def _ask(self) -> None:
        """Look at the job, and at what is stored unless one runs."""
        job = await self.source.benchmark_job()
        running = job is not None and job.state == "running"
        new = [job.result] if job and job.result and self.view.job.get("state") == "running" else []
        values: dict[str, Any] = {"job": {} if job is None else msgspec.to_builtins(job), "notice": {}}
        wanted = new or list(self.view.chosen)
        if not running or self.view.stored is None:
            found = await self.source.benchmarks()
            values |= {"stored": msgspec.to_builtins(found.benchmarks), "skipped": list(found.skipped)}
            there = [one.id for one in found.benchmarks]
            wanted = [id for id in wanted if id in there] or there[:1]
        await self._show(wanted, values)

    async def _start(self, order: Any) -> None:
        try:
            wanted = msgspec.convert(order, Order)
        except msgspec.ValidationError as error:
            raise InvalidParameter(f"This benchmark cannot be run: {error}.") from error
        self.view.param.update(job=msgspec.to_builtins(await self.source.start_benchmark(wanted)), notice={})

    async def _cancel(self) -> None:
        await self.source.cancel_benchmark()
        await self._ask()

    async def _delete(self, id: str) -> None:
        await self.source.delete_benchmark(id)
        await self._ask()

    async def _download(self, id: str) -> None:
        text = msgspec.json.encode(await self.source.benchmark(id)).decode()
        count = self.view.file.get("count", 0) + 1
        self.view.file = {"name": f"{id}.json", "text": text, "count": count}

    async def _busy(self, work: Any) -> None:
        self.view.busy = True
        try:
            await work()
        finally:
            self.view.busy = False

    async def _show(self, ids: list[str], values: dict[str, Any]) -> None:
        """Show one result, or two beside each other, and put `values` into the view.

        All at once: of changes that follow each other closely Panel 1.9 loses some where figures are among them.
        """
        ids = list(dict.fromkeys(ids))[:2]
        draw: Any
        if ids == self.view.chosen:
            draw = partial(self.view.param.update, **values)
        else:
            draw = partial(self._draw, [await self._result(id) for id in ids], {**values, "chosen": ids})
        pn.state.execute(draw, schedule=True)

    def _draw(self, results: list[Result], values: dict[str, Any]) -> None:
        curves = [series(result, letter) for result, letter in zip(results, LETTERS, strict=False)]
        shown = {
            "results": [
                _summary(result, lines, letter)
                for result, lines, letter in zip(results, curves, LETTERS, strict=False)
            ],
            "ratios": _ratios(compare_results(*results)) if len(results) == 2 else [],
        }
        figures = panes([line for lines in curves for line in lines])
        with pn.io.unlocked():
            self.view.param.update(shown=shown, **values)
            self.plots.param.update(objects=figures or [pn.Spacer()], styles=CARD if figures else NOTHING)
            self.results.shown = shown

    async def _result(self, id: str) -> Result:
        """A result without its requests; it never changes, so it is asked for once."""
        if id not in self._results:
            result = await self.source.benchmark(id)
            runs = tuple(msgspec.structs.replace(run, rows=()) for run in result.runs)
            self._results[id] = msgspec.structs.replace(result, runs=runs)
        return self._results[id]


def _summary(result: Result, lines: list[Series], letter: str) -> dict[str, Any]:
    """What a page shows of a result."""
    return {
        "letter": letter,
        "id": result.id,
        "command": result.command,
        "titles": [_title(target) for target in result.targets],
        "notes": notes(result),
        "series": [
            {"name": line.name, "colour": line.colour, "levels": msgspec.to_builtins(line.levels)}
            for line in lines
        ],
    }


def _title(target: TargetInfo) -> str:
    shape = " ".join(filter(None, (target.architecture, target.dtype)))
    words = (target.model, shape, target.device, target.blas, target.server, target.url)
    return ", ".join(filter(None, words))


def _ratios(found: tuple[Ratio, ...]) -> list[dict[str, Any]]:
    """A over B, a row a workload: `workload`, and `cells` in the order of the figures."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for ratio in found:
        rows.setdefault(ratio.workload, []).append(msgspec.to_builtins(ratio))
    return [{"workload": workload, "cells": cells} for workload, cells in rows.items()]
