"""`mlx-panel chat` in a real terminal: streamed, cancelled, forgotten, refused."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from .server import WORDS, Running, environment
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
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

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
                self.seen += re.sub(
                    r"\x1b\[[0-9;?]*[a-zA-Z]", "", os.read(self._master, 65536).decode(errors="replace")
                )
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


def test_an_error_in_the_middle_is_shown(serving: Running) -> None:
    terminal = Terminal("chat", "failing", "--url", serving.url, folder=serving)
    terminal.wait("> ")
    terminal.type("Hello\n")
    terminal.wait("Generating this answer failed")
    terminal.wait("> ")
    assert terminal.close() == 0
