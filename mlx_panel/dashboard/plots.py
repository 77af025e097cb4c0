"""Benchmark results as curves over concurrency: which series there are, and the Bokeh figures that draw them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import panel as pn
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, NumeralTickFormatter, Range1d
from bokeh.models.annotations import Title
from bokeh.plotting import figure

from ..bench import Result, Run
from ..bench.report import typical
from ..job import Level, level

# A colour for each series, alike on light and on dark; those of A are cold, those of B warm.
COLOURS = {
    "A": ("#0a86ad", "#3f63d6", "#159a86", "#7b61d1"),
    "B": ("#e0782f", "#d1478c", "#b98a00", "#c0504d"),
}
HEIGHT = 250
GREY = "#77838f"  # readable on white and on black: what is added later knows nothing of the page's theme
FIGURES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Throughput of all callers", "tok/s", ("tokens_per_second",)),
    ("First token: median, 95 % (dashed)", "ms", ("ttft_p50", "ttft_p95")),
    ("Between tokens: median, 95 % (dashed)", "ms", ("itl_p50", "itl_p95")),
)
DASHES = ("solid", "dashed")


class Series(NamedTuple):
    """Levels that differ in concurrency alone, in its order."""

    name: str
    colour: str
    levels: tuple[Level, ...]


def series(result: Result, letter: str) -> list[Series]:
    """A result's series. Of workloads measured more than once the round with the median speed counts."""
    groups: dict[str, list[Level]] = {}
    for place, target in enumerate(result.targets):
        for run in typical([run for run in result.runs if run.target == place]):
            words = run.workload.label.partition(" × ")[2] or run.workload.label
            name = f"{target.name}: {words}" if len(result.targets) > 1 else words
            groups.setdefault(name, []).append(
                msgspec.structs.replace(level(run), label=_label(result, place, run))
            )
    colours = COLOURS[letter]
    return [
        Series(name, colours[place % len(colours)], tuple(sorted(levels, key=_callers)))
        for place, (name, levels) in enumerate(groups.items())
    ]


def _label(result: Result, place: int, run: Run) -> str:
    """A run in a table and beside a point: with what was measured, where that is not the same for all."""
    several = len(result.targets) > 1
    return f"{result.targets[place].name}: {run.workload.label}" if several else run.workload.label


def panes(shown: Sequence[Series]) -> list[pn.pane.Bokeh]:
    """The series as figures, one a measure; none for no series.

    They are made anew each time: what is drawn already could only be changed where its document is locked.
    """
    if not shown:
        return []
    return [
        pn.pane.Bokeh(_figure(*spec, shown), sizing_mode="stretch_width", height=HEIGHT, margin=0)
        for spec in FIGURES
    ]


def _figure(title: str, unit: str, fields: tuple[str, ...], shown: Sequence[Series]) -> figure:
    """One measure over concurrency, with a line for each of its percentiles."""
    callers = sorted({level.concurrency for one in shown for level in one.levels})
    points = _points(unit, fields, shown)
    root = figure(
        title=Title(text=title, text_color=GREY), height=HEIGHT, sizing_mode="stretch_width", toolbar_location=None, tools="", min_border=4, outline_line_alpha=0,
        x_axis_type="log", x_range=Range1d(start=callers[0] / 1.2, end=callers[-1] * 1.2), x_axis_label="callers at once",
        y_range=Range1d(start=0, end=1.1 * max(points["y"], default=0) or 1), y_axis_label=unit,
        background_fill_alpha=0, border_fill_alpha=0,
    )  # fmt: skip
    lines = ColumnDataSource(_lines(fields, shown))
    root.multi_line("xs", "ys", color="colour", line_dash="dash", line_width=2, source=lines)
    dots = root.scatter("x", "y", color="colour", size=7, source=ColumnDataSource(points))
    root.add_tools(HoverTool(renderers=[dots], tooltips="@text"))
    _quiet(root, callers)
    return root


def _quiet(root: figure, callers: list[int]) -> None:
    """Ticks where something was measured, and little else."""
    root.xaxis.ticker = FixedTicker(ticks=callers)
    root.xaxis.formatter = NumeralTickFormatter(format="0")
    root.yaxis.formatter = NumeralTickFormatter(format="0,0.[0]")
    root.xgrid.grid_line_alpha = 0
    root.ygrid.grid_line_alpha, root.ygrid.grid_line_color = 0.3, GREY
    for axis in (*root.xaxis, *root.yaxis):
        axis.axis_line_alpha, axis.major_tick_line_alpha, axis.minor_tick_line_alpha = 0.25, 0.25, 0
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = axis.axis_line_color = GREY


def _lines(fields: tuple[str, ...], shown: Sequence[Series]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {"xs": [], "ys": [], "colour": [], "dash": []}
    for one in shown:
        for field, dash in zip(fields, DASHES, strict=False):
            known = [level for level in one.levels if getattr(level, field) is not None]
            found["xs"].append([level.concurrency for level in known])
            found["ys"].append([getattr(level, field) for level in known])
            found["colour"].append(one.colour)
            found["dash"].append(dash)
    return found


def _points(unit: str, fields: tuple[str, ...], shown: Sequence[Series]) -> dict[str, list[Any]]:
    rows = [
        (level.concurrency, value, one.colour, f"{level.label}: {_name(field)}{value:,.4g} {unit}")
        for one in shown
        for field in fields
        for level in one.levels
        if (value := getattr(level, field)) is not None
    ]
    return {name: [row[place] for row in rows] for place, name in enumerate(("x", "y", "colour", "text"))}


def _name(field: str) -> str:
    return {"p50": "median ", "p95": "95 % below "}.get(field.rpartition("_")[2], "")


def _callers(level: Level) -> int:
    return level.concurrency
