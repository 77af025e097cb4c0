"""What components that save settings have in common: one thing under way at a time, and a word when it is done."""

from __future__ import annotations

from functools import partial
from typing import Any

import param

from .watching import Face, Watching


class FormView(Face):
    """The browser's half of a form."""

    busy = param.Boolean(default=False, doc="Whether Save or Reset is under way.")
    saved = param.Dict(default={}, doc="The last thing that was done: `text`, `count`.")


class Form(Watching):
    """A component with Save and Reset."""

    view: FormView

    async def _busy(self, work: Any) -> None:
        self.view.busy = True
        try:
            await work()
        finally:
            self.view.busy = False

    def _confirm(self, text: str) -> None:
        self.view.param.update(saved={"text": text, "count": self.view.saved.get("count", 0) + 1}, notice={})


class ValuesForm(Form):
    """A form of values by name: some are saved, or all reset."""

    def act(self, message: dict[str, Any]) -> None:
        match message:
            case {"do": "save", "values": dict(values)}:
                self.work(partial(self._busy, partial(self._save, values)))
            case {"do": "reset"}:
                self.work(partial(self._busy, self._reset))

    async def _save(self, values: dict[str, Any]) -> None:
        raise NotImplementedError

    async def _reset(self) -> None:
        raise NotImplementedError
