"""The settings that shape a model's engine, for every model or for one.

All of them can be changed live, and all but `strip_rules` go to the model's worker. Those in `RELOAD` hold from the
model's next load on, the others at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import param

from .parse.volatile import DEFAULT, RULES
from .tuning import FIXED, EngineOptions

Models = dict[str, dict[str, Any]]


class EngineSettings(param.Parameterized):
    """What `Settings` inherits. `model_options` overrides the others, by a model's name."""

    max_batch = param.Integer(
        32, bounds=(1, 1024), doc="Requests a model generates at once; more wait in its queue."
    )
    prefill_step = param.Integer(1024, bounds=(16, 65536), doc="Most prompt tokens processed in one pass.")
    max_decode_stall_ms = param.Number(
        200, bounds=(20, 5000), doc="Longest wait of a running answer for its next token while prompts run."
    )
    decode_share = param.Number(
        0.2, bounds=(0, 0.9), doc="Least share of the time for running answers while prompts wait."
    )
    admission_order: Any = param.Selector(
        default="shortest",
        objects=["shortest", "arrival"],
        doc="Whose prompt is processed next: short ones may overtake, or strictly by arrival.",
    )
    prefix_cache_mb = param.Integer(
        1024, bounds=(0, 1_048_576), doc="Memory for prompts seen before, MiB a model; 0 is off."
    )
    prefix_cache_disk = param.Boolean(
        True, doc="Whether those prompts also go to disk, into the data folder, and outlive a restart."
    )
    prefix_cache_disk_mb = param.Integer(
        8192, bounds=(0, 16_777_216), doc="Room for them on disk, MiB a model."
    )
    speculation: Any = param.Selector(
        default="off",
        objects=["off", "ngram", "draft"],
        doc="Guess tokens of a lone answer: from its own text, or by draft_model.",
    )
    draft_model = param.String("", doc="Name of the small model that guesses where speculation is draft.")
    kv_bits: Any = param.Selector(
        default=0, objects=[0, 4, 8], doc="Bits a value of the KV cache; 0 leaves it unquantised."
    )
    kv_group_size: Any = param.Selector(
        default=64, objects=[32, 64, 128], doc="Values that share a scale where kv_bits is not 0."
    )
    wired_limit_mb = param.Integer(
        0,
        bounds=(0, 1_048_576),
        doc="Memory the system may not page out on macOS, MiB; 0 leaves it be.",
    )
    strip_rules = param.ListSelector(
        default=sorted(DEFAULT),
        objects=[rule.name for rule in RULES],
        doc="Lines that agents change at each turn and that are left out of conversations, for the cache's sake.",
    )
    model_options = param.Dict({}, doc="Any of the engine's settings for one model, by its name.")

    def engine_value(self, name: str, model: str) -> Any:
        """What a setting is for a model."""
        return self.model_options.get(model, {}).get(name, getattr(self, name))

    def prefix_folder(self, data_folder: Path, model: str) -> Path:
        """Where a model's prompts lie on disk. A name may be longer than a file's, or hold what a file's may not."""
        readable = re.sub(r"[^\w.-]", "_", model, flags=re.ASCII)[:80]
        digest = hashlib.sha256(model.encode()).hexdigest()[:12]
        return data_folder / "prefix" / f"{readable}-{digest}"

    def engine_options(self, model: str, data_folder: Path) -> EngineOptions:
        """What a model's worker is given; `draft_model` is a name still."""
        values = {FIELDS.get(name, name): self.engine_value(name, model) for name in ENGINE}
        values["prefix_disk"] = str(self.prefix_folder(data_folder, model)) if values["prefix_disk"] else ""
        if values["speculation"] != "draft":
            values["draft_model"] = ""
        return EngineOptions(**values)

    def contradiction(self) -> tuple[str, str] | None:
        """The setting that another one makes impossible and a sentence about it, or None."""
        for model in ("", *self.model_options):
            draft = self.engine_value("draft_model", model)
            if self.engine_value("speculation", model) == "draft" and not draft:
                where = f" for {model!r}" if model else ""
                return "speculation", f"speculation{where} is draft, and no draft_model is given."
        return None


EDITABLE = tuple(
    name for name in EngineSettings.param if name not in (*param.Parameterized.param, "model_options")
)
ENGINE = tuple(name for name in EDITABLE if name != "strip_rules")  # what a worker is told
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
# Names in `EngineOptions` where they are others.
FIELDS = {"prefix_cache_disk": "prefix_disk", "prefix_cache_disk_mb": "prefix_disk_mb"}
SETTINGS = {field: name for name, field in FIELDS.items()}
RELOAD = tuple(SETTINGS.get(field, field) for field in FIXED)


def waiting(loaded: EngineOptions, wanted: EngineOptions) -> tuple[str, ...]:
    """The settings that a model loaded with one set of options and meant to have another waits with."""
    return tuple(SETTINGS.get(field, field) for field in loaded.waiting(wanted))


def fitting(kind: param.Parameter, value: Any) -> Any:
    """The value as the setting holds it. Raises ValueError with what it must be, `must be true or false`."""
    if isinstance(kind, param.Dict):
        return fitting_models(value)
    if isinstance(kind, param.Number) and not isinstance(kind, param.Boolean):
        return _fitting_number(kind, value)
    if isinstance(kind, param.Boolean):
        _must(isinstance(value, bool), "true or false")
    elif isinstance(kind, param.ListSelector):
        known = isinstance(value, list) and all(one in kind.objects for one in value)
        _must(known, f"a list of any of {', '.join(kind.objects)}")
    elif isinstance(kind, param.Selector):
        known = any(value == one and type(value) is type(one) for one in kind.objects)
        _must(known, f"one of {', '.join(map(str, kind.objects))}")
    else:
        _must(isinstance(value, str) and value.isprintable() and len(value) <= 512, "a name")
    return value


def _fitting_number(kind: param.Number, value: Any) -> Any:
    low, high = cast(tuple[float, float], kind.bounds)
    whole = isinstance(kind, param.Integer)
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    _must(number and low <= value <= high, f"a {'whole ' if whole else ''}number from {low} to {high}")
    return value if whole else float(value)


def fitting_models(tables: Any) -> Models:
    """Tables of settings by model name, checked. Raises ValueError with what is wrong."""
    if not isinstance(tables, Mapping) or not all(isinstance(table, Mapping) for table in tables.values()):
        raise ValueError("must be a table of tables, by the names of models")
    return {
        model: {name: _fitting_of(model, name, value) for name, value in table.items()}
        for model, table in tables.items()
    }


def _fitting_of(model: str, name: str, value: Any) -> Any:
    if name not in EDITABLE:
        raise ValueError(f"cannot hold {name!r} for {model!r}; known are {', '.join(EDITABLE)}")
    try:
        return fitting(EngineSettings.param[name], value)
    except ValueError as error:
        raise ValueError(f"is wrong for {model!r}: {name} {error}") from error


def merged(layers: list[Models]) -> Models:
    """Tables laid over each other, value by value."""
    found: Models = {}
    for layer in layers:
        for model, table in layer.items():
            found[model] = {**found.get(model, {}), **table}
    return found


def _must(be: bool, what: str) -> None:
    if not be:
        raise ValueError(f"must be {what}")


def from_text(kind: param.Parameter, text: str) -> Any:
    """A value as an environment variable or a flag holds it. Raises ValueError with what is wrong, `not a number`."""
    if isinstance(kind, param.ListSelector) and text == "none":
        return []
    if isinstance(kind, param.List | param.ListSelector):
        return [item.strip() for item in text.split(",") if item.strip()]
    if isinstance(kind, param.Selector):
        return next((one for one in kind.objects if str(one) == text), text)
    if isinstance(kind, param.Boolean):
        return _from_word(text.strip().lower())
    if isinstance(kind, param.Dict):
        return _from_json(text)
    if isinstance(kind, param.Number):
        return _from_digits(text, int if isinstance(kind, param.Integer) else float)
    return text


def _from_word(text: str) -> bool:
    if text not in (*YES, *NO):
        raise ValueError(f"none of {', '.join((*YES, *NO))}")
    return text in YES


def _from_json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ValueError("not JSON") from error


def _from_digits(text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError("not a number") from error
