"""The engine: a model in this process that answers many requests at once, one step at a time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from .. import __version__
from . import blas

# Before mlx: a BLAS library opened after `mlx.core` was imported comes too late to be used by it.
blas.preload()

import mlx.core as mx  # noqa: E402

from ..errors import Conflict, GenerationFailed  # noqa: E402
from ..messages import Beat, Cancelled, Event, Failed, GenerateRequest, Memory, Stage  # noqa: E402
from ..site import site  # noqa: E402
from . import loader, prompt  # noqa: E402
from .batch import Batch  # noqa: E402
from .detokenize import Vocabulary  # noqa: E402
from .floor import Floor  # noqa: E402
from .row import Row  # noqa: E402
from .sampling import check  # noqa: E402

log = logging.getLogger(__name__)


class Engine:
    """Continuous batching over one model.

    `add()` queues a request, each `step()` moves all running ones on and returns their events; `generate()` does both
    for one request. At most `max_batch` requests run, the others wait in order. `prefill_step` is the most prompt
    tokens of one request processed in a step. An engine belongs to the thread that made it.
    """

    @classmethod
    def load(cls, path: str | Path, *, max_batch: int = 32, prefill_step: int = 512) -> Engine:
        """Load a model folder; raises what `loader.load` raises."""
        return cls(loader.load(path), max_batch=max_batch, prefill_step=prefill_step)

    def __init__(self, loaded: loader.Loaded, *, max_batch: int = 32, prefill_step: int = 512):
        self.model, self.tokenizer, self.info = loaded
        self.max_batch, self.prefill_step = max_batch, prefill_step
        self.blas = blas.preload()
        self.device = str(mx.device_info().get("device_name", mx.default_device()))
        self.versions = {"mlx-panel": __version__, "mlx": version("mlx"), "mlx-lm": version("mlx-lm")}
        self.steps = self.prompt_tokens = self.completion_tokens = 0
        self._vocabulary = Vocabulary(self.tokenizer)
        self._floor = Floor(self.tokenizer)
        self._waiting: deque[Row] = deque()
        self._rows: dict[int, Row] = {}
        self._untold: list[Event] = []
        self._process = psutil.Process()
        self._batch = self._new_batch()

    def __repr__(self) -> str:
        return f"<Engine {self.info.architecture} {self.info.dtype}, {self.running} running, {self.queued} queued>"

    # --- requests --------------------------------------------------------------------------------------------

    def add(self, request: GenerateRequest) -> None:
        """Queue a request; it joins the batch at the next step with a free place.

        Raises TemplateError, EmptyPrompt, ContextLengthExceeded, InvalidParameter, or Conflict for an id in use.
        """
        if request.id in self.ids:
            raise Conflict("A request with this id is running.")
        check(request.sampling)
        built = prompt.build(request, self.tokenizer, self.info.context_length, self._floor)
        row = Row(request, built, self._vocabulary.detokenizer())
        self._waiting.append(row)
        if len(self._waiting) + self.running > self.max_batch:
            self._untold.append(Stage(row.id, "queued", total=len(built.tokens)))

    def cancel(self, id: str) -> bool:
        """Drop a request now, its cache with it; the next `step()` yields its `Cancelled`. False if it is not there."""
        row = next((row for row in self._all() if row.id == id), None)
        if row is None:
            return False
        self._drop(row)
        self._untold.append(Cancelled(row.id, row.usage()))
        return True

    def generate(self, request: GenerateRequest) -> Iterator[Event]:
        """The events of one request on an engine that runs no other; leaving the loop early cancels it."""
        if self.busy:
            raise Conflict("generate() drives the engine alone; use add() and step() for several requests.")
        self.add(request)
        try:
            while self.busy:
                yield from self.step()
        finally:
            if self.cancel(request.id):
                self._untold.clear()

    def step(self) -> list[Event]:
        """Move every running request on by a token (or a part of its prompt) and return what happened.

        Never raises for a request's sake: one that fails alone ends alone with `Failed`; when the whole batch fails,
        all that ran end with `Failed` and later requests get a new batch.
        """
        events, self._untold = self._untold, []
        self._join()
        if self._rows:
            try:
                prompts, tokens = self._batch.timed_next()
            except Exception as error:
                return events + self._start_over(error)
            self.steps += 1
            events += [self._advance(response) for response in prompts]
            events += [event for response in tokens for event in self._take(response)]
        return events

    # --- figures ---------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether `step()` has something to do or to tell."""
        return bool(self._rows or self._waiting or self._untold)

    @property
    def running(self) -> int:
        return len(self._rows)

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def ids(self) -> tuple[str, ...]:
        """The requests that wait or run."""
        return tuple(row.id for row in self._all())

    @property
    def cache_bytes(self) -> int:
        """Bytes held by the running requests' caches."""
        return int(self._batch.prompt_cache_nbytes)

    def memory(self) -> Memory:
        return Memory(
            active=mx.get_active_memory(),
            peak=mx.get_peak_memory(),
            cache=mx.get_cache_memory(),
            process=self._process.memory_info().rss,
        )

    def beat(self) -> Beat:
        """The counters since the start, and memory now."""
        return Beat(
            self.running, self.queued, self.steps, self.prompt_tokens, self.completion_tokens, self.memory()
        )

    def close(self, *, last: bool = False) -> None:
        """Free the model and its caches.

        With `last` this thread never uses mlx again: a thread or process that used mlx has to end this way.
        """
        self._rows.clear()
        self._waiting.clear()
        self._untold.clear()
        self._batch = self.model = self.tokenizer = None
        mx.clear_cache()
        if last:
            mx.clear_streams()

    # --- inside ----------------------------------------------------------------------------------------------

    def _new_batch(self) -> Any:
        return Batch.of(self.model, self.tokenizer.eos_token_ids, self.max_batch, self.prefill_step)

    def _all(self) -> list[Row]:
        return [*self._rows.values(), *self._waiting]

    def _join(self) -> None:
        while self._waiting and self.running < self.max_batch:
            row = self._waiting.popleft()
            (uid,) = self._batch.insert(
                [row.prompt.tokens],
                max_tokens=[row.prompt.max_tokens],
                samplers=[row.request.sampling],
            )
            self._rows[uid] = row

    def _advance(self, response: Any) -> Event:
        row = self._rows[response.uid]
        done, _ = response.progress
        self.prompt_tokens += done - row.prefilled
        return row.prefill(done, response.end_of_prompt)

    def _take(self, response: Any) -> list[Event]:
        row = self._rows[response.uid]
        self.completion_tokens += 1
        try:
            events = row.take(response.token, response.finish_reason)
        except Exception as error:
            log.error("one request failed: %s", site(error))
            self._drop(row)
            return [Failed(row.id, GenerationFailed.code, row.usage())]
        if row.ended:
            self._drop(row)
        return events

    def _drop(self, row: Row) -> None:
        if row in self._waiting:
            self._waiting.remove(row)
            return
        uid = next(uid for uid, other in self._rows.items() if other is row)
        del self._rows[uid]
        # A row that mlx-lm ended itself is no longer there, which `remove` does not mind.
        self._batch.remove([uid])
        if not self._rows and not self._waiting:
            # Idle: what mlx keeps for reuse goes back to the machine.
            mx.clear_cache()

    def _start_over(self, error: Exception) -> list[Event]:
        log.error("a step failed with %d requests running: %s", self.running, site(error))
        failed: list[Event] = [
            Failed(row.id, GenerationFailed.code, row.usage()) for row in self._rows.values()
        ]
        self._rows.clear()
        self._batch = self._new_batch()
        mx.clear_cache()
        return failed
