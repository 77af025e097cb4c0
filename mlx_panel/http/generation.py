"""What every endpoint that generates text does: admit, lease, submit, follow, and cancel what nobody waits for."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import ClassVar, Protocol

import msgspec

from ..errors import BY_CODE, BadRequest, GenerationFailed, ModelStopped, QueueFull
from ..messages import Cancelled, Done, Event, Failed, GenerateRequest, Text
from ..pool.process import Worker
from ..pool.stream import Stream
from .endpoint import Endpoint
from .guard import Clocks, guard
from .ledger import UNKNOWN

LONG = 3600.0


class Call(msgspec.Struct, frozen=True):
    """A decoded request of any dialect. `usage` says whether a stream ends with its token counts."""

    request: GenerateRequest
    stream: bool = False
    usage: bool = False
    ignored: list[str] = []


class Reply(Protocol):
    """A dialect's side of the answer: events to bytes, nothing else."""

    def opening(self) -> bytes: ...
    def piece(self, text: str) -> bytes: ...
    def closing(self, done: Done) -> bytes: ...
    def whole(self, text: str, done: Done) -> bytes: ...


class Generation(Endpoint):
    """An endpoint that runs a model. A subclass names its limit and its dialect's `decode` and `reply`."""

    verbs = ("POST",)
    dialect = "openai"
    works = True
    limit: ClassVar[str] = ""
    asks_in: ClassVar[str] = ""  # the field that holds the prompt

    def decode(self, body: bytes, *, id: str, refuse_unknown: bool) -> Call:
        raise NotImplementedError

    def speak(self, call: Call) -> Reply:
        raise NotImplementedError

    async def answer(self, *path: str) -> None:
        settings = self.house.settings
        # Not the request's own id: two clients may send the same one, and a worker tells its requests apart by it.
        call = self.decode(self.body, id=uuid.uuid4().hex, refuse_unknown=settings.unknown_fields == "refuse")
        self.ledger.stream = call.stream
        self.ignore(call.ignored)
        clocks = Clocks(settings, self.limit, self.ledger.arrived)
        follow = self._stream if call.stream else self._whole
        async with self._leased(call.request, clocks) as worker:
            with self._submitted(call.request, worker, clocks) as stream:
                await follow(call, stream, clocks)

    @contextlib.asynccontextmanager
    async def _leased(self, request: GenerateRequest, clocks: Clocks) -> AsyncIterator[Worker]:
        """A worker for the request's model, found and loaded under the clocks."""
        self.ledger.model_requested = UNKNOWN
        if len(self.house.meter) >= self.house.settings.max_requests:
            raise QueueFull
        with self.house.meter.request():
            model = await self.house.pool.find(request.model)
            self.ledger.model_requested = model.id
            asked = time.monotonic()
            async with contextlib.AsyncExitStack() as stack:
                worker = await clocks.within(stack.enter_async_context(self.house.pool.lease(model.id)))
                self.ledger.loaded(model.id, time.monotonic() - asked)
                yield worker

    @contextlib.contextmanager
    def _submitted(self, request: GenerateRequest, worker: Worker, clocks: Clocks) -> Iterator[Stream]:
        """The request in the worker. Whatever ends the reading early also ends the work."""
        stream = worker.submit(request)
        clocks.admitted()
        try:
            yield stream
        finally:
            worker.cancel(request.id)

    async def _whole(self, call: Call, stream: Stream, clocks: Clocks) -> None:
        pieces: list[str] = []
        async for events in guard(stream, clocks, lambda: LONG):
            self._saw(events)
            pieces += [event.text for event in events if isinstance(event, Text)]
            _raise_failure(events, self.asks_in)
            for event in events:
                if isinstance(event, Done):
                    self.reply(self.speak(call).whole("".join(pieces), event))

    async def _stream(self, call: Call, stream: Stream, clocks: Clocks) -> None:
        reply, out = self.speak(call), self.open_stream()
        async for events in guard(stream, clocks, out.silence_left):
            self._saw(events)
            data = b"".join(_chunks(reply, events))
            if data:
                await out.begin(reply.opening(), data)
            else:
                await out.keep_alive()
            _raise_failure(events, self.asks_in)

    def _saw(self, events: list[Event]) -> None:
        waiting = self.ledger.ttft is None
        for event in events:
            self.ledger.saw(event)
        if waiting and self.ledger.ttft is not None:
            self.house.meter.first_token(self.ledger.ttft)


def _chunks(reply: Reply, events: list[Event]) -> Iterator[bytes]:
    """Bytes of a batch of events; pieces that come together leave together."""
    text = "".join(event.text for event in events if isinstance(event, Text))
    if text:
        yield reply.piece(text)
    for event in events:
        if isinstance(event, Done):
            yield reply.closing(event)


def _raise_failure(events: list[Event], field: str) -> None:
    for event in events:
        if isinstance(event, Failed):
            error = BY_CODE.get(event.code, GenerationFailed).revive(event.numbers)
            error.field = field if isinstance(error, BadRequest) else None
            raise error
        if isinstance(event, Cancelled):
            raise ModelStopped
