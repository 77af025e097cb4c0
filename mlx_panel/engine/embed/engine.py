"""The engine of an embedding model: inputs of all requests that wait are computed together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ... import __version__
from .. import blas

# Before mlx: a BLAS library opened after `mlx.core` was imported comes too late to be used by it.
blas.preload()

import mlx.core as mx  # noqa: E402

from ...errors import (  # noqa: E402
    Conflict,
    ContextLengthExceeded,
    EmptyPrompt,
    GenerationFailed,
    InvalidParameter,
    MlxPanelError,
)
from ...messages import (  # noqa: E402
    Beat,
    Cancelled,
    Embedded,
    EmbedRequest,
    Event,
    Failed,
    Memory,
    Origin,
    Stage,
    Trace,
)
from ...site import site  # noqa: E402
from ...tuning import EngineOptions  # noqa: E402
from .. import used  # noqa: E402
from ..phases import Phases  # noqa: E402
from ..reading import Progress, silent  # noqa: E402
from ..timeline import NOWHERE  # noqa: E402
from .job import Input, Job, Pass, share  # noqa: E402
from .model import Embedder, load  # noqa: E402

log = logging.getLogger(__name__)
DEFAULTS = EngineOptions()
# Characters that become tokens in one step: some 15 ms of work.
READ = 1 << 16
# What a pass may fail with: numbers, memory, or mlx itself.
FAULTS = (ArithmeticError, MemoryError, RuntimeError, ValueError)


class EmbedEngine:
    """Vectors for many requests at once, over one model.

    `add()` queues a request. A step reads texts and begins passes, or waits until one is done: an encoder on a CPU has
    one on every core at a time. Of the options `prefill_step` holds: the most tokens of a pass (one input may have more);
    on a CPU it is no more than are of use. It belongs to the thread that made it.
    """

    @classmethod
    def load(
        cls, path: str | Path, *, options: EngineOptions = DEFAULTS, progress: Progress = silent
    ) -> EmbedEngine:
        """Load a model folder; raises what `model.load` raises. `progress` is told how far it is."""
        folder = Path(path)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder.name} is not a folder")
        engine = cls(load(folder, progress), options=options)
        progress("warming", 0, 0)
        engine.embedder.vectors([[0]])  # the first request then waits for no kernel
        return engine

    def __init__(self, embedder: Embedder, *, options: EngineOptions = DEFAULTS):
        self.embedder = embedder
        self.info = embedder.info
        self.options = options
        self.blas = blas.preload()
        self.device = str(mx.device_info().get("device_name", mx.default_device()))
        self.versions = {"mlx-panel": __version__, "mlx": version("mlx"), "mlx-lm": version("mlx-lm")}
        self.steps = self.passes = self.prompt_tokens = 0
        self._jobs: dict[str, Job] = {}
        self._running: list[Pass] = []
        self._untold: list[Event] = []
        self._phases = Phases()
        self._traces: list[Trace] = []
        self.tune(options)

    def __repr__(self) -> str:
        return f"<EmbedEngine {self.info.architecture} {self.info.dtype}, {len(self._jobs)} requests>"

    # --- requests --------------------------------------------------------------------------------------------

    def add(self, request: EmbedRequest, origin: Origin = NOWHERE) -> None:
        """Queue a request. Raises EmptyPrompt, ContextLengthExceeded, InvalidParameter, or Conflict for an id in use."""
        if request.id in self._jobs:
            raise Conflict("A request with this id is running.")
        taken = self._phases.now()
        self._check(request)
        self._jobs[request.id] = Job(request, self.embedder.texts.limit)
        self._phases.began(request.id, taken, origin)

    def _check(self, request: EmbedRequest) -> None:
        if not request.inputs or not all(request.inputs):
            raise EmptyPrompt("There is an empty input, or none at all.", field="input")
        ids = [one for one in request.inputs if not isinstance(one, str)]
        if any(min(one) < 0 or max(one) >= self.info.vocab_size for one in ids):
            raise InvalidParameter("An input names a token that the model does not have.", field="input")
        full, wanted = self.info.dimensions, request.dimensions
        if wanted is not None and not self.embedder.recipe.allows(wanted, full):
            raise InvalidParameter(
                f"This model's vectors have {full} values and cannot be cut to {wanted}.",
                field="dimensions",
                dimensions=full,
            )

    def cancel(self, id: str) -> bool:
        """Drop a request before the next pass; the next `step()` yields its `Cancelled`. False if it is not there."""
        job = self._jobs.pop(id, None)
        if job is not None:
            self._untold.append(Cancelled(id, job.usage()))
        return job is not None

    def generate(self, request: EmbedRequest) -> Iterator[Event]:
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
                self._phases.dropped(request.id)

    def step(self) -> list[Event]:
        """Read texts and begin passes; when that tells nothing, wait for a pass and tell what came of it.

        Never raises for a request's sake: an input that cannot be computed fails its request alone.
        """
        events, self._untold = self._untold, []
        events += self._read() + self._begin()
        if not events:
            events = self._finish()
        self._traces = self._phases.ended(events)
        self.steps += 1
        if not self.busy:
            mx.clear_cache()
        return events

    def traces(self) -> list[Trace]:
        """Where the time of the requests that ended in the last step went."""
        return self._traces

    def tune(self, options: EngineOptions) -> None:
        """New options, for the next pass on."""
        self.options = self.options.tuned(options)
        limit = self.info.context_length
        self.embedder.texts.cut(min(limit, options.context_length or limit))

    def forget(self) -> None:
        """There is no prefix cache."""

    # --- figures ---------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether `step()` has something to do or to tell."""
        return bool(self._jobs or self._untold)

    @property
    def ids(self) -> tuple[str, ...]:
        """The requests that wait or run."""
        return tuple(self._jobs)

    def memory(self) -> Memory:
        return used.memory()

    def beat(self) -> Beat:
        """The counters since the start, and memory now."""
        running = sum(job.started for job in self._jobs.values())
        waiting, limit = len(self._jobs) - running, self.options.memory_limit
        return Beat(running, waiting, self.steps, self.prompt_tokens, 0, self.memory(), limit=limit)

    def close(self, *, last: bool = False) -> None:
        """Free the model; with `last` this thread never uses mlx again."""
        self._jobs.clear()
        self._untold.clear()
        self.embedder.model.close()
        self._running.clear()
        self.embedder = None  # type: ignore[assignment]
        mx.clear_cache()
        if last:
            mx.clear_streams()

    # --- inside ----------------------------------------------------------------------------------------------

    def _read(self) -> list[Event]:
        """Texts of all requests to tokens, as many as a step may take. What fails of it fails its request."""
        unread = [job for job in self._jobs.values() if job.unread]
        if not unread:
            return []
        room = READ // len(unread)
        for job in unread:
            self._phases.turned(job.id, "tokenise")
        chosen = [(job, number) for job in unread for number in job.next_texts(room)]
        texts = [str(job.request.inputs[number]) for job, number in chosen]
        events: list[Event] = []
        for (job, number), tokens in zip(chosen, self.embedder.texts.encode(texts), strict=True):
            try:
                job.read(number, tokens)
            except (EmptyPrompt, ContextLengthExceeded) as error:
                events += self._fail(job, error)
        return events

    def _begin(self) -> list[Event]:
        """Passes on all lanes that are free; the first one of a request is told."""
        events: list[Event] = []
        free = self.embedder.lanes - len(self._running)
        while free > 0 and (inputs := self._choose(free)):
            free -= 1
            alone = not self._running and not any(job.waiting for job in self._jobs.values())
            future = self.embedder.begin([one.tokens for one in inputs], alone=alone)
            self._running.append(Pass(inputs, future))
            for id, job in {one.job.id: one.job for one in inputs}.items():
                self._phases.turned(id, "prefill", sum(len(one.tokens) for one in inputs if one.job is job))
                if not job.started:
                    job.started = True
                    events.append(Stage(id, "prefill", total=job.total))
                self._jobs[id] = self._jobs.pop(id)  # those that were left out come first next time
        return events

    def _choose(self, lanes: int) -> list[Input]:
        """The inputs of the next pass, by their lengths."""
        ready = [job for job in self._jobs.values() if not job.unread]
        most = self.options.prefill_step
        useful = self.embedder.room(sum(job.waiting for job in ready), lanes)
        return sorted(share(ready, min(most, useful or most)), key=lambda one: len(one.tokens))

    def _finish(self) -> list[Event]:
        """Wait for a pass; what came of it, and of others that are done by then."""
        futures = [one.future for one in self._running if one.future is not None]
        if futures:
            wait(futures, return_when=FIRST_COMPLETED)
        running, self._running = self._running, []
        done: list[Pass] = []
        for one in running:
            (done if one.future is None or one.future.done() else self._running).append(one)
        return [event for one in done for event in self._told(one)]

    def _told(self, one: Pass) -> list[Event]:
        """What a pass brought. When it failed, every input is computed by itself, to find the one at fault."""
        try:
            if one.future is not None:
                return self._put(one.inputs, one.future.result())
            return self._computed(one.inputs)
        except FAULTS as error:
            log.error("a pass over %d inputs failed: %s", len(one.inputs), site(error))
        return [event for input in one.inputs for event in self._alone(input)]

    def _alone(self, one: Input) -> list[Event]:
        try:
            return self._computed([one])
        except FAULTS as error:
            log.error("one request failed: %s", site(error))
            return self._fail(one.job, GenerationFailed())

    def _computed(self, inputs: list[Input]) -> list[Event]:
        wanted = [one for one in inputs if self._jobs.get(one.job.id) is one.job]
        return self._put(wanted, self.embedder.vectors([one.tokens for one in wanted])) if wanted else []

    def _put(self, inputs: list[Input], vectors: np.ndarray) -> list[Event]:
        """Vectors to their requests, but for those that have gone: how far each is, or all of it."""
        self.passes += 1
        self.prompt_tokens += sum(len(one.tokens) for one in inputs)
        jobs: dict[str, Job] = {}
        for one, vector in zip(inputs, vectors, strict=True):
            if self._jobs.get(one.job.id) is one.job:
                one.job.put(one.number, vector)
                jobs[one.job.id] = one.job
        return [self._state(job) for job in jobs.values()]

    def _state(self, job: Job) -> Event:
        """The vectors of a request that is complete, else how far it is."""
        if not job.complete:
            return Stage(job.id, "prefill", job.done, job.total)
        del self._jobs[job.id]
        vectors = self.embedder.cut(job.vectors(), job.request.dimensions)
        return Embedded(
            job.id,
            vectors=vectors.astype("<f4").tobytes(),
            dimensions=int(vectors.shape[1]),
            usage=job.usage(),
            truncated=job.truncated,
        )

    def _fail(self, job: Job, error: MlxPanelError) -> list[Event]:
        if self._jobs.pop(job.id, None) is None:
            return []  # it has failed already
        numbers = {name: int(number) for name, number in error.numbers.items()}
        return [Failed(job.id, error.code, job.usage(), numbers, error.field or "")]
