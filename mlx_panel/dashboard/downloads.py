"""What is fetched from the hub: jobs of the server, followed and steered from any page."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import msgspec
import param

from ..snapshot import Sample, Snapshot
from .assets import module
from .source import Source
from .watching import Face, Watching


class DownloadsView(Face):
    """The browser's half of `Downloads`. It asks for the whole list again when `news` is another."""

    live = param.String(default="[]", doc="The snapshot's `downloads`, as JSON.")
    news = param.String(
        default="", doc="Which downloads are in which state: a text that is another when one changes."
    )
    known = param.String(default="", doc="All `Download`s, as JSON; empty before the first answer.")
    busy = param.List(default=[], doc="Tasks that a button of this component is pausing, resuming and so on.")

    _esm = module("downloads", "library_words")


class Downloads(Watching):
    """The downloads of a server. They go on without anybody looking, and all who look see the same."""

    view: DownloadsView

    def __init__(self, source: Source):
        super().__init__(source, DownloadsView(sizing_mode="stretch_width"))

    def refresh(self) -> None:
        super().refresh()
        self.work(self._ask)

    def take(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        news = [f"{one.task} {one.state}" for one in snapshot.downloads]
        self.view.param.update(
            live=msgspec.json.encode(snapshot.downloads).decode(),
            news=" ".join([str(snapshot.library_changes), *news]),
        )

    def act(self, message: dict[str, Any]) -> None:
        actions: dict[Any, Callable[[str], Coroutine[Any, Any, None]]] = {
            "pause": self.source.pause_download,
            "resume": self.source.resume_download,
            "cancel": self.source.cancel_download,
            "retry": self.source.retry_download,
            "forget": self.source.forget_download,
        }
        match message:
            case {"do": "ask"}:
                self.work(self._ask)
            case {"do": str(name), "task": str(task)} if name in actions:
                self.work(partial(self._turn, actions[name], task))

    async def _ask(self) -> None:
        self.view.known = msgspec.json.encode(await self.source.downloads()).decode()

    async def _turn(self, action: Callable[[str], Coroutine[Any, Any, None]], task: str) -> None:
        self.view.busy = [*self.view.busy, task]
        try:
            await action(task)
            self.view.notice = {}
        finally:
            self.view.busy = [other for other in self.view.busy if other != task]
            await self._ask()
