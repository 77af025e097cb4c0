"""One request's events on their way from a worker's frames to whoever waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from ..messages import Cancelled, Done, Event, Failed

FINAL = (Done, Failed, Cancelled)


class Stream:
    """A list that fills and one future that wakes its single reader; several events make one wake-up."""

    __slots__ = ("_events", "_waiter", "ended", "id")

    def __init__(self, id: str):
        self.id = id
        self.ended = False
        self._events: list[Event] = []
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Stream {self.id} {'ended' if self.ended else 'open'}, {len(self._events)} waiting>"

    def put(self, event: Event) -> None:
        self._events.append(event)
        self.ended = self.ended or isinstance(event, FINAL)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self, timeout: float | None = None) -> list[Event]:
        """All events that wait, as soon as there is one; an empty list when `timeout` seconds pass without."""
        if not self._events:
            self._waiter = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._waiter,), timeout=timeout)
            self._waiter = None
        events, self._events = self._events, []
        return events


class Streams:
    """The open streams of one worker, by request id."""

    def __init__(self) -> None:
        self._open: dict[str, Stream] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, id: str) -> Stream:
        stream = self._open[id] = Stream(id)
        return stream

    def deliver(self, events: Iterable[Event]) -> None:
        """Hand events to their streams; those of streams nobody reads any more are dropped."""
        for event in events:
            stream = self._open.get(event.id)
            if stream is not None:
                stream.put(event)
                if stream.ended:
                    del self._open[event.id]

    def close(self, id: str) -> bool:
        """Forget a stream; True if it was still open."""
        return self._open.pop(id, None) is not None

    def fail(self, code: str) -> None:
        """End every open stream with an error."""
        self.deliver([Failed(id, code) for id in list(self._open)])
