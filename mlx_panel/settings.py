"""What a person sets. Each value knows where it came from.

    default < settings.toml < MLX_SERVER_* environment < command line < live change

A live change is made on the dashboard or over the API and is kept in `settings.live.json` in the data folder.
Every parameter's environment name is `MLX_SERVER_` and its name in capitals; lists are comma-separated there, tables
are JSON. `model_options` is the one table: its values lie over each other one by one, each for its model.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import param

from .audit_settings import AUDIT_EDITABLE, AuditSettings, fitting_audit
from .engine_settings import EDITABLE, RELOAD, EngineSettings, Models, fitting, from_text, merged
from .errors import InvalidParameter, SettingsError
from .pool_settings import POOL_EDITABLE, PoolSettings, fitting_pool
from .sizing import Room
from .tuning import EngineOptions, Limit, Option, SourceName

PREFIX = "MLX_SERVER_"
DEFAULT_PORT = 10242
ENVIRONMENT_ONLY = {f"{PREFIX}DATA_DIR", f"{PREFIX}BLAS", f"{PREFIX}FAULTS"}


def data_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where everything of this user's server lives: `MLX_SERVER_DATA_DIR`, else `~/.mlx-panel`."""
    return Path(environment.get(f"{PREFIX}DATA_DIR") or "~/.mlx-panel").expanduser()


class Settings(EngineSettings, PoolSettings, AuditSettings):
    """All settings with their defaults. Durations are seconds, 0 switches an optional clock off."""

    host = param.String("127.0.0.1", doc="Address to listen on.")
    port = param.Integer(DEFAULT_PORT, bounds=(0, 65535), doc="Port to listen on; 0 takes a free one.")
    models = param.List(
        [], item_type=str, doc="Models loaded at start. While one is not ready, /health is 503."
    )

    timeout_chat_seconds = param.Number(
        900,
        bounds=(1, 86400),
        label="Chat completions",
        doc="Total time of a chat completion: queue, load and streaming included.",
    )
    timeout_completions_seconds = param.Number(
        600,
        bounds=(1, 86400),
        label="Completions",
        doc="Total time of a text completion: queue, load and streaming included.",
    )
    timeout_embeddings_seconds = param.Number(
        120,
        bounds=(1, 86400),
        label="Embeddings",
        doc="Total time of an embeddings request, from its arrival to its vectors.",
    )
    timeout_queue_seconds = param.Number(
        0, bounds=(0, 86400), doc="Longest wait in the queue before prefill starts."
    )
    timeout_first_token_seconds = param.Number(
        0, bounds=(0, 86400), doc="Longest wait for the first token once the model is loaded."
    )
    timeout_stall_seconds = param.Number(
        0, bounds=(0, 86400), doc="Longest pause between two tokens of an answer."
    )
    timeout_write_seconds = param.Number(
        60, bounds=(1, 3600), doc="Longest wait for a client that does not read its stream."
    )
    load_timeout_seconds = param.Number(600, bounds=(1, 86400), doc="Longest time a model may take to load.")
    silence_seconds = param.Number(
        120, bounds=(1, 86400), doc="A worker that sends nothing for this long is restarted."
    )
    drain_timeout_seconds = param.Number(
        30,
        bounds=(0, 3600),
        doc="How long running requests may go on when the server stops or their model is unloaded.",
    )
    sse_keepalive_seconds = param.Number(
        15, bounds=(0.05, 3600), doc="A stream with nothing to say sends a comment this often."
    )
    websocket_ping_seconds = param.Number(
        30,
        bounds=(0.05, 3600),
        doc="A WebSocket is pinged this often; a client that does not answer is let go.",
    )

    max_requests = param.Integer(
        512, bounds=(1, 100_000), doc="Requests running and waiting; more are refused with 503."
    )
    max_body_mb = param.Number(32, bounds=(0.01, 4096), doc="Largest request body in megabytes.")

    unknown_fields: Any = param.Selector(
        default="accept",
        objects=["accept", "refuse"],
        doc="Body fields no API defines: accepted and named in X-Ignored-Fields, or a 400.",
    )
    cors_origins = param.List(
        [
            "http://localhost:*",
            "https://localhost:*",
            "http://127.0.0.1:*",
            "https://127.0.0.1:*",
            "http://[::1]:*",
            "app://*",
            "tauri://*",
            "vscode-webview://*",
        ],
        item_type=str,
        doc="Origins whose pages may call the API; * matches anything.",
    )
    allowed_hosts = param.List(
        ["localhost", "127.0.0.1", "::1"],
        item_type=str,
        doc="Host names requests may be addressed to; guards against DNS rebinding.",
    )

    hub_offline = param.Boolean(
        False, doc="Do not ask the hub: search shows local models only, nothing is downloaded."
    )

    audit_flush_seconds = param.Number(
        0.25, bounds=(0.01, 60), doc="Audit rows are on disk after this long at the latest."
    )
    audit_flush_rows = param.Integer(500, bounds=(1, 100_000), doc="... or as soon as this many wait.")
    log_level: Any = param.Selector(
        default="info", objects=["debug", "info", "warning", "error"], doc="What the server logs."
    )

    def __init__(self, folder: Path, **values: Any):
        super().__init__(**values)
        self.folder = folder
        self._under: dict[str, tuple[SourceName, Any]] = {}
        self._source: dict[str, SourceName] = {}
        self._tables: dict[SourceName, Models] = {}
        self.unknown: list[str] = []  # names in the environment that look like settings and are none

    @classmethod
    def load(
        cls, arguments: Mapping[str, Any] | None = None, environment: Mapping[str, str] = os.environ
    ) -> Settings:
        """Read all layers. `arguments` are the command line's values, None where not given.

        Raises SettingsError naming the place and the setting when a value cannot be used.
        """
        settings = cls(data_folder(environment))
        for source, values in settings._layers(arguments or {}, environment):
            settings._apply(source, values)
        if wrong := settings.contradiction():
            raise SettingsError(wrong[1], field=wrong[0])
        return settings

    def _layers(
        self, arguments: Mapping[str, Any], environment: Mapping[str, str]
    ) -> list[tuple[SourceName, dict[str, Any]]]:
        named = {PREFIX + name.upper(): name for name in self._names()}
        self.unknown = sorted(
            {key for key in environment if key.startswith(PREFIX)} - named.keys() - ENVIRONMENT_ONLY
        )
        return [
            ("file", _read(self.folder / "settings.toml", tomllib.loads)),
            ("environment", {named[key]: text for key, text in environment.items() if key in named and text}),
            ("command line", {key: value for key, value in arguments.items() if value is not None}),
            ("live", _read(self.live_file, json.loads)),
        ]

    @property
    def live_file(self) -> Path:
        return self.folder / "settings.live.json"

    def source(self, name: str) -> SourceName:
        """Where the value of a setting comes from."""
        return self._source.get(name, "default")

    def _names(self) -> list[str]:
        return [name for name in self.param if name != "name"]

    def _apply(self, source: SourceName, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if name not in self._names():
                raise SettingsError(f"{source}: there is no setting {name!r}.", field=name)
            self._set(source, name, self._parse(source, name, value))

    def _set(self, source: SourceName, name: str, value: Any) -> None:
        try:
            if name == "model_options":
                return self._lay(source, fitting(self.param[name], value))
            if name in FITTED:
                value = self._fitted(name, value)
            elif isinstance(value, bool):
                raise TypeError
            setattr(self, name, value)
        except (ValueError, TypeError) as error:
            why = f"It {error}." if name in (*FITTED, "model_options") else self.param[name].doc
            raise SettingsError(f"{source}: {name} cannot be {value!r}. {why}", field=name) from error
        self._source[name] = source
        if source != "live":
            self._under[name] = (source, value)

    def _lay(self, source: SourceName, tables: Models) -> None:
        """Make these the models' own values of a layer."""
        self._tables[source] = tables
        self.model_options = merged([self._tables[one] for one in LAYERS if one in self._tables])

    def _parse(self, source: SourceName, name: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return from_text(self.param[name], value)
        except ValueError as error:
            raise SettingsError(
                f"{source}: {name} cannot be {value!r}; it is {error}.", field=name
            ) from error

    # --- live changes ----------------------------------------------------------------------------------------

    def timeouts(self) -> list[Limit]:
        """The endpoint limits a person edits live."""
        return [self._limit(name) for name in LIVE_TIMEOUTS]

    def _limit(self, name: str) -> Limit:
        kind = self.param[name]
        low, high = kind.bounds
        return Limit(
            name=name, label=kind.label or name, value=getattr(self, name), default=kind.default,
            minimum=low, maximum=high, source=self.source(name), doc=kind.doc or "",
        )  # fmt: skip

    def options(self, model: str = "") -> list[Option]:
        """The engine's settings a person edits live: those for every model, or what holds for one."""
        return [self._option(name, model) for name in EDITABLE]

    def _option(self, name: str, model: str) -> Option:
        kind, own = self.param[name], name in self.model_options.get(model, {})
        low, high = getattr(kind, "bounds", None) or (None, None)
        return Option(
            name=name, value=self.engine_value(name, model), default=kind.default, own=own, minimum=low, maximum=high,
            source=self._source_of(name, model) if own else self.source(name), unit=UNITS.get(name.rpartition("_")[2], ""),
            choices=getattr(kind, "objects", None) or [], reload=name in RELOAD, doc=kind.doc or "",
        )  # fmt: skip

    def pool_options(self) -> list[Option]:
        """The pool's settings a person edits live."""
        return [self._option(name, "") for name in POOL_EDITABLE]

    def audit_options(self) -> list[Option]:
        """The audit log's settings a person edits live."""
        return [self._option(name, "") for name in AUDIT_EDITABLE]

    def _source_of(self, name: str, model: str) -> SourceName:
        layers = (layer for layer in reversed(LAYERS) if name in self._tables.get(layer, {}).get(model, {}))
        return next(layers)

    def room(self, options: EngineOptions, context_length: int, *, process: int = 0) -> Room:
        """What a load must have room for: a model with these options that states this context (0: none)."""
        context = min(self.plan_context, context_length or self.plan_context)
        return Room(
            context=context, batch=self.plan_batch, prefill_step=min(options.prefill_step, context),
            kv_bits=options.kv_bits, kv_group_size=options.kv_group_size, process=process,
        )  # fmt: skip

    def options_of(self, model: str) -> EngineOptions:
        """What a model's worker is given; `draft_model` is a name still."""
        return self.engine_options(model, self.folder)

    def change(self, values: Mapping[str, Any]) -> None:
        """Set limits live, all or none. Raises InvalidParameter naming the first that cannot be."""
        self._change({**self.live, **self._fitting(values, LIVE_TIMEOUTS)})

    def change_hub(self, values: Mapping[str, Any]) -> None:
        """Set live how this server stands to the hub; None takes a live value back. Raises InvalidParameter."""
        self._change_some(values, HUB_EDITABLE)

    def change_pool(self, values: Mapping[str, Any]) -> None:
        """Set the pool's settings live, all or none; None takes a live value back. Raises InvalidParameter."""
        self._change_some(values, POOL_EDITABLE)

    def change_audit(self, values: Mapping[str, Any]) -> None:
        """Set the audit log's settings live, all or none; None takes a live value back. Raises InvalidParameter."""
        self._change_some(values, AUDIT_EDITABLE)

    def _change_some(self, values: Mapping[str, Any], names: tuple[str, ...]) -> None:
        fitted = self._fitting(values, names)
        self._change({name: value for name, value in {**self.live, **fitted}.items() if value is not None})

    def change_options(self, values: Mapping[str, Any], model: str = "") -> None:
        """Set the engine's settings live, for one model if one is named; all or none. None takes a live value back.

        Raises InvalidParameter naming the first that cannot be, or the one another makes impossible.
        """
        fitted, live = self._fitting(values, EDITABLE), self.live
        table = {**(live.get("model_options", {}).get(model, {}) if model else live), **fitted}
        self._keep(model, {name: value for name, value in table.items() if value is not None})

    def _keep(self, model: str, table: dict[str, Any]) -> None:
        """Make this the live layer, or a model's part of it."""
        live = self.live
        if model:
            others = {one: own for one, own in live.get("model_options", {}).items() if one != model}
            table = {**live, "model_options": {**others, model: table} if table else others}
        self._change(table)

    def _change(self, live: Mapping[str, Any]) -> None:
        before = self.live
        self.restore(live)
        if wrong := self.contradiction():
            self.restore(before)
            raise InvalidParameter(wrong[1], field=wrong[0])

    def _fitting(self, values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
        return {name: self._fits(name, value, names) for name, value in values.items()}

    def _fits(self, name: str, value: Any, names: tuple[str, ...]) -> Any:
        if name not in names:
            raise InvalidParameter(
                f"There is no live setting of that name. Known: {', '.join(names)}.", field=name
            )
        if value is None and name in FITTED:
            return None
        try:
            return self._fitted(name, value)
        except ValueError as error:
            raise InvalidParameter(f"{name} {error}.", field=name) from error

    def _fitted(self, name: str, value: Any) -> Any:
        kind = self.param[name]
        if name in AUDIT_EDITABLE:
            return fitting_audit(name, kind, value)
        return fitting_pool(name, kind, value) if name in POOL_EDITABLE else fitting(kind, value)

    def reset(self, names: tuple[str, ...] | None = None) -> None:
        """Forget the live changes, or those of these names; what the layers below say holds again."""
        live = self.live
        self._change({} if names is None else {name: live[name] for name in live if name not in names})

    def reset_options(self, model: str = "") -> None:
        """Forget the live changes to the engine's settings for every model, or to those of one."""
        if model:
            self._keep(model, {})
        else:
            self.reset(EDITABLE)

    @property
    def live(self) -> dict[str, Any]:
        """The live changes."""
        values = {name: getattr(self, name) for name, source in self._source.items() if source == "live"}
        tables = {"model_options": self._tables["live"]} if self._tables.get("live") else {}
        return values | tables

    def restore(self, live: Mapping[str, Any]) -> None:
        """Make these the live changes."""
        for name in [name for name, source in self._source.items() if source == "live"]:
            source, value = self._under.get(name, ("default", self.param[name].default))
            setattr(self, name, value)
            self._source[name] = cast(SourceName, source)
        self._lay("live", {})
        for name, value in live.items():
            self._set("live", name, value)

    def save(self) -> None:
        """Write the live changes, atomically. Blocks on the disk: call it off the loop. Raises OSError."""
        live = self.live
        partial = self.live_file.with_suffix(".partial")
        partial.write_text(json.dumps(live, indent=2) + "\n", encoding="utf-8")
        partial.replace(self.live_file)


LIVE_TIMEOUTS = ("timeout_chat_seconds", "timeout_completions_seconds", "timeout_embeddings_seconds")
HUB_EDITABLE = ("hub_offline",)
# Those whose values are checked by a function of their own.
FITTED = (*EDITABLE, *POOL_EDITABLE, *AUDIT_EDITABLE, *HUB_EDITABLE)
LAYERS: tuple[SourceName, ...] = ("file", "environment", "command line", "live")
UNITS = {"mb": "MiB", "ms": "ms", "seconds": "s", "bits": "bits", "days": "days", "rows": "rows"}


def _read(path: Path, parse: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """A settings file's values; a file that is not there has none."""
    if not path.exists():
        return {}
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path} does not hold settings.")
    return values
