"""A source's presets and aliases: the names that requests may use, and what they mean."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from ..preset import Alias, Preset, PresetServer, Priority
from .pool_source import Asks

Answer = TypeVar("Answer")
PROFILES = "/api/profiles"
ALIASES = "/api/aliases"
SERVERS = "/api/servers"
PATIENT = httpx.Timeout(5, read=None)  # the server knows how long a load or an unload may take
FORCE = {"force": "true"}


class NameFound(msgspec.Struct, frozen=True, kw_only=True):
    """What a name means: a model, used as the preset says, because of the rule; None where it needs none."""

    name: str
    model: str
    preset: str | None = None
    alias: Alias | None = None
    priority: Priority = "normal"


class PresetSource(Protocol):
    """The part of a `Source` that is about presets and aliases. `Snapshot.preset_changes` counts their news."""

    async def presets(self) -> list[Preset]:
        """All of them, by name."""
        ...

    async def create_preset(self, preset: Preset) -> Preset:
        """Conflict where the name is taken, by a preset or a model."""
        ...

    async def replace_preset(self, name: str, preset: Preset) -> Preset:
        """Change one; `preset.name` may be a new name. Effective for the very next request."""
        ...

    async def delete_preset(self, name: str) -> None: ...

    async def duplicate_preset(self, name: str, copy: str) -> Preset:
        """Make one like `name` that is called `copy`."""
        ...

    async def export_presets(self, name: str = "") -> str:
        """One preset, or all with the aliases, as TOML."""
        ...

    async def import_presets(self, toml: str, replace: bool = False) -> list[str]:
        """Add the presets of a TOML text, all or none; returns their names. With `replace` those of the same name are
        replaced, without it they are a Conflict."""
        ...

    async def aliases(self) -> list[Alias]:
        """The rules for names nobody has, in order."""
        ...

    async def set_aliases(self, aliases: list[Alias]) -> list[Alias]:
        """Put these in the place of all. Effective for the very next request."""
        ...

    async def test_alias(self, name: str) -> NameFound:
        """What a name means now. ModelNotFound where nobody has it."""
        ...

    async def servers(self) -> list[PresetServer]:
        """What runs of each preset."""
        ...

    async def start_preset(self, name: str) -> None:
        """Load the preset's model; returns when it is ready."""
        ...

    async def stop_preset(self, name: str, force: bool = False) -> None:
        """Unload the preset's model; Conflict while requests run that came by another name, unless it is forced."""
        ...

    async def restart_preset(self, name: str, force: bool = False) -> None: ...


# --- on the server's loop ---------------------------------------------------------------------------------


class LocalPresets:
    """`PresetSource` on the server's loop."""

    _server: Any

    async def presets(self) -> list[Preset]:
        return list(self._server.presets.all())

    async def create_preset(self, preset: Preset) -> Preset:
        return await self._server.presets.create(preset)

    async def replace_preset(self, name: str, preset: Preset) -> Preset:
        return await self._server.presets.replace(name, preset)

    async def delete_preset(self, name: str) -> None:
        await self._server.presets.delete(name)

    async def duplicate_preset(self, name: str, copy: str) -> Preset:
        return await self._server.presets.duplicate(name, copy)

    async def export_presets(self, name: str = "") -> str:
        return await self._server.presets.export(name)

    async def import_presets(self, toml: str, replace: bool = False) -> list[str]:
        return await self._server.presets.import_(toml, replace=replace)

    async def aliases(self) -> list[Alias]:
        return list(self._server.presets.aliases)

    async def set_aliases(self, aliases: list[Alias]) -> list[Alias]:
        return list(await self._server.presets.set_aliases(aliases))

    async def test_alias(self, name: str) -> NameFound:
        found = await self._server.names.find(name)
        return NameFound(
            name=name,
            model=found.model.id,
            preset=found.preset.name if found.preset else None,
            alias=found.alias,
            priority="low" if found.low else "normal",
        )

    async def servers(self) -> list[PresetServer]:
        return list(await self._server.servers.all())

    async def start_preset(self, name: str) -> None:
        await self._server.servers.start(name)

    async def stop_preset(self, name: str, force: bool = False) -> None:
        await self._server.servers.stop(name, force=force)

    async def restart_preset(self, name: str, force: bool = False) -> None:
        await self._server.servers.restart(name, force=force)


# --- over HTTP --------------------------------------------------------------------------------------------


class Profiles(msgspec.Struct, frozen=True):
    """What the server answers about its presets."""

    profiles: list[Preset]


class Rules(msgspec.Struct, frozen=True):
    """What the server answers about its aliases."""

    aliases: list[Alias]


class AsksText(Asks, Protocol):
    """What also asks for plain text: see `Remote`."""

    async def _ask(self, method: str, path: str, *, timeout: Any = ..., **content: Any) -> httpx.Response: ...


class RemotePresets:
    """`PresetSource` over HTTP."""

    async def presets(self: Asks) -> list[Preset]:
        return (await self.answer(Profiles, "GET", PROFILES)).profiles

    async def create_preset(self: Asks, preset: Preset) -> Preset:
        return await self.answer(Preset, "POST", PROFILES, json=msgspec.to_builtins(preset))

    async def replace_preset(self: Asks, name: str, preset: Preset) -> Preset:
        return await self.answer(Preset, "PUT", _profile(name), json=msgspec.to_builtins(preset))

    async def delete_preset(self: AsksText, name: str) -> None:
        await self._ask("DELETE", _profile(name))

    async def duplicate_preset(self: Asks, name: str, copy: str) -> Preset:
        return await self.answer(Preset, "POST", f"{_profile(name)}/duplicate", json={"name": copy})

    async def export_presets(self: AsksText, name: str = "") -> str:
        path = f"{_profile(name)}/export" if name else f"{PROFILES}/export"
        return (await self._ask("GET", path)).text

    async def import_presets(self: Asks, toml: str, replace: bool = False) -> list[str]:
        content = {"toml": toml, "replace": replace}
        found = await self.answer(dict[str, list[str]], "POST", f"{PROFILES}/import", json=content)
        return found["imported"]

    async def aliases(self: Asks) -> list[Alias]:
        return (await self.answer(Rules, "GET", ALIASES)).aliases

    async def set_aliases(self: Asks, aliases: list[Alias]) -> list[Alias]:
        content = {"aliases": msgspec.to_builtins(aliases)}
        return (await self.answer(Rules, "PUT", ALIASES, json=content)).aliases

    async def test_alias(self: Asks, name: str) -> NameFound:
        return await self.answer(NameFound, "POST", f"{ALIASES}/test", json={"name": name})

    async def servers(self: Asks) -> list[PresetServer]:
        return (await self.answer(dict[str, list[PresetServer]], "GET", SERVERS))["servers"]

    async def start_preset(self: AsksText, name: str) -> None:
        await self._ask("POST", _server(name, "start"), timeout=PATIENT)

    async def stop_preset(self: AsksText, name: str, force: bool = False) -> None:
        await self._ask("POST", _server(name, "stop"), timeout=PATIENT, params=FORCE if force else {})

    async def restart_preset(self: AsksText, name: str, force: bool = False) -> None:
        await self._ask("POST", _server(name, "restart"), timeout=PATIENT, params=FORCE if force else {})


def _profile(name: str) -> str:
    return f"{PROFILES}/{quote(name, safe='')}"


def _server(name: str, what: str) -> str:
    return f"{SERVERS}/{quote(name, safe='')}/{what}"
