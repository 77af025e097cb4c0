"""`POST /v1/embeddings`: OpenAI's embeddings dialect.

Source: the OpenAI API document, `CreateEmbeddingRequest` and `CreateEmbeddingResponse`. `truncate` is ours.
"""

from __future__ import annotations

import asyncio
import binascii
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

from ..errors import EmptyPrompt, InvalidParameter
from ..messages import Embedded, EmbedRequest, Event, Failed, ModelInfo, Stage
from ..pool.stream import Stream
from . import decode as bodies
from .guard import Clocks, guard
from .inference import Inference, raise_failure
from .ledger import Ledger

MAX_INPUTS = 2048
# Values that are written as text in one turn of the loop: some milliseconds.
TURN = 1 << 16
LONG = 3600.0
OTHER_NAMES = {"truncate_prompt_tokens": "truncate"}
VOCABULARY = bodies.Vocabulary(
    unsupported=dict.fromkeys(OTHER_NAMES, ()), instead=OTHER_NAMES, without_effect=frozenset({"user"})
)
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Encoding = Literal["float", "base64"]
FORMS = "'input' takes a string, a list of them, token ids, or a list of lists of those."
encode = msgspec.json.Encoder().encode


class EmbeddingBody(msgspec.Struct, frozen=True, kw_only=True):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    input: str | list[str | TokenId | list[TokenId]]
    encoding_format: Encoding | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    truncate: bool | None = None

    def inputs(self) -> tuple[str | tuple[int, ...], ...]:
        """Each input, as text or as token ids. Raises InvalidParameter and EmptyPrompt."""
        asked: list[Any] = self.input if isinstance(self.input, list) else [self.input]
        if asked and all(isinstance(one, int) for one in asked):
            asked = [asked]
        if len({type(one) for one in asked}) > 1:
            raise InvalidParameter(FORMS, field="input")
        if len(asked) > MAX_INPUTS:
            raise InvalidParameter(f"'input' takes up to {MAX_INPUTS} inputs.", field="input")
        if not asked or not all(asked):
            raise EmptyPrompt("'input' is empty, or one of its parts is.", field="input")
        return tuple(tuple(one) if isinstance(one, list) else one for one in asked)


class Asked(msgspec.Struct, frozen=True):
    """A decoded body."""

    request: EmbedRequest
    encoding: Encoding
    ignored: list[str]


def decode(body: bytes, *, id: str, refuse_unknown: bool) -> Asked:
    """An embeddings request. Raises BadRequest's children."""
    asked, ignored = bodies.take(bodies.load(body), EmbeddingBody, VOCABULARY, refuse_unknown=refuse_unknown)
    request = EmbedRequest(
        id=id,
        model=asked.model,
        inputs=asked.inputs(),
        dimensions=asked.dimensions,
        truncate=bool(asked.truncate),
    )
    return Asked(request, asked.encoding_format or "float", ignored)


class Embeddings(Inference):
    route = "/v1/embeddings"
    limit = "timeout_embeddings_seconds"
    kind = "embedding"
    asks_in = "input"

    async def answer(self, *path: str) -> None:
        settings = self.house.settings
        asked = decode(self.body, id=uuid.uuid4().hex, refuse_unknown=settings.unknown_fields == "refuse")
        self.ledger.choices = len(asked.request.inputs)
        self.ignore(asked.ignored)
        clocks = Clocks(settings, self.limit, self.ledger.arrived)
        async with self.leased(asked.request.model, clocks) as (worker, _):
            if worker.ready is not None:
                check(asked.request, worker.ready.info)
            with self.submitted(worker, clocks, asked.request) as stream:
                done = await self._followed(stream, clocks)
        if done.truncated:
            self.set_header("X-Truncated-Inputs", str(done.truncated))
        self.reply(await written(asked, done))

    async def _followed(self, stream: Stream, clocks: Clocks) -> Embedded:
        """The vectors, when they have come."""
        stream.sink = _Watching(self.ledger, clocks)
        async for events in guard(stream, clocks, lambda: LONG):
            for event in events:
                self.ledger.saw(event)
                _blame(event)
            raise_failure(events, self.asks_in)
            done = [event for event in events if isinstance(event, Embedded)]
        return done[0]


class _Watching:
    """Takes what is told of a request on its way without waking it."""

    def __init__(self, ledger: Ledger, clocks: Clocks):
        self._ledger, self._clocks = ledger, clocks

    def __repr__(self) -> str:
        return f"<_Watching {self._clocks!r}>"

    def __call__(self, events: list[Event]) -> bool:
        if not all(isinstance(event, Stage) for event in events):
            return False
        for event in events:
            self._ledger.saw(event)
            self._clocks.saw(event)
        return True


def check(request: EmbedRequest, info: ModelInfo) -> None:
    """Raises InvalidParameter for what only the model knows to be wrong."""
    ids = (one for one in request.inputs if not isinstance(one, str))
    if any(max(one) >= info.vocab_size for one in ids):
        raise InvalidParameter("'input' names a token that this model does not have.", field="input")
    if request.dimensions is not None and request.dimensions > info.dimensions:
        raise _dimensions(info.dimensions)


def _blame(event: Event) -> None:
    """Only figures come from a worker; these are the words for them."""
    if isinstance(event, Failed) and event.field == "dimensions":
        raise _dimensions(event.numbers.get("dimensions", 0))


def _dimensions(full: int) -> InvalidParameter:
    return InvalidParameter(
        f"'dimensions': this model's vectors have {full} values, and it is not known to be trained for the number asked for.",
        field="dimensions",
        dimensions=full,
    )


async def written(asked: Asked, done: Embedded) -> bytes:
    """The body of the reply. Other requests have their turn while many vectors are written."""
    step = max(1, TURN // done.dimensions)
    count = len(asked.request.inputs)
    pieces = [b'{"object":"list","data":[']
    for start in range(0, count, step):
        pieces += _items(asked.encoding, done, range(start, min(start + step, count)))
        await asyncio.sleep(0)
    usage = {"prompt_tokens": done.usage.prompt_tokens, "total_tokens": done.usage.total_tokens}
    tail: dict[str, Any] = {"model": asked.request.model, "usage": usage}
    if asked.request.truncate:
        tail["truncated"] = done.truncated
    return b"".join((*pieces, b"],", encode(tail)[1:]))


def _items(encoding: Encoding, done: Embedded, numbers: range) -> Iterator[bytes]:
    size = 4 * done.dimensions
    values = memoryview(done.vectors).cast("f")  # float32, as every machine that runs mlx keeps it
    for number in numbers:
        yield b"%s%d%s" % (
            b',{"object":"embedding","index":' if number else b'{"object":"embedding","index":',
            number,
            b',"embedding":',
        )
        if encoding == "base64":
            yield (
                b'"'
                + binascii.b2a_base64(done.vectors[number * size : (number + 1) * size], newline=False)
                + b'"}'
            )
        else:
            yield encode(values[number * done.dimensions : (number + 1) * done.dimensions].tolist()) + b"}"


routes = [(Embeddings.route, Embeddings)]
