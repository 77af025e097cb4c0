"""One request on a page of its own: where its time went, and whose work it waited for."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import panel as pn
import param

from .. import analytics
from ..errors import NotFound
from .assets import module
from .benchmarks import CARD, NOTHING, PLAIN
from .request_facts import GROUPS
from .request_plot import COLOURS, NAMES, told, waterfall
from .source import Source
from .watching import Face, Watching


class RequestFace(Face):
    """The browser's half of `RequestView` above the waterfall: which request, the sentence, the shares of its time."""

    found = param.String(doc="The `analytics.RequestView` as JSON; empty while none is shown.")
    state: Any = param.Selector(default="asking", objects=["asking", "found", "missing"])
    asked = param.String(doc="What was asked for: a number, or a request id.")
    linked = param.String(doc="How pages are linked (see `Menu`); empty where there are none.")
    colours = param.Dict(default=COLOURS, doc="By kind.")
    names = param.Dict(default=NAMES, doc="Titles by kind.")

    _esm = module("request", "links", "request_parts")


class RequestTables(pn.custom.JSComponent):
    """What is below the waterfall: neighbours, the timeline as a table, and the row in full."""

    found = param.String(doc="As in `RequestFace`.")
    linked = param.String()
    words = param.Dict(default={}, doc="What a neighbour had to do with this request, by its request id.")
    groups = param.List(default=[[title, [list(fact) for fact in facts]] for title, facts in GROUPS])
    names = param.Dict(default=NAMES)

    _esm = module("request_tables", "links", "request_parts")


class RequestView(Watching):
    """The request of a number in the audit log, or of a request id (the newest of that id).

    `look(id)` looks at another one; the buttons of the page do the same where there are no addresses.
    """

    view: RequestFace

    def __init__(self, source: Source, id: int | str, *, linked: str = ""):
        super().__init__(source, RequestFace(asked=str(id), linked=linked, sizing_mode="stretch_width"))
        self.figure = pn.Column(
            pn.Spacer(), styles=NOTHING, stylesheets=[PLAIN], sizing_mode="stretch_width", margin=(16, 0)
        )
        self.tables = RequestTables(linked=linked, sizing_mode="stretch_width")
        self.tables.on_msg(self._hear)
        self.found: analytics.RequestView | None = None
        self._layout = pn.Column(self.view, self.figure, self.tables, sizing_mode="stretch_width")

    def __panel__(self) -> pn.viewable.Viewable:
        return self._layout

    def look(self, id: int | str) -> None:
        """Look at another request."""
        self.view.param.update(asked=str(id), state="asking", notice={})
        self.work(self._ask)

    def refresh(self) -> None:
        """Ask for the request once more. What happened stays as it is, so nothing is subscribed to."""
        self.work(self._ask)

    def act(self, message: dict[str, Any]) -> None:
        match message:
            case {"do": "show", "id": int(id) | str(id)}:
                self.look(id)
            case {"do": "again"}:
                self.look(self.view.asked)

    async def _ask(self) -> None:
        asked = self.view.asked
        try:
            found = await self.source.audit_request(asked) if asked else None
        except NotFound:
            found = None
        if asked == self.view.asked and (found is None or found != self.found):
            # All at once: of changes that follow each other closely Panel 1.9 loses some where figures are among them.
            pn.state.execute(partial(self._draw, found), schedule=True)

    def _draw(self, found: analytics.RequestView | None) -> None:
        self.found = found
        root = waterfall(found, linked=bool(self.view.linked)) if found is not None else None
        pane = (
            pn.Spacer()
            if root is None
            else pn.pane.Bokeh(root, sizing_mode="stretch_width", height=root.height, margin=0)
        )
        text = msgspec.json.encode(found).decode() if found is not None else ""
        words = {} if found is None else {one.request_id: ", ".join(told(one)) for one in found.neighbours}
        with pn.io.unlocked():
            self.view.param.update(found=text, state="missing" if found is None else "found")
            self.figure.param.update(objects=[pane], styles=NOTHING if root is None else CARD)
            self.tables.param.update(found=text, words=words)
