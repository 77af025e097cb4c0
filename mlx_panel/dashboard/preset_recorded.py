"""The presets of a recorded source: kept in memory, checked as the server checks them."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from ..aliases import first, rules
from ..errors import Conflict, InvalidParameter, ModelNotFound, NotFound
from ..preset import Alias, Preset, PresetServer
from ..preset_text import Stored, Unreadable, read, write
from ..presets import check
from ..snapshot import Snapshot
from .preset_source import NameFound


class PresetTape(Protocol):
    """What `RecordedPresets` uses of `Recorded`."""

    snapshot: Snapshot
    stored: Stored

    def put(self, snapshot: Snapshot) -> None: ...
    def _ask(self, what: str, *arguments: Any) -> None: ...
    def _keep(self, presets: dict[str, Preset], aliases: tuple[Alias, ...] | None = None) -> None: ...
    async def load(self, model: str) -> None: ...
    async def unload(self, model: str) -> None: ...


class RecordedPresets:
    """`PresetSource` without a server; "presets" in the `faults` of a `Recorded` is raised instead of an answer."""

    async def presets(self: PresetTape) -> list[Preset]:
        self._ask("presets")
        return list(self.stored.presets)

    async def create_preset(self: PresetTape, preset: Preset) -> Preset:
        self._ask("presets", "create", preset)
        check(preset)
        known = self.stored.by_name()
        if preset.name in known:
            raise Conflict(f"There is a preset of the name {preset.name!r} already.", field="name")
        self._keep({**known, preset.name: preset})
        return preset

    async def replace_preset(self: PresetTape, name: str, preset: Preset) -> Preset:
        self._ask("presets", "replace", name, preset)
        check(preset)
        others = {one: other for one, other in self.stored.by_name().items() if one != name}
        if preset.name in others:
            raise Conflict(f"There is a preset of the name {preset.name!r} already.", field="name")
        self._keep({**others, preset.name: preset})
        return preset

    async def delete_preset(self: PresetTape, name: str) -> None:
        self._ask("presets", "delete", name)
        _find(self.stored, name)
        self._keep({one: other for one, other in self.stored.by_name().items() if one != name})

    async def duplicate_preset(self: PresetTape, name: str, copy: str) -> Preset:
        self._ask("presets", "duplicate", name, copy)
        found = _find(self.stored, name)
        made = msgspec.structs.replace(found, name=copy, auto_start=False, pinned=False)
        self._keep({**self.stored.by_name(), copy: made})
        return made

    async def export_presets(self: PresetTape, name: str = "") -> str:
        self._ask("presets", "export", name)
        return write(Stored((_find(self.stored, name),)) if name else self.stored)

    async def import_presets(self: PresetTape, toml: str, replace: bool = False) -> list[str]:
        self._ask("presets", "import", replace)
        try:
            given = read(toml)
        except Unreadable as error:
            raise InvalidParameter(f"'toml' cannot be read: {error}.", field="toml") from error
        known, new = self.stored.by_name(), given.by_name()
        for name in known.keys() & new.keys():
            if not replace:
                raise Conflict(f"There is a preset of the name {name!r} already.", field="name")
        self._keep({**known, **new}, (*self.stored.aliases, *given.aliases))
        return list(new)

    async def aliases(self: PresetTape) -> list[Alias]:
        self._ask("aliases")
        return list(self.stored.aliases)

    async def set_aliases(self: PresetTape, aliases: list[Alias]) -> list[Alias]:
        self._ask("aliases", aliases)
        rules(aliases)
        self._keep(self.stored.by_name(), tuple(aliases))
        return aliases

    async def test_alias(self: PresetTape, name: str) -> NameFound:
        self._ask("aliases", "test", name)
        models = {model.id for model in self.snapshot.models}
        presets = self.stored.by_name()
        told = [
            (name, None),
            *((rule.alias.target, rule.alias) for rule in first(rules(self.stored.aliases), name)),
        ]
        for target, alias in told:
            preset = None if target in models else presets.get(target)
            model = preset.model if preset else target
            if model in models:
                low = bool((alias and alias.priority == "low") or (preset and preset.priority == "low"))
                return NameFound(
                    name=name, model=model, preset=preset.name if preset else None, alias=alias, priority="low" if low else "normal"
                )  # fmt: skip
        raise ModelNotFound(f"Nothing on this machine has the name {name!r}, and no rule matches it.")

    async def servers(self: PresetTape) -> list[PresetServer]:
        self._ask("presets", "servers")
        models = {model.id: model for model in self.snapshot.models}
        there = [(preset, models[preset.model]) for preset in self.stored.presets if preset.model in models]
        return [
            PresetServer(preset=preset.name, model=model.id, state=model.state) for preset, model in there
        ]

    async def start_preset(self: PresetTape, name: str) -> None:
        await self.load(_find(self.stored, name).model)

    async def stop_preset(self: PresetTape, name: str, force: bool = False) -> None:
        model = _find(self.stored, name).model
        if not force and any(one.id == model and one.running for one in self.snapshot.models):
            raise Conflict(f"Requests use {model!r} that came by another name.")
        await self.unload(model)

    async def restart_preset(self: PresetTape, name: str, force: bool = False) -> None:
        model = _find(self.stored, name).model
        await self.unload(model)
        await self.load(model)

    def _keep(self: PresetTape, presets: dict[str, Preset], aliases: tuple[Alias, ...] | None = None) -> None:
        kept = self.stored.aliases if aliases is None else aliases
        self.stored = Stored(self.stored.with_presets(presets).presets, kept)
        changes = self.snapshot.preset_changes + 1
        self.put(msgspec.structs.replace(self.snapshot, preset_changes=changes))


def _find(stored: Stored, name: str) -> Preset:
    found = stored.by_name()
    if name not in found:
        raise NotFound("There is no preset of this name.")
    return found[name]
