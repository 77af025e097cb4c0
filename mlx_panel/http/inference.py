"""What every endpoint that runs a model does: find it, load it, submit to it, and cancel what nobody waits for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import ClassVar, NamedTuple

from ..aliases import header
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
from ..pool.names import Named
from ..pool.process import Worker
from ..pool.stream import Stream
from .endpoint import Endpoint
from .guard import Clocks
from .ledger import UNKNOWN
from .progress import Progress

# Only codes and figures come from a worker; these errors have no words of their own.
WORDS: dict[type[MlxPanelError], str] = {
    InvalidParameter: "has a value that this model cannot take",
    UnsupportedParameter: "is not supported by this model",
}


class Lease(NamedTuple):
    """A worker, and what the name stands for that it was asked by."""

    worker: Worker
    named: Named


class Inference(Endpoint):
    """A subclass names its limit, the kind of model it is for, and the field that holds what the model reads."""

    verbs = ("POST",)
    dialect = "openai"
    works = True
    limit: ClassVar[str] = ""
    kind: ClassVar[ModelKind] = "text"
    asks_in: ClassVar[str] = ""
    progress: Progress | None = None  # where the client asked for it

    @contextlib.asynccontextmanager
    async def leased(self, name: str, clocks: Clocks, *, count: int = 1) -> AsyncIterator[Lease]:
        """A worker for the model that a name stands for, found and loaded under the clocks.

        The body counts as `count` requests of `max_requests`; one of more than that is taken when nothing else runs.
        Raises QueueFull, ModelNotFound, WrongModelKind, ModelLoadFailed and Timeout.
        """
        self.ledger.model_requested = UNKNOWN
        running, most = len(self.house.meter), self.house.settings.max_requests
        if running >= most or (running and running + count > most):
            raise QueueFull
        with self.house.meter.request(count):
            named = await self.house.names.find(name)
            self._known(name, named, clocks)
            model = named.model.id
            asked = time.monotonic()
            self.ledger.passage.asked()
            async with contextlib.AsyncExitStack() as stack:
                stack.enter_context(self.house.names.used(named))
                lease = self.house.pool.lease(model, low=named.low)
                if self.progress is not None:
                    lease = self._told(lease, model)
                worker = await clocks.within(stack.enter_async_context(lease))
                self.ledger.loaded(model, time.monotonic() - asked, worker.started)
                if worker.ready is not None:
                    self.check_kind(worker.ready.info.kind)
                yield Lease(worker, named)

    @contextlib.asynccontextmanager
    async def _told(
        self, lease: contextlib.AbstractAsyncContextManager[Worker], model: str
    ) -> AsyncIterator[Worker]:
        """The lease, while the client is told how far the load is."""
        assert self.progress is not None
        async with contextlib.AsyncExitStack() as stack:
            async with self.progress.loading(self.house.pool, model):
                worker = await stack.enter_async_context(lease)
            yield worker

    def _known(self, name: str, named: Named, clocks: Clocks) -> None:
        """Note what a name stands for. One that only a rule took is the caller's text and is not kept."""
        preset, alias = named.preset, named.alias
        if alias is None or alias.kind == "exact":
            self.ledger.model_requested = name
            self.ledger.alias = alias.pattern if alias is not None else None
        if alias is not None:
            self.set_header("X-Alias", header(alias))
        if preset is not None:
            self.ledger.preset = preset.name
            self.set_header("X-Preset", preset.name)
            seconds = getattr(preset.timeouts, self.limit.removeprefix("timeout_").removesuffix("_seconds"))
            if seconds is not None:
                clocks.allow(seconds)
        self.check_kind(named.model.kind)

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
        stream = worker.submit(*requests, origin=self.ledger.passage.sent())
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
