"""Presets and aliases: listed, made, changed, moved between machines."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ..preset import Alias, Name, Preset
from . import decode as bodies
from .endpoint import Endpoint

NOTHING_MORE = bodies.Vocabulary()


class NewName(msgspec.Struct, frozen=True):
    name: Name


class AnyName(msgspec.Struct, frozen=True):
    name: str


class Import(msgspec.Struct, frozen=True):
    toml: str
    replace: bool = False


class Rules(msgspec.Struct, frozen=True):
    aliases: list[Alias]


def whole(struct: msgspec.Struct) -> dict[str, Any]:
    """A struct with all its fields, also those that have their default."""
    values = {name: getattr(struct, name) for name in struct.__struct_fields__}
    return {name: whole(one) if isinstance(one, msgspec.Struct) else one for name, one in values.items()}


class Taking(Endpoint):
    """An endpoint that takes its body as a struct, unknown fields refused."""

    def take(self, into: type[Any], **missing: Any) -> Any:
        """The body, with values for what it leaves out. Raises BadRequest's children."""
        raw = {**missing, **bodies.load(self.body)}
        return bodies.take(raw, into, NOTHING_MORE, refuse_unknown=True)[0]

    def toml(self, text: str, name: str) -> None:
        """Answer with a TOML file."""
        self.set_header("Content-Type", "application/toml; charset=utf-8")
        file = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
        self.set_header("Content-Disposition", f'attachment; filename="{file}.toml"')
        self.write(text)


class Profiles(Taking):
    """All presets, and which of them have no model here; a new one."""

    verbs = ("GET", "POST")
    route = "/api/profiles"

    async def answer(self, *path: str) -> None:
        house = self.house
        if self.request.method == "POST":
            return self.reply(whole(await house.presets.create(self.take(Preset))), status=201)
        presets = [whole(preset) for preset in house.presets.all()]
        self.reply({"profiles": presets, "missing": await house.names.missing()})


class Profile(Taking):
    """One preset: read, put in place of what it was (also under a new name), deleted."""

    verbs = ("GET", "PUT", "DELETE")
    route = "/api/profiles/{name}"

    async def answer(self, *path: str) -> None:
        presets, name = self.house.presets, path[0]
        if self.request.method == "DELETE":
            await presets.delete(name)
            self.reply({"status": "deleted", "name": name})
        elif self.request.method == "PUT":
            presets.find(name)
            self.reply(whole(await presets.replace(name, self.take(Preset, name=name))))
        else:
            self.reply(whole(presets.find(name)))


class Duplicate(Taking):
    verbs = ("POST",)
    route = "/api/profiles/{name}/duplicate"

    async def answer(self, *path: str) -> None:
        copy = await self.house.presets.duplicate(path[0], self.take(NewName).name)
        self.reply(whole(copy), status=201)


class ExportAll(Taking):
    """Every preset and alias as TOML."""

    route = "/api/profiles/export"

    async def answer(self, *path: str) -> None:
        self.toml(await self.house.presets.export(), "presets")


class Export(Taking):
    route = "/api/profiles/{name}/export"

    async def answer(self, *path: str) -> None:
        self.toml(await self.house.presets.export(path[0]), path[0])


class ImportAll(Taking):
    verbs = ("POST",)
    route = "/api/profiles/import"

    async def answer(self, *path: str) -> None:
        given: Import = self.take(Import)
        self.reply({"imported": await self.house.presets.import_(given.toml, replace=given.replace)})


class Aliases(Taking):
    """The rules for names that nothing has, in order, and the targets that are not here; all of them anew."""

    verbs = ("GET", "PUT")
    route = "/api/aliases"

    async def answer(self, *path: str) -> None:
        house = self.house
        if self.request.method == "PUT":
            await house.presets.set_aliases(self.take(Rules).aliases)
        self.reply({"aliases": house.presets.aliases, "missing": await house.names.dangling()})


class AliasTest(Taking):
    """What a name stands for."""

    verbs = ("POST",)
    route = "/api/aliases/test"

    async def answer(self, *path: str) -> None:
        asked = self.take(AnyName).name
        found = await self.house.names.find(asked)
        self.reply(
            {
                "name": asked,
                "model": found.model.id,
                "preset": found.preset.name if found.preset is not None else None,
                "alias": found.alias,
                "priority": "low" if found.low else "normal",
            }
        )


routes = [
    (Profiles.route, Profiles),
    (ExportAll.route, ExportAll),
    (ImportAll.route, ImportAll),
    (r"/api/profiles/(.+)/duplicate", Duplicate),
    (r"/api/profiles/(.+)/export", Export),
    (r"/api/profiles/(.+)", Profile),
    (Aliases.route, Aliases),
    (AliasTest.route, AliasTest),
]
