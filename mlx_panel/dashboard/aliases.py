"""The rules for names that no model and no preset has, in order, and what a name means."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import param

from ..errors import InvalidParameter, MlxPanelError
from ..preset import Alias
from ..snapshot import Sample, Snapshot
from .assets import module
from .form import Form, FormView
from .source import Source


class AliasesView(FormView):
    """The browser's half of `Aliases`. It asks again when `news` has changed."""

    aliases = param.String(default="", doc="The rules as JSON, in order; empty before the first answer.")
    targets = param.List(default=[], doc="Names of presets and models.")
    news = param.String(default="", doc="Changes when rules may have changed.")
    found = param.Dict(
        default={}, doc="What the tested name means: `name`, `model`, `preset`, `alias`, or `error`."
    )

    _esm = module("aliases", "fields")


class Aliases(Form):
    """An editor of the rules. What is saved holds for the next request."""

    view: AliasesView

    def __init__(self, source: Source):
        super().__init__(source, AliasesView(sizing_mode="stretch_width", margin=(16, 0, 0, 0)))
        self._presets: list[str] = []
        self._models: list[str] = []

    def refresh(self) -> None:
        super().refresh()
        self.work(self._ask)

    def take(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        self._models = [one.id for one in snapshot.models]
        self.view.param.update(news=str(snapshot.preset_changes), targets=[*self._presets, *self._models])

    def act(self, message: dict[str, Any]) -> None:
        match message:
            case {"do": "ask"}:
                self.work(self._ask)
            case {"do": "save", "aliases": list(raw)}:
                self.work(partial(self._busy, partial(self._save, raw)))
            case {"do": "test", "name": str(name)}:
                self.work(partial(self._test, name))

    async def _ask(self) -> None:
        self._show(await self.source.aliases())
        self._presets = [preset.name for preset in await self.source.presets()]
        self.view.targets = [*self._presets, *self._models]

    async def _save(self, raw: list[Any]) -> None:
        self._show(await self.source.set_aliases([rule(place, one) for place, one in enumerate(raw)]))
        self._confirm("Saved. It holds for the next request.")

    async def _test(self, name: str) -> None:
        try:
            found = msgspec.to_builtins(await self.source.test_alias(name))
        except MlxPanelError as error:
            found = {"name": name, "error": str(error)}
        self.view.found = found

    def _show(self, aliases: list[Alias]) -> None:
        self.view.aliases = msgspec.json.encode(aliases).decode()


def rule(place: int, raw: Any) -> Alias:
    """A rule that a browser sent. Raises InvalidParameter naming it and its field."""
    try:
        return msgspec.convert(raw, Alias)
    except msgspec.ValidationError as error:
        why, _, where = str(error).partition(" - at `$.")
        field = f"aliases[{place}].{where.rstrip('`') or 'pattern'}"
        raise InvalidParameter(f"Rule {place + 1}: {why}.", field=field) from error
