"""The audit log's file and settings: a picture of what it takes, and a form of how long it is kept."""

from __future__ import annotations

from typing import Any

import msgspec
import param

from ..snapshot import Sample, Snapshot
from ..tuning import Option
from .assets import module
from .form import FormView, ValuesForm
from .source import Source

LOOK_SECONDS = 5.0


class AuditStorageView(FormView):
    """The browser's half of `AuditStorage`."""

    options = param.List(default=[], doc="`Option`s as plain values; empty before the first answer.")
    models = param.List(default=[], doc="The ids of the models there are.")
    storage = param.Dict(default={}, doc="A `Storage` as plain values; empty before the first answer.")

    _esm = module("audit_settings", "options", "fields")


class AuditStorage(ValuesForm):
    """What the audit log's file takes, what was removed from it and when, and its settings. What is saved holds at once."""

    view: AuditStorageView

    def __init__(self, source: Source):
        super().__init__(source, AuditStorageView(sizing_mode="stretch_width"))
        self._looked = 0.0

    def refresh(self) -> None:
        super().refresh()
        self.work(self._ask)

    def take(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        self.view.models = [one.id for one in snapshot.models]
        if snapshot.time - self._looked >= LOOK_SECONDS:
            self._looked = snapshot.time
            self.work(self._look)

    async def _ask(self) -> None:
        self._show(await self.source.audit_options())
        await self._look()

    async def _look(self) -> None:
        self.view.storage = msgspec.to_builtins(await self.source.audit_storage())

    async def _save(self, values: dict[str, Any]) -> None:
        self._show(await self.source.set_audit_options(values))
        self._confirm("Saved. It holds at once.")
        await self._look()

    async def _reset(self) -> None:
        self._show(await self.source.reset_audit_options())
        self._confirm("Reset. The values set here are forgotten.")
        await self._look()

    def _show(self, options: list[Option]) -> None:
        self.view.options = msgspec.to_builtins(options)
