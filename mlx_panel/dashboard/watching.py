"""The base of every component: it follows its source exactly as long as somebody looks at it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import panel as pn
import param
from bokeh.application.application import SessionContext

from ..errors import MlxPanelError
from ..snapshot import Sample, Snapshot
from .source import Source, Unsubscribe

AFTERWARDS = 0.1  # seconds until what a piece of work has changed is surely on its way
Work = Callable[[], Coroutine[Any, Any, None]]


class Face(pn.custom.JSComponent):
    """The browser's half of a component."""

    notice = param.Dict(
        default={}, doc="What went wrong last: `text`, `field`, `count`; empty when all is well."
    )
    pulse = param.Integer(default=0, doc="Changes after each piece of work; see `Watching.work`.")


class Watching(pn.viewable.Viewer):
    """Shows a source through `view`, a component that lives in the browser.

    Each place where the view is on screen is an eye. The browser tells when an eye opens and closes (page hidden, tab
    of the page left, element removed); with no eye open the source is not subscribed to, so it computes nothing.
    Whatever else the browser says is passed to `act`.
    """

    source: Source = param.Parameter(constant=True, allow_refs=False, doc="The server to look at.")

    def __init__(self, source: Source, view: Face):
        super().__init__(source=source)
        self.view = view
        self._eyes: set[str] = set()
        self._stop: Unsubscribe | None = None
        self._answered = False
        self._sessions: set[str] = set()
        view.on_msg(self._hear)

    def __repr__(self) -> str:
        state = "watching" if self.watching else "idle"
        return f"<{type(self).__name__} {state}, {len(self._eyes)} on screen>"

    def __panel__(self) -> pn.viewable.Viewable:
        return self.view

    @property
    def watching(self) -> bool:
        return self._stop is not None

    def refresh(self) -> None:
        """Ask the source once more, also when nothing is on screen. The answer appears by itself."""
        self._unsubscribe()
        self._subscribe()

    def take(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        """Put a snapshot into the view's params. `history` comes with the first one after a subscription."""

    def act(self, message: dict[str, Any]) -> None:
        """Do what a person asked for in the browser."""

    def work(self, work: Work) -> None:
        """Run a coroutine on the loop that serves this view; what goes wrong in it is shown by `fail`.

        Of two changes that follow each other closely Panel 1.9 may hold the second back until the next one, so there is
        a next one: the view's `pulse`.
        """
        pn.state.execute(partial(self._guarded, work))

    def fail(self, error: MlxPanelError) -> None:
        """Show a person what went wrong."""
        count = self.view.notice.get("count", 0) + 1
        self.view.notice = {"text": str(error), "field": error.field or "", "count": count}

    async def _guarded(self, work: Work) -> None:
        try:
            await work()
        except MlxPanelError as error:
            self.fail(error)
        await asyncio.sleep(AFTERWARDS)
        self.view.pulse += 1

    def _hear(self, event: Any) -> None:
        message = event.data
        match message.get("do"):
            case "look":
                self._open_eye(message["eye"])
            case "leave":
                self._close_eye(message["eye"])
            case _:
                self.act(message)

    def _open_eye(self, eye: str) -> None:
        self._eyes.add(eye)
        self._mind_session()
        pn.state.onload(
            self.refresh
        )  # what is set between the page's document and its `ready` is lost in Panel 1.9

    def _close_eye(self, eye: str) -> None:
        self._eyes.discard(eye)
        if not self._eyes:
            self._unsubscribe()

    def _mind_session(self) -> None:
        context = pn.state.curdoc.session_context if pn.state.curdoc else None
        if context and context.id not in self._sessions:
            self._sessions.add(context.id)
            pn.state.on_session_destroyed(self._session_ended)

    def _session_ended(self, context: SessionContext) -> None:
        """A served page is gone. Its component is its own, so no eye is left."""
        self._sessions.discard(context.id)
        self._eyes.clear()
        self._unsubscribe()

    def _subscribe(self) -> None:
        self._answered = False
        self._stop = self.source.subscribe(self._receive)
        self._settle()

    def _unsubscribe(self) -> None:
        stop, self._stop = self._stop, None
        if stop:
            stop()

    def _receive(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        self.take(snapshot, history)
        self._answered = True
        self._settle()

    def _settle(self) -> None:
        """With no eye open one answer is enough; it may have come before `subscribe` returned."""
        if self._answered and not self._eyes:
            self._unsubscribe()
