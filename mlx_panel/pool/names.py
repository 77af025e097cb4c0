"""What a request's model name stands for: a model, a preset, or what a rule for unknown names says."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from ..aliases import first
from ..errors import ModelNotFound
from ..messages import LocalModel
from ..preset import Alias, Preset
from ..presets import Catalog, Presets

NAMED_AT_MOST = 20


class Named(NamedTuple):
    """A name, found: the model to run, the preset to use it with, and the rule that led there.

    `low` says that its requests give way to others.
    """

    model: LocalModel
    preset: Preset | None = None
    alias: Alias | None = None
    low: bool = False


class Names:
    """Finds models by the names that requests use: a model's own, a preset's, and any that a rule matches."""

    def __init__(self, catalog: Catalog, presets: Presets):
        self._catalog, self._presets = catalog, presets
        self._running: Counter[tuple[str, str]] = Counter()  # requests by model and preset
        self.background: dict[str, str] = {}  # the server's own names, for work that gives way

    def __repr__(self) -> str:
        return f"<Names of {self._presets!r}>"

    async def find(self, name: str) -> Named:
        """What a name stands for. Raises ModelNotFound, which names the rules that point to nothing."""
        missing = []
        if name in self.background:
            return Named(await self._catalog.find(self.background[name]), low=True)
        try:
            return await self._named(name)
        except ModelNotFound as unknown:
            for rule in first(self._presets.rules, name):
                alias = rule.alias
                try:
                    found = await self._named(alias.target)
                except ModelNotFound:
                    missing.append(alias)
                    continue
                return found._replace(alias=alias, low=found.low or alias.priority == "low")
            raise self._nothing(unknown, missing) from None

    @contextlib.contextmanager
    def used(self, named: Named) -> Iterator[None]:
        """A request runs under this name."""
        key = (named.model.id, named.preset.name if named.preset is not None else "")
        self._running[key] += 1
        try:
            yield
        finally:
            self._running[key] -= 1
            self._running += Counter()  # forgets those of none

    def others(self, preset: Preset) -> int:
        """How many requests run on a preset's model that did not come by that preset."""
        return sum(
            count
            for (model, name), count in self._running.items()
            if model == preset.model and name != preset.name
        )

    async def there(self) -> list[tuple[Preset, LocalModel]]:
        """The presets that can be asked by their name, with their models; those without a model are not."""
        models = {model.id: model for model in await self._catalog.catalog()}
        return [
            (preset, models[preset.model])
            for preset in self._presets.all()
            if preset.model in models and preset.name not in models
        ]

    async def missing(self) -> list[str]:
        """The presets whose model is not on this machine."""
        models = {model.id for model in await self._catalog.catalog()}
        return [preset.name for preset in self._presets.all() if preset.model not in models]

    async def dangling(self) -> list[str]:
        """The aliases' targets that nothing on this machine has."""
        known = {model.id for model in await self._catalog.catalog()}
        known |= {preset.name for preset in self._presets.all() if preset.model in known}
        return sorted({alias.target for alias in self._presets.aliases} - known)

    async def _named(self, name: str) -> Named:
        try:
            return Named(await self._catalog.find(name))
        except ModelNotFound as unknown:
            preset = self._presets.get(name)
            if preset is None:
                raise
            try:
                model = await self._catalog.find(preset.model)
            except ModelNotFound:
                raise ModelNotFound(
                    f"The model {preset.model!r} of the preset {name!r} is not on this machine any more. {unknown}",
                    field="model",
                ) from None
            return Named(model, preset, low=preset.priority == "low")

    def _nothing(self, unknown: ModelNotFound, missing: list[Alias]) -> ModelNotFound:
        """The error for a name that stands for nothing, with what a person may have meant."""
        words = [str(unknown)]
        names = [preset.name for preset in self._presets.all()]
        if names:
            more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
            words.append(f"Presets: {', '.join(names[:NAMED_AT_MOST])}{more}.")
        words += [
            f"The {alias.kind} rule {alias.pattern!r} matches this name, and its target {alias.target!r} is not here."
            for alias in missing
        ]
        return ModelNotFound(" ".join(words), field="model")
