"""What every endpoint that generates text does: admit, lease, submit, follow, and cancel what nobody waits for."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterator
from typing import ClassVar, Protocol

import msgspec

from ..cache_log import helpful
from ..errors import BY_CODE, BadRequest, GenerationFailed, InvalidParameter, ModelStopped, QueueFull
from ..messages import Cancelled, Done, Event, Failed, GenerateRequest, Message, Text
from ..parse.volatile import strip
from ..pool.process import Worker
from ..pool.stream import Stream
from ..tuning import DETERMINISTIC_CHUNK, CacheReport
from .endpoint import Endpoint
from .guard import Clocks, guard
from .ledger import UNKNOWN, Ledger
from .sse import EventStream

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
    _turns: tuple[Message, ...] = ()  # as the model got them
    _rules: Collection[str] = ()

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
            request = self._suited(call.request, worker)
            with self._submitted(request, worker, clocks) as stream:
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

    def _suited(self, request: GenerateRequest, worker: Worker) -> GenerateRequest:
        """The request as the model gets it. Raises InvalidParameter for what only the model knows to be wrong.

        Headers say what lines were left out, and how a deterministic answer comes about.
        """
        biased = max(request.sampling.logit_bias, default=0)
        if worker.ready is not None and biased >= worker.ready.info.vocab_size:
            raise InvalidParameter(
                "'logit_bias' names a token that this model does not have.", field="logit_bias"
            )
        if request.deterministic:
            seed = request.sampling.seed or 0
            self.set_header("X-Deterministic", f"batch=1; prefill={DETERMINISTIC_CHUNK}; seed={seed}")
        return self._stripped(request, worker.model.id)

    def _stripped(self, request: GenerateRequest, model: str) -> GenerateRequest:
        self._rules = self.house.settings.engine_value("strip_rules", model)
        self._turns, counts = strip(request.messages or (), self._rules)
        if not counts:
            return request
        self.house.cache_log.stripped.update(counts)
        self.set_header("X-Stripped-Lines", ", ".join(f"{name}={count}" for name, count in counts.items()))
        return msgspec.structs.replace(request, messages=self._turns)

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
        stream.sink = _Collecting(pieces, self.ledger, clocks)
        async for events in guard(stream, clocks, lambda: LONG):
            self._saw(events)
            pieces.append(_text(events))
            _raise_failure(events, self.asks_in)
            for event in events:
                if isinstance(event, Done):
                    self.reply(self.speak(call).whole("".join(pieces), event))

    async def _stream(self, call: Call, stream: Stream, clocks: Clocks) -> None:
        reply, out = self.speak(call), self.open_stream()
        stream.sink = _Streaming(reply, out, self.ledger, clocks)
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
            if isinstance(event, CacheReport):
                self._recall(event)
        if waiting and self.ledger.ttft is not None:
            self.house.meter.first_token(self.ledger.ttft)

    def _recall(self, report: CacheReport) -> None:
        """Keep what the prefix cache did under the id the client knows."""
        self.house.cache_log.add(
            self.request_id,
            self.ledger.model_used or UNKNOWN,
            report,
            helpful(report, self._turns, self._rules),
        )
        if self.out is None or not self.out.opened:
            self.set_header("X-Cached-Tokens", str(report.cached_tokens))


class _Collecting:
    """Takes the pieces of a whole answer as they come, without waking the request."""

    def __init__(self, pieces: list[str], ledger: Ledger, clocks: Clocks):
        self._pieces, self._ledger, self._clocks = pieces, ledger, clocks

    def __repr__(self) -> str:
        return f"<_Collecting {len(self._pieces)} pieces>"

    def __call__(self, events: list[Event]) -> bool:
        """Take events that are nothing but text, once the answer has begun."""
        said = _said(events)
        if said is None or self._ledger.ttft is None:
            return False
        text, tokens = said
        self._pieces.append(text)
        self._ledger.spoken += tokens
        self._clocks.spoke = time.monotonic()
        return True


class _Streaming:
    """The short way of a stream's text: from the frame to the socket in one turn, without waking the request.

    The first piece, the end, a failure and a client that does not read are the request's own business.
    """

    def __init__(self, reply: Reply, out: EventStream, ledger: Ledger, clocks: Clocks):
        self._reply, self._out, self._ledger, self._clocks = reply, out, ledger, clocks

    def __repr__(self) -> str:
        return f"<_Streaming {self._out!r}>"

    def __call__(self, events: list[Event]) -> bool:
        """Write events that are nothing but text, once the answer has begun and while the client reads."""
        said = _said(events)
        if said is None or not self._out.started:
            return False
        text, tokens = said
        now = time.monotonic()
        if not self._out.offer(self._reply.piece(text), now):
            return False
        self._ledger.spoken += tokens
        self._clocks.spoke = now
        return True


def _said(events: list[Event]) -> tuple[str, int] | None:
    """The text of events and its tokens; None if they are not all text."""
    if len(events) == 1:  # nearly always, and this runs for each token
        event = events[0]
        return (event.text, event.tokens) if type(event) is Text else None
    pieces = [event for event in events if type(event) is Text]
    return (_text(events), sum(piece.tokens for piece in pieces)) if len(pieces) == len(events) else None


def _text(events: list[Event]) -> str:
    return "".join([event.text for event in events if isinstance(event, Text)])


def _chunks(reply: Reply, events: list[Event]) -> Iterator[bytes]:
    """Bytes of a batch of events; pieces that come together leave together."""
    text = _text(events)
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
