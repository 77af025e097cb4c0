"""A request's waterfall as a Bokeh figure: a lane a kind, and below them those who were there at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bokeh.models import (
    ColumnDataSource,
    CustomJS,
    FactorRange,
    HoverTool,
    NumeralTickFormatter,
    Range1d,
    TapTool,
)
from bokeh.models.annotations import Title
from bokeh.plotting import figure

from ..analytics import Beside, RequestView
from ..audit.shares import seconds, short
from ..record import Neighbour, Span
from .plots import GREY

# Told apart without red and green (after Okabe and Ito), and seen on white and on black.
COLOURS = {
    "queue": "#8d99a6", "load": "#cc79a7", "tokenise": "#56b4e9", "restore": "#16a085", "prefill": "#2f7ed8",
    "others": "#e0601c", "wait": "#e0a018", "decode": "#8e6bd1", "send": "#b3a125", "other": "#c3cad1",
}  # fmt: skip
NAMES = {
    "queue": "queue", "load": "load", "tokenise": "tokenise", "restore": "cache restore", "prefill": "prefill",
    "others": "others' prefill", "wait": "others' steps", "decode": "decode", "send": "client", "other": "server",
}  # fmt: skip
LANES = ("queue", "load", "tokenise", "restore", "prefill", "wait", "decode", "send")
NEIGHBOURS = 12  # that are drawn
LANE, EDGES = 26, 96  # pixels: a lane, and what is around all of them
# The page of a neighbour: the same address with another id. Nothing is selected afterwards.
OPEN = """
const id = source.data.id[source.selected.indices[0]]
source.selected.indices = []
if (id == null || id <= 0) return
const place = new URL(location.href)
place.searchParams.set("id", id)
location.assign(place)
"""
TOOLTIP = """<div style="max-width: 320px; font: 13px system-ui, sans-serif; padding: 2px">
<b>@title</b><br>from @from_s{0,0.000} s to @to_s{0,0.000} s: <b>@ms{0,0.0} ms</b><br>@words</div>"""


def waterfall(view: RequestView, *, linked: bool) -> figure | None:
    """Time from arrival in seconds; None for a request of which no time is known. `linked`: a click opens a neighbour."""
    if not view.spans:
        return None
    rows = [*_own(view), *_others(view)]
    lanes = list(dict.fromkeys(row["lane"] for row in sorted(rows, key=lambda row: row["place"])))
    end = max(view.record.duration_ms, *(1000 * row["to_s"] for row in rows)) / 1000
    root = figure(
        height=EDGES + LANE * len(lanes), sizing_mode="stretch_width", tools="xbox_zoom,xpan,reset", toolbar_location="above",
        x_range=Range1d(start=0, end=1.01 * end, bounds=(0, 1.05 * end)), y_range=FactorRange(*reversed(lanes)),
        x_axis_label="seconds since arrival", min_border=4, outline_line_alpha=0, background_fill_alpha=0,
        border_fill_alpha=0, name="waterfall",
    )  # fmt: skip
    source = ColumnDataSource({name: [row[name] for row in rows] for name in rows[0]})
    bars = root.hbar(
        y="lane", left="from_s", right="to_s", height=0.7, color="colour", line_width=1, fill_alpha="alpha", source=source,
        hover_line_color=GREY, nonselection_fill_alpha="alpha", nonselection_line_alpha=1,
    )  # fmt: skip
    root.add_tools(HoverTool(renderers=[bars], tooltips=TOOLTIP, point_policy="follow_mouse"))
    if linked:
        source.selected.js_on_change("indices", CustomJS(args={"source": source}, code=OPEN))
        root.add_tools(TapTool(renderers=[bars]))
    root.add_layout(Title(text="Where its time went", text_color=GREY), "above")
    root.toolbar.logo = None
    _quiet(root)
    return root


def _own(view: RequestView) -> Iterable[dict[str, Any]]:
    for span in view.spans:
        who = _blamed(span, view.beside) if span.kind == "wait" else None
        kind = "others" if who is not None else span.kind
        words = [f"{span.tokens:,} tokens"] if span.tokens else []
        words += [f"for request {short(who.request_id)}'s prompt"] if who is not None else []
        yield _row(
            span,
            NAMES[span.kind] if span.kind != "wait" else "waiting",
            kind,
            LANES.index(span.kind),
            words,
            who,
        )


def _others(view: RequestView) -> Iterable[dict[str, Any]]:
    shared = {one.request_id: one for one in view.neighbours}
    for number, beside in enumerate(view.beside[:NEIGHBOURS]):
        words = told(shared[beside.request_id]) if beside.request_id in shared else []
        for span in beside.spans:
            if span.kind in ("prefill", "restore", "decode"):
                lane = f"{short(beside.request_id)} ›"
                yield _row(
                    span, lane, span.kind, len(LANES) + number, [NAMES[span.kind], *words], beside, alpha=0.55
                )


def told(one: Neighbour) -> list[str]:
    """What two requests had to do with each other, in words."""
    words = [f"its prompt was waited for {seconds(one.prefill_ms)}"] if one.prefill_ms else []
    plural = "" if one.steps == 1 else "s"
    return words + (
        [f"{one.steps:,} decode step{plural} shared ({seconds(one.decode_ms)})"] if one.steps else []
    )


def _row(
    span: Span, lane: str, kind: str, place: int, words: list[str], who: Beside | None, *, alpha: float = 0.9
) -> dict[str, Any]:
    return {
        "lane": lane, "place": place, "from_s": span.at_ms / 1000, "to_s": (span.at_ms + span.ms) / 1000, "ms": span.ms,
        "colour": COLOURS[kind], "alpha": alpha, "title": lane, "words": ", ".join(words), "id": who.id if who is not None else 0,
    }  # fmt: skip


def _blamed(span: Span, beside: Sequence[Beside]) -> Beside | None:
    """The neighbour whose prompt was in work for most of a wait; None where other answers were."""
    found = [(_overlap(span, one), one) for one in beside]
    if not found:
        return None
    most, who = max(found, key=lambda pair: pair[0])
    return who if most > 0.5 * span.ms else None


def _overlap(span: Span, other: Beside) -> float:
    """Milliseconds of a span in which another request's prompt was in work."""
    end = span.at_ms + span.ms
    return sum(
        max(0.0, min(end, one.at_ms + one.ms) - max(span.at_ms, one.at_ms))
        for one in other.spans
        if one.kind in ("prefill", "restore")
    )


def _quiet(root: figure) -> None:
    root.xaxis.formatter = NumeralTickFormatter(format="0,0.[000]")
    root.ygrid.grid_line_alpha = 0
    root.xgrid.grid_line_alpha, root.xgrid.grid_line_color = 0.3, GREY
    for axis in (*root.xaxis, *root.yaxis):
        axis.axis_line_alpha, axis.major_tick_line_alpha, axis.minor_tick_line_alpha = 0.25, 0.25, 0
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_color = axis.major_label_text_color = axis.axis_line_color = GREY
