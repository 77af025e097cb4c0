"""What a person sets. Each value knows where it came from.

    default < settings.toml < MLX_SERVER_* environment < command line < live change

A live change is made on the dashboard or over the API and is kept in `settings.live.json` in the data folder.
Every parameter's environment name is `MLX_SERVER_` and its name in capitals; lists are comma-separated there.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import param

from .errors import InvalidParameter, SettingsError
from .messages import Limit

SourceName = Literal["default", "file", "environment", "command line", "live"]
PREFIX = "MLX_SERVER_"
DEFAULT_PORT = 10242
ENVIRONMENT_ONLY = {f"{PREFIX}DATA_DIR", f"{PREFIX}BLAS"}


def data_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where everything of this user's server lives: `MLX_SERVER_DATA_DIR`, else `~/.mlx-panel`."""
    return Path(environment.get(f"{PREFIX}DATA_DIR") or "~/.mlx-panel").expanduser()


class Settings(param.Parameterized):
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
        doc="Total time of an embeddings request; holds once that endpoint is there.",
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

    max_requests = param.Integer(
        512, bounds=(1, 100_000), doc="Requests running and waiting; more are refused with 503."
    )
    max_batch = param.Integer(
        32, bounds=(1, 1024), doc="Requests a model generates at once; more wait in its queue."
    )
    prefill_step = param.Integer(
        512, bounds=(16, 65536), doc="Prompt tokens processed between two decode steps."
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
            if isinstance(value, bool):
                raise TypeError
            setattr(self, name, value)
        except (ValueError, TypeError) as error:
            raise SettingsError(
                f"{source}: {name} cannot be {value!r}. {self.param[name].doc}", field=name
            ) from error
        self._source[name] = source
        if source != "live":
            self._under[name] = (source, value)

    def _parse(self, source: SourceName, name: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        kind = self.param[name]
        try:
            return _from_text(kind, value)
        except ValueError as error:
            raise SettingsError(
                f"{source}: {name} cannot be {value!r}; it is a number.", field=name
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

    def change(self, values: Mapping[str, Any]) -> None:
        """Set limits live, all or none. Raises InvalidParameter naming the first that cannot be."""
        for name, value in values.items():
            self._check(name, value)
        for name, value in values.items():
            self._set("live", name, float(value))

    def _check(self, name: str, value: Any) -> None:
        if name not in LIVE_TIMEOUTS:
            raise InvalidParameter(
                f"There is no live setting of that name. Known: {', '.join(LIVE_TIMEOUTS)}.", field=name
            )
        low, high = self.param[name].bounds
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise InvalidParameter(f"{name} must be a number of seconds from {low} to {high}.", field=name)

    def reset(self) -> None:
        """Forget the live changes; what the layers below say holds again."""
        for name in [name for name, source in self._source.items() if source == "live"]:
            source, value = self._under.get(name, ("default", self.param[name].default))
            setattr(self, name, value)
            self._source[name] = cast(SourceName, source)

    @property
    def live(self) -> dict[str, Any]:
        """The live changes."""
        return {name: getattr(self, name) for name, source in self._source.items() if source == "live"}

    def restore(self, live: Mapping[str, Any]) -> None:
        """Make these the live changes."""
        self.reset()
        for name, value in live.items():
            self._set("live", name, value)

    def save(self) -> None:
        """Write the live changes, atomically. Blocks on the disk: call it off the loop. Raises OSError."""
        live = self.live
        partial = self.live_file.with_suffix(".partial")
        partial.write_text(json.dumps(live, indent=2) + "\n", encoding="utf-8")
        partial.replace(self.live_file)


LIVE_TIMEOUTS = ("timeout_chat_seconds", "timeout_completions_seconds", "timeout_embeddings_seconds")


def _from_text(kind: param.Parameter, text: str) -> Any:
    if isinstance(kind, param.List):
        return [item.strip() for item in text.split(",") if item.strip()]
    if isinstance(kind, param.Integer):
        return int(text)
    if isinstance(kind, param.Number):
        return float(text)
    return text


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
