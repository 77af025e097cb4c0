"""The dot in the header: is the server there, and what is it doing."""

from __future__ import annotations

import param

from ..snapshot import Sample, Snapshot
from .assets import module
from .source import Source
from .watching import Face, Watching


def state_of(snapshot: Snapshot) -> str:
    if snapshot.draining:
        return "draining"
    states = {model.state for model in snapshot.models}
    return next((state for state in ("ready", "loading") if state in states), "idle")


class StatusView(Face):
    """The browser's half of `Status`."""

    state = param.String(default="", doc="idle, loading, ready or draining; empty before the first answer.")

    _esm = module("status")


class Status(Watching):
    """A dot and a word. Sends something only when the word changes."""

    view: StatusView

    def __init__(self, source: Source):
        super().__init__(source, StatusView(height=36))

    def take(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        self.view.state = state_of(snapshot)
