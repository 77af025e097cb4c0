"""What a worker needs of an engine: `Engine`, `FakeEngine` and `EmbedEngine` are those there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from ..messages import Beat, Blas, Event, Memory, ModelInfo, Origin, Trace
from ..tuning import EngineOptions
from .timeline import NOWHERE


class AnyEngine(Protocol):
    """A model that answers many requests at once, one step at a time. Not safe to share between threads.

    Which requests it takes follows from `info.kind`: `GenerateRequest` for "text", `EmbedRequest` for "embedding".
    """

    info: ModelInfo
    blas: Blas
    device: str
    versions: dict[str, str]

    @property
    def busy(self) -> bool:
        """Whether `step()` has something to do or to tell."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The requests that wait or run."""

    def add(self, request: Any, origin: Origin = NOWHERE) -> None:
        """Queue a request that came from there; raises an error of the BadRequest family, or Conflict for an id that still runs."""

    def step(self) -> list[Event]:
        """One token for every running request, part of a prompt for others; the events that came of it."""

    def traces(self) -> list[Trace]:
        """Where the time of the requests that ended in the last step went."""

    def cancel(self, id: str) -> bool:
        """Drop a request before the next step, which then yields `Cancelled`; False when it is not there."""

    def tune(self, options: EngineOptions) -> None:
        """New options, at once but for those that need a new load."""

    def forget(self) -> None:
        """Empty the prefix cache, memory and disk."""

    def generate(self, request: Any) -> Iterator[Event]:
        """`add` and `step` until this request ends."""

    def memory(self) -> Memory: ...

    def beat(self) -> Beat: ...

    def close(self, *, last: bool = False) -> None:
        """Free the model; with `last` this thread never uses mlx again."""
