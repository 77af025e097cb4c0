"""Settings: where a value comes from, which one holds, and that each has an effect at its door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_panel.errors import InvalidParameter, SettingsError
from mlx_panel.settings import LIVE_TIMEOUTS, Settings

from .server import Running
from .test_doors import wait_for


def load(folder: Path, arguments: dict[str, Any] | None = None, **environment: str) -> Settings:
    named = {f"MLX_SERVER_{name}": value for name, value in environment.items()}
    return Settings.load(arguments, {"MLX_SERVER_DATA_DIR": str(folder), **named})


def test_each_layer_lies_over_the_one_before(tmp_path: Path) -> None:
    name = "timeout_chat_seconds"
    seen = [(getattr(load(tmp_path), name), load(tmp_path).source(name))]
    (tmp_path / "settings.toml").write_text(f"{name} = 1\n")
    seen.append((getattr(load(tmp_path), name), load(tmp_path).source(name)))
    layers: list[tuple[dict[str, Any] | None, dict[str, str]]] = [
        (None, {"TIMEOUT_CHAT_SECONDS": "2"}),
        ({name: 3}, {"TIMEOUT_CHAT_SECONDS": "2"}),
    ]
    for arguments, environment in layers:
        settings = load(tmp_path, arguments, **environment)
        seen.append((getattr(settings, name), settings.source(name)))
    settings.change({name: 4})
    settings.save()
    again = load(tmp_path, {name: 3})
    seen.append((getattr(again, name), again.source(name)))
    assert seen == [(900, "default"), (1, "file"), (2.0, "environment"), (3, "command line"), (4.0, "live")]
    again.reset()
    assert (getattr(again, name), again.source(name)) == (3, "command line")
    again.save()
    assert json.loads(again.live_file.read_text()) == {}


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"PORT": "many"}, "environment: port"),
        ({"PORT": "70000"}, "environment: port"),
        ({"UNKNOWN_FIELDS": "shout"}, "unknown_fields"),
        ({"MAX_BATCH": "0"}, "max_batch"),
    ],
)
def test_a_value_that_cannot_be_names_its_place(
    tmp_path: Path, environment: dict[str, str], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        load(tmp_path, **environment)


@pytest.mark.parametrize("text", ["nonsense = 1", "port = ", "port = 'x'", "timeout_chat_seconds = true"])
def test_a_file_that_cannot_be_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(SettingsError):
        load(tmp_path)


def test_lists_in_the_environment(tmp_path: Path) -> None:
    assert load(tmp_path, MODELS="one, two,").models == ["one", "two"]


@pytest.mark.parametrize(
    "values",
    [
        {"port": 1},
        {LIVE_TIMEOUTS[0]: 0},
        {LIVE_TIMEOUTS[0]: "5"},
        {LIVE_TIMEOUTS[0]: 5, LIVE_TIMEOUTS[1]: float("nan")},
    ],
)
def test_a_live_change_is_whole_or_not_at_all(tmp_path: Path, values: dict[str, Any]) -> None:
    settings = load(tmp_path)
    with pytest.raises(InvalidParameter):
        settings.change(values)
    assert settings.timeouts() == load(tmp_path).timeouts()


def test_allowed_hosts_and_origins(serve: Any) -> None:
    server: Running = serve(allowed_hosts="127.0.0.1,studio.local", cors_origins="https://*.example.org")
    for headers, status in (
        ({"Host": "studio.local:10242"}, 200), ({"Host": "localhost"}, 403), ({"Origin": "https://app.example.org"}, 200), ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": server.url}, 200), ({"Origin": "null"}, 403),
    ):  # fmt: skip
        assert server.client.get("/v1/models", headers=headers).status_code == status, headers


def test_audit_flush(serve: Any) -> None:
    """Rows reach the disk when as many wait as the setting says, long before the time is up; else not."""
    patient: Running = serve(audit_flush_seconds=60, audit_flush_rows=1000)
    for _ in range(4):
        patient.chat()
    state = patient.client.get("/api/system").json()["audit"]
    assert (state["written"], state["pending"] >= 4) == (0, True)
    patient.stop()
    server: Running = serve(audit_flush_seconds=60, audit_flush_rows=4)
    for _ in range(4):
        server.chat()
    wait_for(lambda: server.client.get("/api/system").json()["audit"]["written"] >= 4)


def test_log_level(serve: Any) -> None:
    server: Running = serve(log_level="error")
    server.chat()
    assert "is ready" not in server.output()
    server.stop()
    louder: Running = serve(log_level="info")
    louder.chat()
    assert "is ready" in louder.output()
