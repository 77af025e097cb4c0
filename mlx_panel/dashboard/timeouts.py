"""The limits of the endpoints, edited while the server runs."""

from __future__ import annotations

import msgspec
import param

from ..messages import Limit
from .assets import module
from .form import FormView, ValuesForm
from .source import Source


class TimeoutsView(FormView):
    """The browser's half of `Timeouts`: the form, and the first check of what is typed."""

    limits = param.List(default=[], doc="`Limit`s as plain values.")

    _esm = module("timeouts")


class Timeouts(ValuesForm):
    """A form of limits in seconds. Saved values hold for the very next request and stay after a restart."""

    view: TimeoutsView

    def __init__(self, source: Source):
        super().__init__(source, TimeoutsView(sizing_mode="stretch_width"))

    def refresh(self) -> None:
        self.work(self._ask)

    async def _ask(self) -> None:
        self._show_limits(await self.source.timeouts())

    async def _save(self, values: dict[str, float]) -> None:
        self._show_limits(await self.source.set_timeouts(values))
        self._confirm("Saved. The next request uses these limits.")

    async def _reset(self) -> None:
        self._show_limits(await self.source.reset_timeouts())
        self._confirm("Reset. The values set here are forgotten.")

    def _show_limits(self, limits: list[Limit]) -> None:
        self.view.limits = msgspec.to_builtins(limits)
