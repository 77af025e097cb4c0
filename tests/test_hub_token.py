"""The hub's token: kept encrypted, told to nobody but the hub, and what holds where it cannot be read."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_panel.errors import HubRefused, InvalidParameter
from mlx_panel.hub.token import Token
from mlx_panel.secret import Secret, Unreadable

from .fake_hub import HubProcess, fake_hub

TOKEN = "hf_canaryABCDEFGHIJKLMNOPQRSTUVWXYZ"


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def holders(folder: Path, text: str = TOKEN) -> list[str]:
    """Files below a folder that hold a text."""
    files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    assert files
    return [str(file) for file in files if text.encode() in file.read_bytes()]


def test_it_is_kept_encrypted_and_private(tmp_path: Path) -> None:
    token = Token(tmp_path, {})
    token.set(f" {TOKEN}\n")
    token.keep_user("somebody")
    again = Token(tmp_path, {})
    assert (again.value(), again.user, again.source) == (TOKEN, "somebody", "stored")
    assert {file.name: mode(file) for file in tmp_path.iterdir()} == {"hub-token": 0o600, "secret": 0o600}
    assert holders(tmp_path) == []
    assert TOKEN not in f"{again!r} {again.__dict__}"
    again.clear()
    assert (Token(tmp_path, {}).value(), Token(tmp_path, {}).source) == ("", "")


def test_a_lost_secret_says_enter_it_again(tmp_path: Path) -> None:
    Token(tmp_path, {}).set(TOKEN)
    (tmp_path / "secret").unlink()
    lost = Token(tmp_path, {"HF_TOKEN": "hf_other"})
    with pytest.raises(HubRefused, match="Enter the token again"):
        lost.value()
    lost.set(TOKEN)
    assert lost.value() == Token(tmp_path, {}).value() == TOKEN


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"gAAAAA"])
def test_a_damaged_file_is_no_token(tmp_path: Path, damage: bytes) -> None:
    Token(tmp_path, {}).set(TOKEN)
    (tmp_path / "hub-token").write_bytes(damage)
    with pytest.raises(HubRefused, match="again"):
        Token(tmp_path, {}).value()


def test_which_token_holds(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hf_login\n")
    login = {"HF_HOME": str(tmp_path)}
    assert (Token(tmp_path, login).value(), Token(tmp_path, login).source) == ("hf_login", "login")
    assert Token(tmp_path, {**login, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}).value() == ""
    both = {**login, "HF_TOKEN": "hf_environment"}
    assert (Token(tmp_path, both).value(), Token(tmp_path, both).source) == ("hf_environment", "environment")
    Token(tmp_path, both).set(TOKEN)
    assert Token(tmp_path, both).value() == TOKEN


@pytest.mark.parametrize("bad", ["", "  ", "two words", "hf_é", "hf_\x00", "hf_a\r\nX-Other: 1", "x" * 513])
def test_what_is_no_token_is_not_quoted(tmp_path: Path, bad: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        Token(tmp_path, {}).set(bad)
    assert not bad.strip() or bad not in str(caught.value)
    if bad.strip():
        with pytest.raises(HubRefused, match="environment"):
            Token(tmp_path, {"HF_TOKEN": bad}).value()


@settings(deadline=None, max_examples=30)  # each writes to the disk and waits for it
@given(text=st.text())
def test_a_secret_gives_back_what_it_was_given(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    folder = tmp_path_factory.mktemp("secret")
    text = text.encode("utf-8", "replace").decode()
    locked = Secret(folder).encrypt(text)
    assert Secret(folder).decrypt(locked) == text
    with pytest.raises(Unreadable):
        Secret(folder).decrypt(locked[:-5] + b"AAAA=")
    (folder / "secret").unlink()
    Secret(folder).encrypt("another key is made")
    with pytest.raises(Unreadable):
        Secret(folder).decrypt(locked)


# --- over HTTP -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubProcess]:
    with fake_hub("org/tiny:1000", token=TOKEN) as one:
        monkeypatch.setenv("HF_ENDPOINT", one.url)
        monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        yield one


def test_the_server_keeps_it_to_itself(hub: HubProcess, serve: Any) -> None:
    server = serve(log_level="debug")
    client, place = server.client, "/api/settings/huggingface"
    state = client.get(place).json()
    assert (state["token"], state["source"], state["user"]) == (False, "", "")
    reply = client.post(f"{place}/test")
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "hub_refused")

    told = [client.put(place, json={"token": "hf_wrong"}), client.post(f"{place}/test")]
    assert "does not accept the token" in told[-1].json()["detail"]
    told.append(client.put(place, json={"token": f"{TOKEN} x"}))
    assert (told[-1].status_code, told[-1].json()["error"]["param"]) == (400, "token")
    told.append(client.put(place, json={"tokens": TOKEN}))
    assert told[-1].json()["error"]["code"] == "unknown_field"

    told += [client.put(place, json={"token": TOKEN}), client.post(f"{place}/test")]
    assert told[-1].json() == {"user": "somebody"}
    hub.set(repository={"id": "org/tiny", "private": True})
    told += [client.get("/api/models/hub/org/tiny"), client.get(place), client.get("/api/system")]
    assert told[-3].status_code == 200
    state = told[-2].json()
    assert (state["token"], state["source"], state["user"]) == (True, "stored", "somebody")
    assert [reply.text for reply in told if TOKEN in reply.text] == []
    assert server.stop() == 0
    assert holders(server.folder) == []
    assert mode(server.folder / "hub-token") == mode(server.folder / "secret") == 0o600

    again = serve()
    assert again.client.get("/api/models/hub/org/tiny").status_code == 200
    assert not again.client.delete(place).json()["token"]
    assert again.client.get("/api/models/hub/org/tiny").status_code == 404


def test_a_server_starts_without_its_secret(hub: HubProcess, serve: Any) -> None:
    server = serve()
    server.client.put("/api/settings/huggingface", json={"token": TOKEN}).raise_for_status()
    assert server.stop() == 0
    os.unlink(server.folder / "secret")
    again = serve()
    assert "Enter the token again" in again.client.get("/api/settings/huggingface").json()["error"]
    reply = again.client.get("/api/models/search")
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "hub_refused")
    again.client.delete("/api/settings/huggingface").raise_for_status()
    assert json.loads(again.client.get("/api/models/search").text)["models"]
