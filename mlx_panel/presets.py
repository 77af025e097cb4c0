"""The presets and aliases of this server: kept in a file that a person can edit, changed while it runs."""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from . import preset_text
from .aliases import Rule, rules
from .errors import Conflict, InvalidParameter, MlxPanelError, NotFound, SettingsError, Unavailable
from .messages import LocalModel
from .parse.detect import BY_NAME
from .parse.reasoning import STYLES
from .preset import Alias, Preset
from .preset_text import Stored, Unreadable

MOST_PRESETS = 1000
MOST_STOPS, LONGEST_STOP = 16, 4096
MOST_TEMPLATE, DEEPEST_TEMPLATE = 64 << 10, 16  # bytes of JSON, levels
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
SWITCHES = {"enable_thinking", "thinking"}
KV = ("kv_bits", "kv_group_size")
# Last parts of paths of the API, which a name must not hide.
RESERVED = re.compile(r"(?:.*/)?(?:export|import|duplicate|start|stop|restart|status|health)")
Changed = Callable[[set[str]], Awaitable[None]]
Decide = Callable[[dict[str, Preset], Stored], Awaitable[Stored]]


class Catalog(Protocol):
    """What models this machine has; `find` raises ModelNotFound naming them."""

    async def find(self, id: str) -> LocalModel: ...
    async def catalog(self) -> list[LocalModel]: ...


async def _nobody(auto: set[str]) -> None:
    """Nobody is told."""


class Presets:
    """Presets by name and aliases in order, as `folder/presets.toml` holds them.

    `changed(auto)` is awaited after each change, with the models that are to be loaded with the server from now on;
    `changes` counts them. What was written into the file by hand meanwhile is taken over by the next change, never
    overwritten.
    """

    def __init__(self, folder: Path, catalog: Catalog, changed: Changed = _nobody):
        self.file = folder / "presets.toml"
        self.changes = 0
        self._catalog, self._changed = catalog, changed
        self._text = ""
        self._stored = Stored()
        self._by_name: dict[str, Preset] = {}
        self.rules: tuple[Rule, ...] = ()
        self._changing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Presets {len(self._by_name)} and {len(self.rules)} aliases in {self.file}>"

    def load(self) -> None:
        """Read the file, if there is one. Blocks. Raises SettingsError naming the line at fault."""
        try:
            stored, self._text = self._look()
        except Unreadable as error:
            raise SettingsError(f"{self.file} cannot be used: {error}. Nothing in it was changed.") from error
        self._hold(stored)

    # --- what there is ---------------------------------------------------------------------------------------

    def all(self) -> tuple[Preset, ...]:
        """Every preset, by name."""
        return self._stored.presets

    def get(self, name: str) -> Preset | None:
        return self._by_name.get(name)

    def find(self, name: str) -> Preset:
        """The preset of that name. Raises NotFound naming those there are."""
        return _known(self._by_name, name)

    @property
    def aliases(self) -> tuple[Alias, ...]:
        return self._stored.aliases

    def of(self, model: str) -> tuple[Preset, ...]:
        """The presets of a model."""
        return tuple(preset for preset in self._stored.presets if preset.model == model)

    def auto_models(self) -> set[str]:
        """The models to load with the server."""
        return {preset.model for preset in self._stored.presets if preset.auto_start}

    def pinned_models(self) -> set[str]:
        """The models to keep in memory."""
        return {preset.model for preset in self._stored.presets if preset.pinned}

    def engine_of(self, model: str) -> dict[str, int]:
        """The engine options that a model's presets decide."""
        return {
            name: value
            for preset in self.of(model)
            for name in KV
            if (value := getattr(preset, name)) is not None
        }

    async def export(self, name: str = "") -> str:
        """One preset, or all with the aliases, as TOML. Raises NotFound."""
        stored = Stored((self.find(name),)) if name else self._stored
        return await asyncio.to_thread(preset_text.write, stored)

    # --- changes ---------------------------------------------------------------------------------------------

    async def create(self, preset: Preset) -> Preset:
        """Add a preset. Raises Conflict for a name that is taken, ModelNotFound and InvalidParameter."""

        async def decide(held: dict[str, Preset], stored: Stored) -> Stored:
            await self._admit(preset, held)
            return stored.with_presets({**held, preset.name: preset})

        await self._change(decide)
        return preset

    async def replace(self, name: str, preset: Preset) -> Preset:
        """Put a preset in the place of one; aliases of it follow to a new name. Raises like `create`, and NotFound."""

        async def decide(held: dict[str, Preset], stored: Stored) -> Stored:
            before = _known(held, name)
            others = {one: other for one, other in held.items() if one != name}
            await self._admit(preset, others, before)
            return _renamed(stored, name, preset.name).with_presets({**others, preset.name: preset})

        await self._change(decide)
        return preset

    async def delete(self, name: str) -> None:
        """Remove a preset. Aliases of it stay and match nothing. Raises NotFound."""

        async def decide(held: dict[str, Preset], stored: Stored) -> Stored:
            _known(held, name)
            return stored.with_presets({one: other for one, other in held.items() if one != name})

        await self._change(decide)

    async def duplicate(self, name: str, copy: str) -> Preset:
        """Add a preset like another one, which neither loads with the server nor pins. Raises like `create`."""
        made = preset_of(
            {**msgspec.to_builtins(self.find(name)), "name": copy, "auto_start": False, "pinned": False}
        )
        return await self.create(made)

    async def import_(self, text: str, *, replace: bool = False) -> list[str]:
        """Add the presets and aliases of a TOML text, all or none; the presets' names.

        With `replace` presets of the same name are replaced, and rules of the same kind and pattern; without it they are
        a Conflict. A rule that is there already changes nothing. Raises like `create`.
        """
        try:
            given = await asyncio.to_thread(preset_text.read, text)
        except Unreadable as error:
            raise InvalidParameter(f"'toml' cannot be read: {error}.", field="toml") from error
        rules(given.aliases)

        async def decide(held: dict[str, Preset], stored: Stored) -> Stored:
            for preset in given.presets:
                before = held.get(preset.name) if replace else None
                others = {name: one for name, one in held.items() if not replace or name != preset.name}
                # Of two given ones that contradict each other the first one counts as known.
                await self._admit(preset, {**others, **_among(given, preset)}, before)
            merged = stored.with_presets({**held, **given.by_name()})
            return Stored(merged.presets, _merged(stored.aliases, given.aliases, replace))

        await self._change(decide)
        return [preset.name for preset in given.presets]

    async def set_aliases(self, aliases: Iterable[Alias]) -> tuple[Alias, ...]:
        """Put these rules in the place of all. Raises InvalidParameter."""
        wanted = tuple(aliases)
        rules(wanted)

        async def decide(held: dict[str, Preset], stored: Stored) -> Stored:
            return Stored(stored.presets, wanted)

        await self._change(decide)
        return wanted

    # --- inside ----------------------------------------------------------------------------------------------

    async def _change(self, decide: Decide) -> None:
        """One at a time, on top of what the file says now, kept before it holds."""
        async with self._changing:
            try:
                stored, text = await asyncio.to_thread(self._look)
            except (Unreadable, SettingsError) as error:
                raise Conflict(
                    f"presets.toml was changed by hand and cannot be used: {error}. Nothing was changed."
                ) from error
            wanted = await decide(stored.by_name(), stored)
            if len(wanted.presets) > MOST_PRESETS:
                raise Conflict(f"There are at most {MOST_PRESETS} presets.")
            try:
                self._text = await asyncio.to_thread(self._write, wanted, text)
            except OSError as error:
                raise Unavailable(
                    f"The presets could not be written ({error.strerror}); nothing was changed."
                ) from error
            auto = self.auto_models()
            self._hold(wanted)
        await self._changed(self.auto_models() - auto)

    def _hold(self, stored: Stored) -> None:
        self._stored, self._by_name = stored, stored.by_name()
        self.rules = rules(stored.aliases)
        self.changes += 1

    def _look(self) -> tuple[Stored, str]:
        """What the file says, and its text. Blocks."""
        try:
            text = self.file.read_bytes().decode()
        except FileNotFoundError:
            text = ""
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise Unreadable(f"line {line}: it is not UTF-8") from error
        except OSError as error:
            raise SettingsError(f"{self.file} cannot be read: {error.strerror}.") from error
        if text == self._text:
            return self._stored, text
        return _checked(preset_text.read(text), text), text

    def _write(self, stored: Stored, before: str) -> str:
        """Write the file for its owner's eyes only, whole or not at all. Blocks. Raises OSError."""
        text = preset_text.write(stored, before)
        if len(text) > preset_text.LONGEST:
            raise Conflict(f"All presets together may have {preset_text.LONGEST} characters.")
        partial = self.file.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(text.encode())
            out.flush()
            os.fsync(out.fileno())
        partial.replace(self.file)
        return text

    async def _admit(
        self, preset: Preset, others: Mapping[str, Preset], before: Preset | None = None
    ) -> None:
        """Raises what `create` raises. A preset whose model is gone may be changed in everything else."""
        check(preset)
        if preset.name in others:
            raise Conflict(f"There is a preset of the name {preset.name!r} already.", field="name")
        _agree(preset, others.values())
        if before is None or before.name != preset.name:
            models = {model.id for model in await self._catalog.catalog()}
            if preset.name in models:
                raise Conflict(f"There is a model of the name {preset.name!r}.", field="name")
        if before is None or before.model != preset.model:
            await self._catalog.find(preset.model)


def preset_of(raw: Mapping[str, Any]) -> Preset:
    """A preset of plain values. Raises InvalidParameter."""
    try:
        return msgspec.convert(raw, Preset)
    except msgspec.ValidationError as error:
        why, _, where = str(error).partition(" - at `$.")
        raise InvalidParameter(f"'{where.rstrip('`')}' {why}.", field=where.rstrip("`")) from error


def check(preset: Preset) -> None:
    """What a preset's own values say about each other. Raises InvalidParameter naming the field."""
    if preset.name != preset.name.strip() or RESERVED.fullmatch(preset.name):
        raise InvalidParameter(
            "'name' ends with a space, or with a word that the API's paths use.", field="name"
        )
    for field, known in (("tools", BY_NAME), ("reasoning", STYLES)):
        named = getattr(preset, field)
        if named and named not in known:
            raise InvalidParameter(f"'{field}' is one of {', '.join(sorted(known))}.", field=field)
    stops = preset.sampling.stop
    if len(stops) > MOST_STOPS or not all(0 < len(stop) <= LONGEST_STOP for stop in stops):
        raise InvalidParameter(
            f"'sampling.stop' takes up to {MOST_STOPS} strings of 1 to {LONGEST_STOP} characters.",
            field="sampling.stop",
        )
    _check_template(preset)


def _check_template(preset: Preset) -> None:
    """Values that JSON and TOML both have, of a size that can be sent with every request."""
    given, field = preset.template, "template"
    if not all(map(VARIABLE.fullmatch, given)):
        raise InvalidParameter(f"'{field}': its keys are names of variables.", field=field)
    if not _plain(given, DEEPEST_TEMPLATE):
        raise InvalidParameter(
            f"'{field}' takes text, 64-bit whole numbers, numbers, true, false, lists and tables, {DEEPEST_TEMPLATE} levels "
            "deep; TOML has no null.",
            field=field,
        )
    if len(msgspec.json.encode(given)) > MOST_TEMPLATE:
        raise InvalidParameter(f"'{field}' is larger than {MOST_TEMPLATE} bytes of JSON.", field=field)
    if preset.thinking is not None and SWITCHES & given.keys():
        raise InvalidParameter("'thinking' and 'template' set the same switch; set one.", field="thinking")


def _plain(value: Any, levels: int) -> bool:
    if isinstance(value, dict | list):
        inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
        return levels > 0 and all(_plain(one, levels - 1) for one in inner)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, bool | str) or (isinstance(value, int) and -(2**63) <= value < 2**63)


def _agree(preset: Preset, others: Iterable[Preset]) -> None:
    """Presets of one model share its process. Raises Conflict naming the one that wants its caches otherwise."""
    for other in others:
        if other.name == preset.name or other.model != preset.model:
            continue
        for name in KV:
            mine, its = getattr(preset, name), getattr(other, name)
            if None not in (mine, its) and mine != its:
                raise Conflict(
                    f"'{name}' is {its} in the preset {other.name!r}, which shares the process of {preset.model!r}.",
                    field=name,
                )


def _checked(stored: Stored, text: str) -> Stored:
    """What a file's text says, if it can be used. Raises Unreadable."""
    path: tuple[str, ...] = ("aliases",)
    try:
        rules(stored.aliases)
        for preset in stored.presets:
            path = ("presets", preset.name)
            check(preset)
            _agree(preset, stored.presets)
    except MlxPanelError as error:
        keys = (error.field or "").replace("[", ".").replace("]", "").split(".")
        place = tuple(keys) if path == ("aliases",) else (*path, *keys)
        raise Unreadable(preset_text.at(text, place, str(error).rstrip("."))) from error
    return stored


def _known(held: Mapping[str, Preset], name: str) -> Preset:
    if name not in held:
        names = ", ".join(sorted(held)[:20]) or "none"
        raise NotFound(f"There is no preset of this name. Those there are: {names}.")
    return held[name]


def _among(given: Stored, preset: Preset) -> dict[str, Preset]:
    return {one.name: one for one in given.presets if one.name != preset.name}


def _renamed(stored: Stored, before: str, after: str) -> Stored:
    """With the aliases of a preset following it to its new name."""
    return Stored(
        stored.presets,
        tuple(
            msgspec.structs.replace(alias, target=after) if alias.target == before else alias
            for alias in stored.aliases
        ),
    )


def _merged(held: tuple[Alias, ...], given: tuple[Alias, ...], replace: bool) -> tuple[Alias, ...]:
    """Rules and more rules. Raises Conflict for one that says something else of the same names."""
    wanted = {(alias.kind, alias.pattern): alias for alias in held}
    for alias in given:
        known = wanted.get((alias.kind, alias.pattern), alias)
        if known != alias and not replace:
            raise Conflict(f"There is another rule for {alias.pattern!r} already.", field="aliases")
        wanted[alias.kind, alias.pattern] = alias
    return tuple(wanted.values())
