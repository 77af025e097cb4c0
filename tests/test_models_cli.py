"""`mlx-panel models` as a process: on a server, alone, interrupted, asked, and with nobody to ask."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from .fake_hub import HubProcess, fake_hub
from .models import tiny_model
from .server import Running, environment, free_port

MODEL, OTHER, REAL = "org/Tiny-1M-4bit", "org/Other-2M-8bit", "org/Real"
SIZE = 4_000_000


@pytest.fixture(scope="module")
def hub_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("repositories")
    (folder / "org").mkdir()
    tiny_model(folder / REAL)
    (folder / REAL / "README.md").write_text("Words \x1b[2J of a stranger")
    with fake_hub(f"{MODEL}:{SIZE}", f"{OTHER}:30000", folder=folder) as hub:
        yield hub


@pytest.fixture
def hub(hub_process: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubProcess]:
    monkeypatch.setenv("HF_ENDPOINT", hub_process.url)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    yield hub_process
    hub_process.set(reset=True)
    hub_process.forget()


class Command:
    """`mlx-panel models` with a data folder of its own; with a server's port it finds the server."""

    def __init__(self, folder: Path, port: int):
        self.folder = folder
        self.environment = environment(folder, port=port)

    def start(self, *words: str, **pipes: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "mlx_panel", "models", *words], env=self.environment, text=True, **pipes
        )  # fmt: skip

    def __call__(self, *words: str, code: int = 0) -> str:
        """Standard output, or with another exit code the last line on standard error."""
        process = self.start(*words)
        out, said = process.communicate(timeout=90)
        assert process.returncode == code, f"{out}{said}"
        assert "Traceback" not in said
        return said.strip().splitlines()[-1] if code else out

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))


@pytest.fixture
def alone(tmp_path: Path, hub: HubProcess) -> Command:
    return Command(tmp_path / "data", free_port())


Serve = Callable[..., Running]


@pytest.fixture
def served(serve: Serve, hub: HubProcess) -> tuple[Running, Command]:
    server = serve()
    return server, Command(server.folder, int(server.url.rpartition(":")[2]))


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


# --- alone -----------------------------------------------------------------------------------------------------------


def test_a_model_s_life_without_a_server(alone: Command, hub: HubProcess) -> None:
    assert "No models yet" in alone("list")
    found = alone.json("search", "tiny", "--bits", "4", "--fits")
    assert [(model["id"], model["verdict"]) for model in found["models"]] == [(MODEL, "fits")]
    assert MODEL in alone("search", "--sort", "size", "--max-size", "1GB")
    assert alone.json("show", REAL)["needed"] > 0
    assert f"{REAL}: " in alone("pull", REAL)
    (listed,) = alone.json("list")
    assert (listed["id"], listed["source"], listed["complete"]) == (REAL, "hub cache", True)
    assert "hub cache" in alone("list")
    assert alone.json("search", "real")["models"][0]["local"]
    assert alone.json("show", REAL)["path"] == listed["path"]
    assert "commit" in alone.json("show", REAL, "--hub")
    said = alone("show", REAL, "--hub")
    assert "of a stranger" in said
    assert "\x1b" not in said  # it must not drive the terminal
    assert [one["level"] for one in alone.json("verify", REAL)["findings"]] == ["info"]
    assert "--yes" in alone("rm", REAL, code=1)
    assert "of disk are free again" in alone("rm", REAL, "--yes")
    assert alone.json("list") == []


def test_a_damaged_model_is_told(alone: Command) -> None:
    alone("pull", REAL)
    (listed,) = alone.json("list")
    weights = (Path(listed["path"]) / "model.safetensors").resolve()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o600)
    weights.write_bytes(data)
    assert "is damaged" in alone("verify", REAL, code=1)


def test_what_was_fetched_is_not_fetched_again(alone: Command, hub: HubProcess) -> None:
    hub.set(bytes_per_second=SIZE / 4)
    process = alone.start("pull", MODEL)
    wait_for(lambda: any(stop - start > SIZE / 8 for start, stop in hub.served("model.safetensors")))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "goes on with it" in said
    hub.set(reset=True)
    assert MODEL in alone("pull", MODEL)
    first, second = hub.served("model.safetensors")
    assert 0 < second[0] <= first[1]


def test_offline_says_so(alone: Command, hub: HubProcess) -> None:
    alone("pull", REAL)
    alone.environment["HF_HUB_OFFLINE"] = "1"
    page = alone.json("search")
    assert (page["offline"], [model["id"] for model in page["models"]]) == (True, [REAL])
    assert "offline" in alone("pull", MODEL, code=1)


def test_convert_fetches_first(alone: Command) -> None:
    assert "Chat with it" in alone("convert", REAL, "--bits", "8", "--name", "Smaller")
    models = {model["id"]: model for model in alone.json("list")}
    assert models["Smaller"]["bytes"] < models[REAL]["bytes"]
    assert models["Smaller"]["capabilities"]["bits"] == 8


def test_a_probe_brings_its_own_server_and_ends_it(alone: Command) -> None:
    alone("pull", REAL)
    report = alone("probe", REAL, "--report")
    assert REAL in report
    assert "|" in report
    assert alone.json("show", REAL)["capabilities"]["source"] == "probe"
    servers = [one for one in psutil.process_iter() if str(alone.folder) in _data_folder(one)]
    assert servers == []


def _data_folder(process: psutil.Process) -> str:
    try:
        return process.environ().get("MLX_SERVER_DATA_DIR", "")
    except psutil.Error:
        return ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pull", "org/none"), "The hub has no model org/none"),
        (("pull", "no good name"), "owner/name"),
        (("pull", MODEL, "--cancel"), "no download"),
        (("show", "org/none"), "There is no model on this machine"),
        (("verify", "none"), "no model"),
        (("rm", "none", "--yes"), "no model none"),
        (("convert", "none"), "owner/name"),
        (("search", "--max-size", "8XB"), "not a size"),
        (("search", "--limit", "0"), "'limit'"),
        (("list", "--url", "http://127.0.0.1:1"), "mlx-panel serve"),
    ],
)
def test_what_fails_is_one_line(alone: Command, words: tuple[str, ...], said: str) -> None:
    process = alone.start(*words)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert len(error.strip().splitlines()) == 1
    assert said in error


# --- on a server -----------------------------------------------------------------------------------------------------


def test_a_model_s_life_on_a_server(served: tuple[Running, Command], hub: HubProcess) -> None:
    server, command = served
    assert f"{REAL}: " in command("pull", REAL)
    (download,) = server.client.get("/api/models/downloads").json()["downloads"]
    assert (download["model"], download["state"]) == (REAL, "completed")
    assert {model["id"] for model in command.json("list")} >= {REAL, "plain"}
    assert "ready" not in command("list")
    server.client.post(f"/v1/admin/models/load/{REAL}").raise_for_status()
    assert "ready" in command("list")
    assert "unload it first" in command("rm", REAL, "--yes", code=1)
    assert "leave out --alone" in command("rm", REAL, "--yes", "--alone", code=1)
    assert server.client.get(f"/api/models/local/{REAL}").status_code == 200
    server.client.post(f"/v1/admin/models/unload/{REAL}").raise_for_status()
    assert command.json("verify", REAL)["state"] == "done"
    assert "free again" in command("rm", REAL, "--yes")
    assert server.client.get(f"/api/models/local/{REAL}").status_code == 404


def test_a_server_of_another_folder_is_not_used(served: tuple[Running, Command], tmp_path: Path) -> None:
    _, command = served
    other = Command(tmp_path / "other", 0)
    other.environment["MLX_SERVER_PORT"] = command.environment["MLX_SERVER_PORT"]
    assert other.json("list") == []
    named = other.json("list", "--url", f"http://127.0.0.1:{other.environment['MLX_SERVER_PORT']}/v1/")
    assert "plain" in [model["id"] for model in named]


def test_a_download_goes_on_without_its_watcher(served: tuple[Running, Command], hub: HubProcess) -> None:
    server, command = served
    hub.set(bytes_per_second=SIZE / 5)
    process = command.start("pull", MODEL)
    assert process.stderr is not None
    process.stderr.readline()  # a quarter
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "--cancel it ends" in said
    (download,) = server.client.get("/api/models/downloads").json()["downloads"]
    assert download["state"] == "downloading"
    assert MODEL in command("pull", MODEL)
    assert len(hub.served("model.safetensors")) == 1  # the same job, watched again


def test_a_download_is_cancelled(served: tuple[Running, Command], hub: HubProcess) -> None:
    server, command = served
    hub.set(bytes_per_second=SIZE / 60)
    server.client.post("/api/models/download", json={"model": MODEL}).raise_for_status()
    assert "is cancelled" in command("pull", MODEL, "--cancel")
    (download,) = server.client.get("/api/models/downloads").json()["downloads"]
    assert download["state"] == "cancelled"


# --- with a person at a terminal -------------------------------------------------------------------------------------


class Terminal:
    """A command on a terminal: what it says, what is typed."""

    def __init__(self, command: Command, *words: str):
        ours, theirs = pty.openpty()
        self.process = command.start(
            *words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self._ours = ours
        self.said = ""

    def until(self, text: str) -> None:
        """Read until a text was said."""
        with contextlib.suppress(OSError):  # the other end is closed
            while text not in self.said:
                self.said += os.read(self._ours, 4096).decode("utf-8", "replace")
        assert text in self.said, self.said

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> int:
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(self._ours, 4096):
                self.said += piece.decode("utf-8", "replace")
        os.close(self._ours)
        return self.process.wait(30)


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 1), ("y\n", 0, 0), ("\n", 1, 1)])
def test_rm_asks(alone: Command, answer: str, code: int, left: int) -> None:
    alone("pull", REAL)
    terminal = Terminal(alone, "rm", REAL)
    terminal.until("[y/N]")
    terminal.type(answer)
    assert terminal.end() == code
    assert len(alone.json("list")) == left


def test_ctrl_c_asks_whether_a_job_goes_on(served: tuple[Running, Command], hub: HubProcess) -> None:
    server, command = served
    hub.set(bytes_per_second=SIZE / 60)
    terminal = Terminal(command, "pull", MODEL)
    terminal.until(MODEL)
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("Leave it running? [Y/n]")
    terminal.type("n\n")
    assert terminal.end() == 130
    assert "It is cancelled" in terminal.said
    (download,) = server.client.get("/api/models/downloads").json()["downloads"]
    assert download["state"] == "cancelled"
