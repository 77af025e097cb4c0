"""The pool's settings, edited while the server runs."""

from __future__ import annotations

from typing import Any

import msgspec
import param

from ..snapshot import Sample, Snapshot
from ..tuning import Option
from .assets import module
from .form import FormView, ValuesForm
from .source import Source


class PoolFormView(FormView):
    """The browser's half of `PoolForm`."""

    options = param.List(default=[], doc="`Option`s as plain values; empty before the first answer.")
    models = param.List(default=[], doc="The ids of the models there are.")
    budget = param.Integer(default=0, doc="What models may take together now, bytes.")
    memory = param.Integer(default=0, doc="The memory of the machine, bytes.")

    _esm = module("pool_settings", "options", "fields")


class PoolForm(ValuesForm):
    """A form of the pool's settings: how much models may take, who stays, who goes. What is saved holds at once."""

    view: PoolFormView

    def __init__(self, source: Source):
        super().__init__(source, PoolFormView(sizing_mode="stretch_width"))

    def refresh(self) -> None:
        super().refresh()
        self.work(self._ask)

    def take(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        self.view.param.update(
            models=[one.id for one in snapshot.models],
            budget=snapshot.pool.budget,
            memory=snapshot.memory_limit,
        )

    async def _ask(self) -> None:
        self._show(await self.source.pool_options())

    async def _save(self, values: dict[str, Any]) -> None:
        self._show(await self.source.set_pool_options(values))
        self._confirm("Saved. It holds at once.")

    async def _reset(self) -> None:
        self._show(await self.source.reset_pool_options())
        self._confirm("Reset. The values set here are forgotten.")

    def _show(self, options: list[Option]) -> None:
        self.view.options = msgspec.to_builtins(options)
