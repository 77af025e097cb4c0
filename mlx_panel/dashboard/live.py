"""Everything on a page that moves each second: one component in the browser, fed by one param."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import msgspec
import param

from ..errors import Conflict, ModelStopped
from ..snapshot import Sample, Snapshot
from .assets import module
from .source import Source
from .watching import Face, Watching

Part = Literal["cards", "memory", "models"]
ALL: tuple[Part, ...] = ("cards", "memory", "models")


class LiveView(Face):
    """The browser's half of `Live`. It keeps the history going by itself from each snapshot.

    Both travel as JSON text: Bokeh would walk, compare and encode each number of a tree, once a second and session.
    """

    parts = param.List(default=list(ALL), doc="Which parts to draw, in this order.")
    snapshot = param.String(default="{}", doc="The last `Snapshot`, as JSON.")
    history = param.String(default="[]", doc="`Sample`s of the last minutes, as JSON.")
    busy = param.List(default=[], doc="Models that a button of this component is loading or unloading.")

    _esm = module("live", "pool_memory", "pool")


class Live(Watching):
    """Cards, memory and models of a server, live. `Overview`, `Pool` and `Models` are this with fewer parts."""

    view: LiveView
    snapshot: Snapshot | None = None

    def __init__(self, source: Source, parts: tuple[Part, ...] = ALL):
        super().__init__(source, LiveView(parts=list(parts), sizing_mode="stretch_width"))
        self._cancelled: set[str] = set()

    def take(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        # Jobs have components of their own.
        seen = msgspec.structs.replace(snapshot, downloads=(), tasks=())
        values = {"snapshot": msgspec.json.encode(seen).decode()}
        if history is not None:
            values["history"] = msgspec.json.encode(history).decode()
        self.snapshot = snapshot
        self.view.param.update(**values)

    def act(self, message: dict[str, Any]) -> None:
        match message:
            case {"do": "load", "model": str(model)}:
                self.work(partial(self._switch, self._load, model))
            case {"do": "unload", "model": str(model)}:
                self.work(partial(self._switch, self._unload, model))
            case {"do": "pin", "model": str(model), "pinned": bool(pinned)}:
                self.work(partial(self._pin, model, pinned))

    async def _load(self, model: str) -> None:
        """Load a model. That it was cancelled from here is no news."""
        self._cancelled.discard(model)
        try:
            await self.source.load(model)
        except ModelStopped:
            if model not in self._cancelled:
                raise

    async def _unload(self, model: str) -> None:
        self._cancelled.add(model)
        await self.source.unload(model)

    async def _pin(self, model: str, pinned: bool) -> None:
        """Pin or unpin. Raises Conflict where a preset keeps a model that was to be let go."""
        await self.source.pin(model, pinned)
        if not pinned:
            keepers = [one.name for one in await self.source.presets() if one.pinned and one.model == model]
            if keepers:
                raise Conflict(f"{model} stays in memory for the preset {', '.join(keepers)}, which pins it.")

    async def _switch(self, action: Any, model: str) -> None:
        """Load or unload; the button is busy until it is done, and the models are looked at once more."""
        self.view.busy = [*self.view.busy, model]
        try:
            await action(model)
        finally:
            self.view.busy = [other for other in self.view.busy if other != model]
