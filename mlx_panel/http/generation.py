"""What every endpoint that generates text does: decode, submit, follow, and say what came of it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import msgspec

from ..cache_log import helpful
from ..messages import Done, Echo, Event, GenerateRequest, Message, Reasoning, Text, ToolCall, Usage
from ..parse.volatile import strip
from ..pool.names import Named
from ..pool.process import Worker
from ..pool.stream import Stream
from ..tuning import DETERMINISTIC_CHUNK, CacheReport
from . import preset_use, probe_use, suitable
from .answer import PIECES, Answer, Piece, Places, together
from .guard import Clocks, guard
from .inference import Inference, raise_failure
from .ledger import UNKNOWN, Ledger
from .progress import Progress
from .receipt import receipt
from .seeds import seeded
from .sse import EventStream

LONG = 3600.0


class Call(msgspec.Struct, frozen=True):
    """A decoded body of any dialect: a request for each of its prompts, alike in everything else.

    `usage` says whether a stream ends with its token counts, `progress` whether it tells of its load and its prompt. `fields` are the caller's names of what a worker or
    `suitable.py` may find fault with, where they are others; `said` names what a preset has a default for and the body
    sets itself.
    """

    requests: tuple[GenerateRequest, ...]
    stream: bool = False
    usage: bool = False
    progress: bool = False
    ignored: list[str] = []
    fields: Mapping[str, str] = {}
    said: frozenset[str] = frozenset()

    @property
    def first(self) -> GenerateRequest:
        return self.requests[0]

    def meant(self, named: Named) -> Call:
        """The call with what its model's name stands for. Raises InvalidParameter."""
        call, preset = self, named.preset
        if preset is not None:
            requests = tuple(preset_use.use(request, preset, self.said) for request in self.requests)
            fields = {**self.fields, **preset_use.blamed(self.first, preset)}
            call = msgspec.structs.replace(self, requests=requests, fields=fields)
        if not named.low:
            return call
        low = tuple(msgspec.structs.replace(request, priority="low") for request in call.requests)
        return msgspec.structs.replace(call, requests=low)


class Reply(Protocol):
    """A dialect's side of the answer: events to bytes, nothing else.

    `plain` says that the bytes of a piece depend on nothing that came before it.
    """

    plain: bool

    def opening(self) -> bytes: ...
    def chunk(self, event: Piece | Echo | Done) -> bytes: ...
    def progress(self, progress: dict[str, Any]) -> bytes: ...
    def closing(self, usage: Usage) -> bytes: ...
    def whole(self, answer: Answer, usage: Usage) -> bytes: ...


class Generation(Inference):
    """An endpoint whose model writes text. A subclass has its dialect's `decode` and `speak`."""

    _turns: tuple[Message, ...] = ()  # as the model got them
    _rules: Collection[str] = ()

    def decode(self, body: bytes, *, id: str, refuse_unknown: bool) -> Call:
        raise NotImplementedError

    def speak(self, call: Call, places: Places) -> Reply:
        raise NotImplementedError

    async def answer(self, *path: str) -> None:
        settings = self.house.settings
        # Not the request's own id: two clients may send the same one, and a worker tells its requests apart by it.
        call = self.decode(self.body, id=uuid.uuid4().hex, refuse_unknown=settings.unknown_fields == "refuse")
        self._note(call)
        clocks = Clocks(settings, self.limit, self.ledger.arrived)
        follow = self._stream if call.stream else self._whole
        if call.stream and call.progress:
            say = self.speak(call, Places(call.requests)).progress
            self.progress = Progress(say, self.open_stream, self.interrupt)
        async with self.leased(call.first.model, clocks, count=len(call.requests)) as (worker, named):
            call = call.meant(named)
            requests = [self._suited(request, worker, call.fields) for request in seeded(call.requests)]
            requests = [msgspec.structs.replace(one, block_key=self.house.block_key) for one in requests]
            self.ledger.asks(requests[0])
            self.set_header("X-Sampling", receipt(requests[0]))
            with self.submitted(worker, clocks, *requests) as stream:
                await follow(call, stream, clocks)

    def _note(self, call: Call) -> None:
        self.ledger.stream = call.stream
        self.ledger.asks(call.first)
        self.ledger.choices = sum(request.n for request in call.requests)
        structure = call.first.structure
        self.ledger.structure = structure.kind if structure is not None else None
        self.ignore(call.ignored)

    def _suited(self, request: GenerateRequest, worker: Worker, fields: Mapping[str, str]) -> GenerateRequest:
        """The request as the model gets it. Raises what `suitable.check` raises.

        Headers say what lines were left out, and how a deterministic answer comes about.
        """
        if worker.ready is not None:
            info = worker.ready.info
            request = probe_use.use(request, info, self.house.library.probed(worker.model))
            suitable.check(request, info, fields)
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

    async def _whole(self, call: Call, stream: Stream, clocks: Clocks) -> None:
        places = Places(call.requests)
        answer = Answer(places)
        stream.sink = _Collecting(answer, self.ledger, clocks)
        async for events in guard(stream, clocks, lambda: LONG):
            self._saw(events)
            answer.add(events)
            raise_failure(events, self.asks_in, call.fields)
        if answer.broken:
            self.set_header("X-Unparsed-Tool-Calls", str(answer.broken))
        self.reply(self.speak(call, places).whole(answer, self.ledger.usage))

    async def _stream(self, call: Call, stream: Stream, clocks: Clocks) -> None:
        reply, out = self.speak(call, Places(call.requests)), self.out or self.open_stream()
        if reply.plain:
            stream.sink = _Streaming(reply, out, self.ledger, clocks)
        async for events in guard(stream, clocks, out.silence_left):
            self._saw(events)
            data = b"".join(map(reply.chunk, together(events)))
            if stream.over and isinstance(events[-1], Done):
                data += reply.closing(self.ledger.usage)
            if self.progress is not None and (told := self.progress.of(events)):
                await out.send(told)
            if data:
                await out.begin(reply.opening(), data)
            else:
                await out.keep_alive()
            raise_failure(events, self.asks_in, call.fields)

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
            self.set_header("X-Cached-Tokens", str(self.ledger.usage.cached_tokens))


class _Collecting:
    """Takes the pieces of a whole answer as they come, without waking the request."""

    def __init__(self, answer: Answer, ledger: Ledger, clocks: Clocks):
        self._answer, self._ledger, self._clocks = answer, ledger, clocks

    def __repr__(self) -> str:
        return f"<_Collecting {self._answer!r}>"

    def __call__(self, events: list[Event]) -> bool:
        """Take events that are nothing but pieces, once the answer has begun."""
        tokens = _tokens(events)
        if tokens is None or self._ledger.ttft is None:
            return False
        self._answer.add(events)
        now = self._clocks.spoke = time.monotonic()
        self._ledger.heard(tokens, now)
        return True


class _Streaming:
    """The short way of a stream's pieces: from the frame to the socket in one turn, without waking the request.

    The first piece, the end, a failure and a client that does not read are the request's own business.
    """

    def __init__(self, reply: Reply, out: EventStream, ledger: Ledger, clocks: Clocks):
        self._reply, self._out, self._ledger, self._clocks = reply, out, ledger, clocks

    def __repr__(self) -> str:
        return f"<_Streaming {self._out!r}>"

    def __call__(self, events: list[Event]) -> bool:
        """Write events that are nothing but pieces, once the answer has begun and while the client reads."""
        tokens = _tokens(events)
        if tokens is None or not self._out.started:
            return False
        now, chunk = time.monotonic(), self._reply.chunk
        single = len(events) == 1
        data = chunk(events[0]) if single else b"".join(map(chunk, together(events)))  # type: ignore[arg-type]
        if not self._out.offer(data, now):
            return False
        self._ledger.heard(tokens, now)
        self._clocks.spoke = now
        return True


def _tokens(events: list[Event]) -> int | None:
    """The tokens of events that are all pieces of an answer; None if they are not."""
    if len(events) == 1:  # nearly always, and this runs for each token
        event = events[0]
        return event.tokens if type(event) in PIECES else None  # type: ignore[union-attr]
    pieces = [event for event in events if isinstance(event, Text | Reasoning | ToolCall)]
    return sum(piece.tokens for piece in pieces) if len(pieces) == len(events) else None
