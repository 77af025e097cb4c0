"""What the server runs on."""

from __future__ import annotations

from typing import Any

import msgspec
import param

from .assets import module
from .source import Source
from .watching import Face, Watching


class SystemView(Face):
    """The browser's half of `SystemCard`."""

    system = param.Dict(default={}, doc="What `/api/system` answers.")

    _esm = module("system")


class SystemCard(Watching):
    """Versions, device, BLAS, data folder; a slow BLAS is a warning with the line that fixes it."""

    view: SystemView

    def __init__(self, source: Source):
        super().__init__(source, SystemView(sizing_mode="stretch_width"))

    def refresh(self) -> None:
        self.work(self._ask)

    async def _ask(self) -> None:
        system: dict[str, Any] = msgspec.to_builtins(await self.source.system())
        self.view.param.update(system=system, notice={})
