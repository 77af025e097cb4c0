"""A server that a benchmark starts itself, waits for and stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from typing import IO

from .records import BenchmarkError
from .urls import base_url, client

VARIABLE = re.compile(r"[A-Za-z_]\w*=")
POLL_SECONDS = 0.2
STOP_SECONDS = 30.0
LAST_LINES = 5


@contextlib.asynccontextmanager
async def started(command: str, url: str, *, key: str = "", timeout: float = 300.0) -> AsyncIterator[None]:
    """A server for the length of a block; nothing is started for an empty command. Raises BenchmarkError."""
    if not command:
        yield
        return
    server = Started(command, url, key=key, timeout=timeout)
    try:
        await server.start()
        yield
    finally:
        await server.stop()


class Started:
    """A command of the person's own that serves `url`.

    Words like `NAME=value` before the program set its environment; there is no shell. It is up when it lists its
    models. Its output is shown only where it fails.
    """

    def __init__(self, command: str, url: str, *, key: str = "", timeout: float = 300.0):
        self._words, self._environment = _split(command)
        self._client = client(base_url(url), key)
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Started {self._words[0]} {'running' if self._process else 'not running'}>"

    async def start(self) -> None:
        """Start it and wait until it answers. Raises BenchmarkError."""
        if await self._answers():
            raise BenchmarkError(
                f"Something answers at {self._client.url} already; stop it, or start nothing."
            )
        self._process = await asyncio.to_thread(self._spawn)
        try:
            async with asyncio.timeout(self._timeout):
                await self._wait()
        except TimeoutError:
            raise BenchmarkError(f"{self._words[0]} did not answer within {self._timeout:g} s.") from None

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            return subprocess.Popen(
                self._words, env={**os.environ, **self._environment}, stdin=subprocess.DEVNULL,
                stdout=self._output, stderr=self._output, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise BenchmarkError(f"{self._words[0]} cannot be started: {error.strerror}.") from error

    async def _wait(self) -> None:
        assert self._process is not None
        while True:
            if await self._answers():
                return
            if self._process.poll() is not None:
                raise BenchmarkError(f"{self._words[0]} ended before it answered. {self._last_lines()}")
            await asyncio.sleep(POLL_SECONDS)

    async def _answers(self) -> bool:
        try:
            response, _ = await self._client.read("GET", "/models")
        except OSError:
            return False
        return response.status < 500

    def _last_lines(self) -> str:
        if self._output is None:
            return ""
        self._output.seek(0)
        return " | ".join(self._output.read().decode("utf-8", "replace").splitlines()[-LAST_LINES:])

    async def stop(self) -> None:
        self._client.close()
        if self._process is not None:
            await asyncio.shield(asyncio.to_thread(_end, self._process))
            self._process = None
        if self._output is not None:
            self._output.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the whole group, a wait, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return


def _split(command: str) -> tuple[list[str], dict[str, str]]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise BenchmarkError(f"This command cannot be read: {error}.") from error
    environment = {}
    while words and VARIABLE.match(words[0]):
        name, _, environment[name] = words.pop(0).partition("=")
    if not words:
        raise BenchmarkError("There is no command to start.")
    return words, environment
