"""The process that sends and searches, as the server sees it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable

from .orders import News, Order, encode, news

COMMAND = (sys.executable, "-m", "mlx_panel.prove.process")


class Failed(Exception):
    """The process ended before its order was done; the text is for a person."""


class Child:
    """Carries out one order. `heard` is called on the loop that awaits `run` with each piece of news."""

    def __init__(self, order: Order, heard: Callable[[News], None]):
        self._order, self._heard = order, heard
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def __repr__(self) -> str:
        return f"<Child pid {self._process.pid if self._process else None}>"

    async def run(self) -> None:
        """Return when the order is done. Raises Failed. Cancelled, it ends the process."""
        loop = asyncio.get_running_loop()
        work = asyncio.ensure_future(asyncio.to_thread(self._work, loop))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._end()
            with contextlib.suppress(Failed):
                await work
            raise

    def _end(self) -> None:
        self._cancelled = True
        if self._process is not None:
            self._process.terminate()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        # What it says of a failure of its own might quote a canary, so nobody reads it.
        with subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            self._process = process
            if self._cancelled:
                process.terminate()
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(encode(self._order))
                process.stdin.close()
            for line in process.stdout:
                loop.call_soon_threadsafe(self._heard, news(line))
        if process.returncode and not self._cancelled:
            raise Failed(f"The process that sends and searches ended (status {process.returncode}).")
