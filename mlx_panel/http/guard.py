"""Where a stream meets time: the only place that holds a request's clocks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from ..errors import Timeout
from ..messages import CacheReport, Echo, Event, Stage, Trace
from ..pool.stream import Stream
from ..settings import Settings

T = TypeVar("T")
CLOCKS = {
    "total": "The request took longer than its limit of {:g} seconds.",
    "queue": "The request waited in the queue longer than {:g} seconds.",
    "first_token": "No token came within {:g} seconds.",
    "stall": "The answer paused for longer than {:g} seconds.",
}


class Clocks:
    """The limits of one request, from its arrival. A limit of 0 is no limit.

    `total` runs all the time, load and queue included; `queue` from admission to prefill; `first_token` from admission
    to the first piece of the answer; `stall` between two pieces.
    """

    def __init__(self, settings: Settings, limit: str, arrived: float):
        self._limits = {
            name: getattr(settings, f"timeout_{name}_seconds") for name in ("queue", "first_token", "stall")
        }
        self._limits["total"] = getattr(settings, limit)
        self._ends: dict[str, float] = {}
        self.spoke: float | None = None  # when the last piece came: an attribute, as each piece writes it
        self._arrived = arrived
        self._start("total", arrived)

    def __repr__(self) -> str:
        left = ", ".join(f"{name} {end - time.monotonic():.1f} s" for name, end in self._ends.items())
        return f"<Clocks {left}>"

    def allow(self, seconds: float) -> None:
        """Another limit on the whole request than its endpoint's."""
        self._limits["total"] = seconds
        self._start("total", self._arrived)

    def admitted(self) -> None:
        """The worker has the request."""
        self._start("queue")
        self._start("first_token")

    def saw(self, event: Event) -> None:
        """Advance by an event of the request."""
        self._ends.pop("queue", None)
        if not isinstance(event, Stage | CacheReport | Echo | Trace):
            self._ends.pop("first_token", None)
            self.spoke = time.monotonic()

    def left(self) -> float:
        """Seconds until the nearest clock runs out, never negative."""
        self._wind()
        return max(0.0, min(self._ends.values()) - time.monotonic())

    def check(self) -> None:
        """Raise Timeout if a clock has run out."""
        self._wind()
        name = min(self._ends, key=self._ends.__getitem__)
        if self._ends[name] <= time.monotonic():
            limit = self._limits[name]
            raise Timeout(CLOCKS[name].format(limit), timeout_seconds=limit)

    async def within(self, work: Awaitable[T]) -> T:
        """Await something under the clocks. Raises Timeout."""
        try:
            async with asyncio.timeout(self.left()):
                return await work
        except TimeoutError:
            self.check()
            raise

    def _wind(self) -> None:
        if self.spoke is not None:
            self._start("stall", self.spoke)

    def _start(self, name: str, now: float | None = None) -> None:
        if self._limits[name]:
            self._ends[name] = (time.monotonic() if now is None else now) + self._limits[name]


async def guard(stream: Stream, clocks: Clocks, tick: Callable[[], float]) -> AsyncIterator[list[Event]]:
    """A request's events in batches, an empty one after `tick()` seconds of silence. Raises Timeout.

    Events that are there when a clock runs out are handed over first. What the stream's sink takes does not come by
    here: one timer for a long while stands in for one a token, and when it ends early it is set again.
    """
    ended = False
    while not ended:
        events = await stream.take(min(tick(), clocks.left()))
        for event in events:
            if not (isinstance(event, Stage) and event.stage == "queued"):
                clocks.saw(event)
        ended = stream.over
        if not events:
            clocks.check()
        yield events
        if not ended:
            clocks.check()
