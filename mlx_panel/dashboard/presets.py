"""The presets: names of their own for a model and a way of using it. Start, stop, write, copy, exchange."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import msgspec
import param

from ..errors import Conflict, InvalidParameter, MlxPanelError, ModelNotFound
from ..parse.detect import BY_NAME
from ..parse.reasoning import STYLES
from ..preset import Preset
from ..presets import preset_of
from ..request import Sampling
from ..snapshot import ModelState, Sample, Snapshot
from .assets import module
from .form import Form, FormView
from .source import Source


class PresetsView(FormView):
    """The browser's half of `Presets`. It asks again when `news` has changed.

    Presets travel as JSON text with `seed` and the template's values as text in it: a browser rounds long numbers.
    """

    presets = param.String(default="", doc="The presets as JSON; empty before the first answer.")
    live = param.String(default="[]", doc="What is told of each model, as JSON: see `told`.")
    news = param.String(default="", doc="Changes when presets may have changed.")
    spec = param.Dict(default={}, doc="Bounds, choices and defaults of the fields, by their path.")
    about = param.Dict(
        default={}, doc="What is known of a model: `model`, `variables`, `tools`, `reasoning`."
    )
    starting = param.List(
        default=[], doc="Presets that a button of this component starts, stops or restarts."
    )
    blocked = param.Dict(
        default={}, doc="What was not done for the sake of others: `name`, `what`, `text`; it can be forced."
    )
    done = param.Dict(default={}, doc="The last thing that was done: `what`, `name`, `count`.")
    file = param.Dict(default={}, doc="A text to be saved by the browser: `name`, `text`, `count`.")
    deleted = param.String(default="", doc="The preset that can be had back.")
    url = param.String(default="", doc="Where the server is; empty where it is the page's own.")

    _esm = module("presets", "preset_editor", "fields")


class Presets(Form):
    """The presets of a server: a card for each, and an editor. What is saved holds for the next request."""

    view: PresetsView

    def __init__(self, source: Source):
        view = PresetsView(spec=spec(), url=getattr(source, "url", ""), sizing_mode="stretch_width")
        super().__init__(source, view)
        self._presets: dict[str, Preset] = {}
        self._deleted: Preset | None = None

    def refresh(self) -> None:
        super().refresh()
        self.work(self._ask)

    def take(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        live = msgspec.json.encode([told(one) for one in snapshot.models]).decode()
        self.view.param.update(live=live, news=str(snapshot.preset_changes))

    def act(self, message: dict[str, Any]) -> None:
        match message:
            case {"do": "ask"}:
                self.work(self._ask)
            case {"do": "about", "model": str(model)}:
                self.work(partial(self._about, model))
            case {"do": "save", "name": str(name), "preset": dict(raw)}:
                self.work(partial(self._busy, partial(self._save, name, raw)))
            case {"do": "delete", "name": str(name)}:
                self.work(partial(self._busy, partial(self._delete, name)))
            case {"do": "undo"}:
                self.work(partial(self._busy, self._undo))
            case {"do": "duplicate", "name": str(name), "copy": str(copy)}:
                self.work(partial(self._busy, partial(self._duplicate, name, copy)))
            case {"do": "export", "name": str(name)}:
                self.work(partial(self._export, name))
            case {"do": "import", "toml": str(toml), "replace": bool(replace)}:
                self.work(partial(self._busy, partial(self._import, toml, replace)))
            case {"do": "start" | "stop" | "restart" as what, "name": str(name)}:
                self.work(partial(self._switch, what, name, message.get("force") is True))

    # --- what there is ---------------------------------------------------------------------------------------

    async def _ask(self) -> None:
        self._presets = {preset.name: preset for preset in await self.source.presets()}
        limits = {limit.name: limit.value for limit in await self.source.timeouts()}
        known = dict(self.view.spec)
        for name in ("chat", "completions", "embeddings"):
            value = limits.get(f"timeout_{name}_seconds")
            known[f"timeouts.{name}"] = {**known[f"timeouts.{name}"], "default": value}
        text = msgspec.json.encode([shown(preset) for preset in self._presets.values()]).decode()
        self.view.param.update(presets=text, spec=known)

    async def _about(self, model: str) -> None:
        """What is known of a model helps to fill the form; without it the form works too."""
        found: dict[str, Any] = {"model": model}
        with contextlib.suppress(MlxPanelError):
            known = await self.source.capabilities(model)
            found |= {
                "variables": [name for name in known.template_variables if name not in NOT_OPTIONS],
                "tools": known.tools,
                "reasoning": known.reasoning,
                "context": known.context_length,
            }
        self.view.about = found

    # --- what is done ----------------------------------------------------------------------------------------

    async def _save(self, name: str, raw: dict[str, Any]) -> None:
        preset = told_preset(raw)
        try:
            if name:
                await self.source.replace_preset(name, preset)
            else:
                await self.source.create_preset(preset)
        except ModelNotFound as error:
            raise ModelNotFound(str(error), field="model") from error
        await self._did("save", preset.name)

    async def _delete(self, name: str) -> None:
        kept = self._presets.get(name)
        await self.source.delete_preset(name)
        self._deleted = kept
        self.view.deleted = name if kept else ""
        await self._did("delete", name)

    async def _undo(self) -> None:
        preset, self._deleted = self._deleted, None
        self.view.deleted = ""
        if preset is not None:
            await self.source.create_preset(preset)
            await self._did("undo", preset.name)

    async def _duplicate(self, name: str, copy: str) -> None:
        made = await self.source.duplicate_preset(name, copy)
        await self._did("duplicate", made.name)

    async def _export(self, name: str) -> None:
        text = await self.source.export_presets(name)
        file = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name or "presets")
        count = self.view.file.get("count", 0) + 1
        self.view.file = {"name": f"{file}.toml", "text": text, "count": count}

    async def _import(self, toml: str, replace: bool) -> None:
        names = await self.source.import_presets(toml, replace)
        await self._did("import", ", ".join(names))

    async def _switch(self, what: str, name: str, force: bool) -> None:
        self.view.param.update(starting=[*self.view.starting, name], notice={}, blocked={})
        try:
            if what == "start":
                await self.source.start_preset(name)
            elif what == "stop":
                await self.source.stop_preset(name, force)
            else:
                await self.source.restart_preset(name, force)
        except Conflict as error:
            self.view.blocked = {"name": name, "what": what, "text": str(error)}
        finally:
            self.view.starting = [other for other in self.view.starting if other != name]

    async def _did(self, what: str, name: str) -> None:
        await self._ask()
        count = self.view.done.get("count", 0) + 1
        self.view.param.update(done={"what": what, "name": name, "count": count}, notice={})


# Variables of a template that the server fills in itself.
NOT_OPTIONS = {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "documents"}


def told(model: ModelState) -> dict[str, Any]:
    """What a card says of a model."""
    return {
        "id": model.id, "state": model.state, "kind": model.kind, "running": model.running, "queued": model.queued,
        "memory": model.memory, "reason": model.reason, "context": model.context_length, "pending": model.pending,
        "evicts": model.evicts,
    }  # fmt: skip


def shown(preset: Preset) -> dict[str, Any]:
    """A preset as the browser gets it: only what is not as by default, long numbers as text."""
    raw = msgspec.to_builtins(preset)
    if "seed" in raw.get("sampling", {}):
        raw["sampling"] = {**raw["sampling"], "seed": str(raw["sampling"]["seed"])}
    if "template" in raw:
        raw["template"] = {
            name: msgspec.json.encode(value).decode() for name, value in raw["template"].items()
        }
    return raw


def told_preset(raw: dict[str, Any]) -> Preset:
    """The preset that a browser sent. Raises InvalidParameter naming the field."""
    raw = dict(raw)
    if isinstance(sampling := raw.get("sampling"), dict) and isinstance(seed := sampling.get("seed"), str):
        try:
            raw["sampling"] = {**sampling, "seed": int(seed)}
        except ValueError as error:
            raise InvalidParameter("'seed' is a whole number.", field="sampling.seed") from error
    if isinstance(template := raw.get("template"), dict):
        raw["template"] = {name: _value(text) for name, text in template.items()}
    return preset_of(raw)


def _value(text: Any) -> Any:
    """A variable's value: JSON, or else the text as it stands."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, TypeError, RecursionError):
        return text


def spec() -> dict[str, dict[str, Any]]:
    """Bounds, choices and defaults of a preset's fields by path, as the struct states them."""
    schema = msgspec.json.schema(Preset)["$defs"]
    found = {path: _bounds(one) for path, one in schema["Preset"]["properties"].items()}
    for group, name in (("sampling", "SamplingDefaults"), ("timeouts", "PresetTimeouts")):
        for path, one in schema[name]["properties"].items():
            found[f"{group}.{path}"] = _bounds(one)
    plain = Sampling()
    for name in plain.__struct_fields__:
        if f"sampling.{name}" in found:
            found[f"sampling.{name}"]["default"] = getattr(plain, name)
    for bound in ("minimum", "maximum"):
        del found["sampling.seed"][bound]  # numbers of 64 bits, which a browser would round
    found["tools"]["choices"] = sorted(BY_NAME)
    found["reasoning"]["choices"] = sorted(STYLES)
    return found


def _bounds(schema: dict[str, Any]) -> dict[str, Any]:
    one = {**schema, **schema.get("anyOf", [{}])[0]}
    names = {
        "minimum": "minimum", "exclusiveMinimum": "above", "maximum": "maximum", "maxLength": "longest", "enum": "choices",
        "type": "type",
    }  # fmt: skip
    return {mine: one[its] for its, mine in names.items() if its in one}
