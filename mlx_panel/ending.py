"""How a server process ends: the first signal drains, a second one ends what still runs with an error event."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

from .app import Runtime

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Ending:
    """Answers the signals of the process whose loop runs the Runtime. Install it on that loop's thread, the main one."""

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self._draining: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Ending {'under way' if self._draining else 'installed'}>"

    def install(self) -> None:
        """Take the signals from whoever has them: Bokeh would cut running streams off."""
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self.asked)

    def asked(self) -> None:
        if self._draining is None:
            self._draining = asyncio.create_task(self._runtime.drain())
            self._draining.add_done_callback(self._end)
            self._tell(self._runtime.working)
        else:
            self._draining.cancel()

    @staticmethod
    def _tell(working: int) -> None:
        what = f"{working} request(s) may finish; once more to stop now" if working else "nothing is running"
        with contextlib.suppress(OSError):  # a terminal that was closed takes no words any more
            print(f"\nStopping: {what}.", file=sys.stderr, flush=True)

    def _end(self, _: asyncio.Task[None]) -> None:
        self._ended = asyncio.create_task(self._stop())

    async def _stop(self) -> None:
        await self._runtime.stop()
        asyncio.get_running_loop().stop()
