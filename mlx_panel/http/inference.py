"""What every endpoint that runs a model does: find it, load it, submit to it, and cancel what nobody waits for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import ClassVar

from ..errors import (
    BY_CODE,
    BadRequest,
    GenerationFailed,
    InvalidParameter,
    MlxPanelError,
    ModelStopped,
    QueueFull,
    UnsupportedParameter,
    WrongModelKind,
)
from ..messages import Cancelled, EmbedRequest, Event, Failed, GenerateRequest, ModelKind
from ..pool.process import Worker
from ..pool.stream import Stream
from .endpoint import Endpoint
from .guard import Clocks
from .ledger import UNKNOWN

# Only codes and figures come from a worker; these errors have no words of their own.
WORDS: dict[type[MlxPanelError], str] = {
    InvalidParameter: "has a value that this model cannot take",
    UnsupportedParameter: "is not supported by this model",
}


class Inference(Endpoint):
    """A subclass names its limit, the kind of model it is for, and the field that holds what the model reads."""

    verbs = ("POST",)
    dialect = "openai"
    works = True
    limit: ClassVar[str] = ""
    kind: ClassVar[ModelKind] = "text"
    asks_in: ClassVar[str] = ""

    @contextlib.asynccontextmanager
    async def leased(self, name: str, clocks: Clocks, *, count: int = 1) -> AsyncIterator[Worker]:
        """A worker for the model of that name, found and loaded under the clocks.

        The body counts as `count` requests of `max_requests`; one of more than that is taken when nothing else runs.
        Raises QueueFull, ModelNotFound, WrongModelKind, ModelLoadFailed and Timeout.
        """
        self.ledger.model_requested = UNKNOWN
        running, most = len(self.house.meter), self.house.settings.max_requests
        if running >= most or (running and running + count > most):
            raise QueueFull
        with self.house.meter.request(count):
            model = await self.house.pool.find(name)
            self.ledger.model_requested = model.id
            self.check_kind(model.kind)
            asked = time.monotonic()
            async with contextlib.AsyncExitStack() as stack:
                worker = await clocks.within(stack.enter_async_context(self.house.pool.lease(model.id)))
                self.ledger.loaded(model.id, time.monotonic() - asked)
                if worker.ready is not None:
                    self.check_kind(worker.ready.info.kind)
                yield worker

    def check_kind(self, kind: ModelKind) -> None:
        """Raises WrongModelKind."""
        if kind != self.kind:
            what = "makes embeddings and does not answer" if kind == "embedding" else "makes no embeddings"
            raise WrongModelKind(f"This model {what}.", field="model")

    @contextlib.contextmanager
    def submitted(
        self, worker: Worker, clocks: Clocks, *requests: GenerateRequest | EmbedRequest
    ) -> Iterator[Stream]:
        """The requests in the worker. Whatever ends the reading early also ends the work."""
        stream = worker.submit(*requests)
        clocks.admitted()
        try:
            yield stream
        finally:
            for request in requests:
                worker.cancel(request.id)


def raise_failure(events: list[Event], asks_in: str, fields: Mapping[str, str] | None = None) -> None:
    """Raise what a worker said of a request: about the field it names, which `fields` may call otherwise, else about
    `asks_in`."""
    for event in events:
        if isinstance(event, Failed):
            error = BY_CODE.get(event.code, GenerationFailed).revive(event.numbers)
            named = (fields or {}).get(event.field, event.field) or asks_in
            if type(error) in WORDS:
                error = type(error)(f"'{named}' {WORDS[type(error)]}.", field=None, **event.numbers)
            error.field = named if isinstance(error, BadRequest) else None
            raise error
        if isinstance(event, Cancelled):
            raise ModelStopped
