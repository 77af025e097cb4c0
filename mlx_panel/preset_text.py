"""Presets and aliases as TOML that a person can read and write: text to structs and back, nothing that acts.

[presets.coder]
model = "Qwen3-Coder-30B-4bit"
system_prompt = "Answer with code."

[presets.coder.sampling]
temperature = 0.2

[[aliases]]
kind = "prefix"
pattern = "claude-haiku"
target = "coder"
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import tomlkit
from tomlkit.exceptions import TOMLKitError

from .preset import Alias, Preset

LONGEST = 4_000_000  # characters
HEADING = "Presets and aliases of mlx-panel. Changes by hand hold from the server's next start on."
T = TypeVar("T")


class Unreadable(ValueError):
    """A text that does not hold presets. The message names the line where it is known, and no value."""


class Stored(msgspec.Struct, frozen=True):
    """What a text holds: presets by name, and the aliases in their order."""

    presets: tuple[Preset, ...] = ()
    aliases: tuple[Alias, ...] = ()

    def by_name(self) -> dict[str, Preset]:
        return {preset.name: preset for preset in self.presets}

    def with_presets(self, presets: Mapping[str, Preset]) -> Stored:
        return Stored(tuple(presets[name] for name in sorted(presets)), self.aliases)


def read(text: str) -> Stored:
    """The presets and aliases of a text. Raises Unreadable."""
    if len(text) > LONGEST:
        raise Unreadable(f"it is longer than {LONGEST} characters")
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        end = f"line {len(text.splitlines())}"
        raise Unreadable(str(error).replace("end of document", end)) from error
    except RecursionError as error:
        raise Unreadable("it is nested too deeply") from error
    for name in raw.keys() - {"presets", "aliases"}:
        raise Unreadable(at(text, (name,), "only 'presets' and 'aliases' stand at the top"))
    presets, aliases = raw.get("presets", {}), raw.get("aliases", [])
    if not isinstance(presets, dict) or not isinstance(aliases, list):
        raise Unreadable("'presets' has to be a table of tables, 'aliases' a list of tables")
    return Stored(
        tuple(_preset(text, name, presets[name]) for name in sorted(presets)),
        tuple(
            _converted(text, ("aliases", str(place)), one, Alias, f"rule {place + 1}: ")
            for place, one in enumerate(aliases)
        ),
    )


def _preset(text: str, name: str, raw: Any) -> Preset:
    path = ("presets", name)
    if not isinstance(raw, dict) or "name" in raw:
        raise Unreadable(at(text, path, "a preset is a table, and its name that of the table"))
    return _converted(text, path, {**raw, "name": name}, Preset, "")


def _converted(text: str, path: tuple[str, ...], raw: Any, into: type[T], what: str) -> T:
    try:
        return msgspec.convert(raw, into)
    except msgspec.ValidationError as error:
        why, _, where = str(error).partition(" - at `$.")
        keys = tuple(re.findall(r"\w+", where))
        named = re.search(r"field `([\w.-]{1,64})`", why)
        if named:
            keys += (named[1],)
        # msgspec quotes a value only where it is none of a list's.
        reason = "it is none of the words allowed" if why.startswith("Invalid") else why[0].lower() + why[1:]
        said = f"{what}{'.'.join(keys) or 'it'}: {reason}"
        raise Unreadable(at(text, (*path, *keys), said)) from error


def at(text: str, path: tuple[str, ...], why: str) -> str:
    """A sentence about a key with its line, where that can be told."""
    line = _line(text, path)
    return f"line {line}: {why}" if line else why


def _line(text: str, path: tuple[str, ...]) -> int:
    """The line of a key, or of the table it would be in; 0 where neither is written out. `path` numbers lists' tables."""
    table: tuple[str, ...] = ()
    seen: Counter[tuple[str, ...]] = Counter()
    best = best_length = 0
    for number, line in enumerate(text.splitlines(), 1):
        keys = _keys(line)
        if keys is None:
            continue
        if line.lstrip().startswith("[["):
            table = found = (*keys, str(seen[keys]))
            seen[keys] += 1
        elif line.lstrip().startswith("["):
            table = found = keys
        else:
            found = table + keys
        if found == path[: len(found)] and len(found) > best_length:
            best, best_length = number, len(found)
    return best


def _keys(line: str) -> tuple[str, ...] | None:
    """The keys that a header, or the left side of an assignment, names."""
    left = line.partition("#")[0] if line.lstrip().startswith("[") else line.partition("=")[0] + "= 0"
    try:
        raw = tomllib.loads(left)
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    keys = []
    while isinstance(raw, dict | list) and raw:
        if isinstance(raw, list):
            raw = raw[0]
            continue
        keys.append(next(iter(raw)))
        raw = raw[keys[-1]]
    return tuple(keys) or None


# --- writing -----------------------------------------------------------------------------------------------------


def write(stored: Stored, before: str = "") -> str:
    """Text that reads as these. What stays of the text `before` keeps its place and its comments."""
    if before:
        try:
            text = _edited(stored, before)
            if read(text) == stored:
                return text
        except (TOMLKitError, LookupError, TypeError, ValueError, AttributeError):
            pass  # a layout that cannot be edited: all is written anew
    return _fresh(stored)


def _fresh(stored: Stored) -> str:
    document = tomlkit.document()
    document.add(tomlkit.comment(HEADING))
    if stored.presets:
        document["presets"] = _presets(stored)
    if stored.aliases:
        document["aliases"] = _rules(stored)
    return tomlkit.dumps(document)


def _edited(stored: Stored, before: str) -> str:
    document: Any = tomlkit.parse(before)
    known = read(before)
    if known.presets and stored.presets:
        _edit_presets(document["presets"], known.by_name(), stored.by_name())
    else:
        document.pop("presets", None)
        if stored.presets:
            document["presets"] = _presets(stored)
    if stored.aliases != known.aliases:
        document.pop("aliases", None)
        if stored.aliases:
            document["aliases"] = _rules(stored)
    return tomlkit.dumps(document)


def _edit_presets(table: Any, held: dict[str, Preset], wanted: dict[str, Preset]) -> None:
    for name in held.keys() - wanted.keys():
        del table[name]
    for name, preset in wanted.items():
        if name not in held:
            table[name] = _table(_raw(preset))
        elif preset != held[name]:
            _adapt(table[name], _raw(held[name]), _raw(preset))


def _adapt(table: Any, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Change, in place, what is different."""
    for key in held.keys() - wanted.keys():
        del table[key]
    for key, value in wanted.items():
        if key not in held or held[key] != value or type(held[key]) is not type(value):
            table[key] = _item(value)


def _presets(stored: Stored) -> Any:
    table = tomlkit.table(is_super_table=True)
    for preset in stored.presets:
        table.add(preset.name, _table(_raw(preset)))
    return table


def _rules(stored: Stored) -> Any:
    rules = tomlkit.aot()
    for alias in stored.aliases:
        said = {"kind": alias.kind} | {name: getattr(alias, name) for name in alias.__struct_fields__}
        plain = msgspec.to_builtins(Alias(pattern="", target=""))
        rules.append(
            _table({name: one for name, one in said.items() if name == "kind" or one != plain[name]})
        )
    return rules


def _raw(preset: Preset) -> dict[str, Any]:
    return {key: value for key, value in msgspec.to_builtins(preset).items() if key != "name"}


def _table(values: Mapping[str, Any]) -> Any:
    """Plain values stand before tables, or they would be the tables'."""
    table = tomlkit.table()
    for key in sorted(values, key=lambda key: isinstance(values[key], dict)):
        table.add(key, _item(values[key]))
    return table


def _item(value: Any) -> Any:
    if isinstance(value, str):
        return _string(value)
    return _table(value) if isinstance(value, dict) else tomlkit.item(value)


def _string(text: str) -> Any:
    """Text of several lines over several lines, where that reads as the same."""
    if "\n" in text:
        try:
            lines = tomlkit.string(text, multiline=True)
            if tomllib.loads(f"text = {lines.as_string()}")["text"] == text:
                return lines
        except ValueError:  # of either library
            pass
    return tomlkit.string(text)
