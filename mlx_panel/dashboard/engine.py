"""The engine's settings, for every model or for one, edited while the server runs."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import param

from ..parse.volatile import RULES
from ..snapshot import Sample, Snapshot
from .assets import module
from .form import FormView, ValuesForm
from .source import EngineState, Source


class EngineView(FormView):
    """The browser's half of `EngineForm`: the fields, and the first check of what is typed."""

    models = param.List(default=[], doc="`id`, `state` and `pending` of each model.")
    model = param.String(default="", doc="The model whose values are shown; empty for every model.")
    options = param.List(default=[], doc="`Option`s as plain values; empty before the first answer.")
    own = param.List(default=[], doc="Models that have values of their own.")
    rules = param.Dict(
        default={rule.name: rule.description for rule in RULES}, doc="What each rule leaves out."
    )
    reloading = param.List(default=[], doc="Models that are being loaded anew.")

    _esm = module("engine", "options", "fields")


class EngineForm(ValuesForm):
    """A form of the engine's settings. What is saved holds at once, or from a model's next load on, and is kept."""

    view: EngineView

    def __init__(self, source: Source):
        super().__init__(source, EngineView(sizing_mode="stretch_width"))

    def refresh(self) -> None:
        super().refresh()
        self.work(self._ask)

    def take(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        self.view.models = [
            {"id": one.id, "state": one.state, "pending": list(one.pending)} for one in snapshot.models
        ]

    def act(self, message: dict[str, Any]) -> None:
        match message:
            case {"do": "show", "model": str(model)}:
                self.view.model = model
                self.work(self._ask)
            case {"do": "reload", "model": str(model)}:
                self.work(partial(self._reload, model))
            case _:
                super().act(message)

    async def _ask(self) -> None:
        model = self.view.model
        state = await self.source.engine(model)
        if model == self.view.model:
            self._show_state(state)

    async def _save(self, values: dict[str, Any]) -> None:
        self._show_state(await self.source.set_engine(values, self.view.model))
        waits = any(option["reload"] for option in self.view.options if option["name"] in values)
        self._confirm("Saved. It holds from a model's next load on." if waits else "Saved. It holds at once.")

    async def _reset(self) -> None:
        self._show_state(await self.source.reset_engine(self.view.model))
        self._confirm("Reset. The values set here are forgotten.")

    async def _reload(self, model: str) -> None:
        """Load a model anew, so that what waits for it holds."""
        self.view.reloading = [*self.view.reloading, model]
        try:
            await self.source.unload(model)
            await self.source.load(model)
        finally:
            self.view.reloading = [other for other in self.view.reloading if other != model]

    def _show_state(self, state: EngineState) -> None:
        self.view.param.update(options=msgspec.to_builtins(state.options), own=sorted(state.models))
