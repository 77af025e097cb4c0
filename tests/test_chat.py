"""`mlx-panel chat` in a real terminal: streamed, cancelled, forgotten, refused."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .server import WORDS, Running, environment, free_port, scripted
from .test_doors import idle, wait_for


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *command: str, folder: Running):
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlx_panel", *command], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**environment(folder.folder), "TERM": "dumb", "COLUMNS": "200"},
        )  # fmt: skip
        os.close(slave)
        self.seen = self.raw = ""

    def type(self, text: str | bytes) -> None:
        os.write(self._master, text.encode() if isinstance(text, str) else text)

    def wait(self, words: str, seconds: float = 20) -> str:
        """What was printed up to and with these words, which are then forgotten."""
        end = time.monotonic() + seconds
        while words not in self.seen:
            assert time.monotonic() < end, f"waited for {words!r}, saw {self.seen!r}"
            self._read(0.1)
        before, _, self.seen = self.seen.partition(words)
        return before + words

    def _read(self, seconds: float) -> None:
        if select.select([self._master], [], [], seconds)[0]:
            try:
                text = os.read(self._master, 65536).decode(errors="replace")
                self.raw += text
                self.seen += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
            except OSError:  # the terminal's other end is closed
                time.sleep(seconds)

    def close(self) -> int:
        if self.process.poll() is None:
            self.type("\x04")
        status = self.process.wait(10)
        os.close(self._master)
        return status


@pytest.fixture
def chat(serving: Running) -> Iterator[Terminal]:
    terminal = Terminal("chat", "plain", "--url", serving.url, folder=serving)
    terminal.wait("> ")
    yield terminal
    assert terminal.close() == 0


def test_an_answer_is_streamed(chat: Terminal) -> None:
    chat.type("Hello\n")
    chat.wait(WORDS)
    chat.wait("> ")
    chat.type("/reset\n")
    chat.wait("forgotten")


def test_control_c_ends_the_answer_not_the_chat(serving: Running) -> None:
    terminal = Terminal("chat", "slow", "--url", serving.url, folder=serving)
    terminal.wait("> ")
    terminal.type("Hello\n")
    terminal.wait("quick brown")
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.wait("(stopped)")
    wait_for(lambda: idle(serving))
    terminal.type("/exit\n")
    assert terminal.process.wait(10) == 0
    terminal.close()


@pytest.mark.parametrize(
    ("model", "url", "words"),
    [("nothing", None, "no model of this name"), ("plain", "http://127.0.0.1:9", "mlx-panel serve")],
)
def test_what_cannot_be_is_told_before_the_first_question(
    serving: Running, model: str, url: str | None, words: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlx_panel", "chat", model, "--url", url or serving.url],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_cannot_drive_the_terminal(serving: Running) -> None:
    scripted(serving.folder, "rude", text="before \x1b[2J\x1b]52;c;aGk=\x07 \x9b31m after")
    wait_for(lambda: "rude" in serving.client.get("/v1/models").text)
    terminal = Terminal("chat", "rude", "--url", f"{serving.url}/v1/", folder=serving)
    terminal.wait("> ")
    terminal.raw = ""
    terminal.type("Hello\n")
    terminal.wait("after")
    assert not {"\x1b[2J", "\x1b]52", "\x9b"} & {
        mark for mark in ("\x1b[2J", "\x1b]52", "\x9b") if mark in terminal.raw
    }
    assert terminal.close() == 0


def test_bytes_that_are_no_text(chat: Terminal) -> None:
    chat.type(b"\xff\xfe hello\n")
    chat.wait(WORDS)


def test_a_server_of_somebody_else(tmp_path: Path, serving: Running) -> None:
    (tmp_path / "v1" / "models").mkdir(parents=True)
    (tmp_path / "v1" / "models" / "plain").write_text("<html>")
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as other:
        wait_for(lambda: reachable(port))
        done = subprocess.run(
            [sys.executable, "-m", "mlx_panel", "chat", "plain", "--url", f"http://127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        other.terminate()
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "does not answer like" in done.stderr


def reachable(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_an_error_in_the_middle_is_shown(serving: Running) -> None:
    terminal = Terminal("chat", "failing", "--url", serving.url, folder=serving)
    terminal.wait("> ")
    terminal.type("Hello\n")
    terminal.wait("Generating this answer failed")
    terminal.wait("> ")
    assert terminal.close() == 0
