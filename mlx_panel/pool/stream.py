"""The events of one request, or of several that are answered together, on their way from a worker's frames to whoever
waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from ..errors import ClientGone
from ..messages import Cancelled, Done, Embedded, Event, Failed, Reasoning, Text, ToolCall

FINAL = (Done, Embedded, Failed, Cancelled)
ROOM = 1 << 18  # characters of text that may wait for a reader who is at work
LOGPROB = 64  # what a log-probability that waits counts as, in characters
Sink = Callable[[list[Event]], bool]


class Stream:
    """A list that fills, and a future that wakes its single reader; several events make one wake-up.

    It follows the requests `ids`, and is `ended` when all of them are, or when one failed or was cancelled; what others
    say after that is dropped. `running` counts those that have not ended.

    While the reader waits, all events are offered to its `sink` first, in the turn of the loop in which they came. The
    sink takes them all and returns True, or none, and then the reader gets them. A reader who is busy with something
    else while more than `ROOM` characters wait has lost its stream: they are dropped, and it ends with ClientGone's code.
    """

    __slots__ = ("_events", "_held", "_lost", "_waiter", "ids", "running", "sink")

    def __init__(self, *ids: str):
        self.ids = ids
        self.running = len(ids)
        self.sink: Sink | None = None
        self._events: list[Event] = []
        self._held = 0
        self._lost = False
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "lost" if self._lost else "ended" if self.ended else "open"
        others = f" and {len(self.ids) - 1} more" if len(self.ids) > 1 else ""
        return f"<Stream {self.ids[0]}{others} {state}, {len(self._events)} waiting>"

    @property
    def ended(self) -> bool:
        return not self.running

    @property
    def over(self) -> bool:
        """Whether the reader has been given all there will be."""
        return (self.ended or self._lost) and not self._events

    def put(self, event: Event) -> bool:
        """Add an event. True if it is the first that waits: then `wake` is due as soon as no more come."""
        if self._lost or not self.running:
            return False
        kind = type(event)
        if kind is Text or kind is Reasoning or kind is ToolCall:
            self._held += _size(event)  # type: ignore[arg-type]
            if self._held > ROOM and not self._awaited:
                self._lost, self._events = True, [Failed(event.id, ClientGone.code)]
                return False
        elif kind in FINAL:
            self._end(event)
        self._events.append(event)
        return len(self._events) == 1

    def _end(self, event: Event) -> None:
        """A request has ended, or one of its choices."""
        if isinstance(event, Failed | Cancelled):
            self.running = 0
        elif not isinstance(event, Done) or event.last:
            self.running -= 1

    def wake(self) -> None:
        """Hand over what waits: to the sink, or to the reader."""
        if self._waiter is None or self._waiter.done():
            return
        # A sink that fails is not asked again: the reader gets the same events and meets the same fault.
        sink, self.sink = self.sink, None
        taken = False
        try:
            taken = sink is not None and sink(self._events)
            self.sink = sink
        finally:
            if taken:
                self._events.clear()
                self._held = 0
            else:
                _resolve(self._waiter)

    async def take(self, timeout: float | None = None) -> list[Event]:
        """All events that wait, as soon as there is one; an empty list when `timeout` seconds pass without.

        What the sink takes does not lengthen the wait.
        """
        if not self._events:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = None if timeout is None else loop.call_later(timeout, _resolve, self._waiter)
            try:
                await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        events, self._events, self._held = self._events, [], 0
        return events

    @property
    def _awaited(self) -> bool:
        return self._waiter is not None and not self._waiter.done()


class Streams:
    """The open streams of one worker, by request id."""

    def __init__(self) -> None:
        self._open: dict[str, Stream] = {}
        self._due: list[Stream] = []

    def __len__(self) -> int:
        return len(self._open)

    def open(self, *ids: str) -> Stream:
        """One stream for the events of several requests."""
        stream = Stream(*ids)
        self._open |= dict.fromkeys(ids, stream)
        return stream

    def deliver(self, events: Iterable[Event]) -> None:
        """Hand events to their streams, to each in one go; those of streams nobody reads any more are dropped."""
        find, due = self._open.get, self._due.append
        for event in events:
            stream = find(event.id)
            if stream is not None:
                running = stream.running
                if stream.put(event):
                    due(stream)
                if stream.running != running:
                    del self._open[event.id]
        self._wake()

    def _wake(self) -> None:
        try:
            while self._due:
                self._due.pop().wake()
        finally:
            if self._due:  # one failed; the others need not wait for the next frame
                asyncio.get_running_loop().call_soon(self._wake)

    def close(self, id: str) -> bool:
        """Forget a request's stream; True if the request still ran."""
        return self._open.pop(id, None) is not None

    def fail(self, code: str) -> None:
        """End every open stream with an error."""
        self.deliver([Failed(id, code) for id in list(self._open)])


def _size(event: Text | Reasoning | ToolCall) -> int:
    """About how much an event holds, in characters."""
    if type(event) is Text and event.logprobs:
        return len(event.text) + LOGPROB * sum(1 + len(one.top) for one in event.logprobs)
    return len(event.arguments if type(event) is ToolCall else event.text)  # type: ignore[union-attr]


def _resolve(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
