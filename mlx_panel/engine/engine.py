"""The engine: a model in this process that answers many requests at once, one step at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from . import blas

# Before mlx: a BLAS library opened after `mlx.core` was imported comes too late to be used by it.
blas.preload()

import mlx.core as mx  # noqa: E402

from ..errors import Conflict, GenerationFailed, InvalidParameter  # noqa: E402
from ..messages import (  # noqa: E402
    Beat,
    Cancelled,
    Event,
    Failed,
    GenerateRequest,
    Memory,
    ModelInfo,
    Origin,
    Stage,
    Trace,
)
from ..site import site  # noqa: E402
from ..tuning import CacheFigures, EngineOptions  # noqa: E402
from . import kv, loader, used  # noqa: E402
from .admission import Admission  # noqa: E402
from .batch import Batch, Ready, Token  # noqa: E402
from .block_hashes import BLOCK_TOKENS, block_hashes  # noqa: E402
from .budget import Budget  # noqa: E402
from .choices import choices, token_logprob  # noqa: E402
from .counted import figures  # noqa: E402
from .failing import failed, refused, unusable  # noqa: E402
from .intake import Intake  # noqa: E402
from .lanes import Lanes  # noqa: E402
from .lone import Lone  # noqa: E402
from .prefill import Prefill, Progress  # noqa: E402
from .prefix.cache import PrefixCache  # noqa: E402
from .prefix.opening import prefix_cache  # noqa: E402
from .prefix.telling import Telling  # noqa: E402
from .reading import Progress as Told  # noqa: E402
from .reading import silent  # noqa: E402
from .row import Row  # noqa: E402
from .speculate import load_draft  # noqa: E402
from .timeline import NOWHERE, Timeline  # noqa: E402

log = logging.getLogger(__name__)
NOTHING = Progress([], [])
DEFAULTS = EngineOptions()
# What mlx keeps for reuse goes back to the machine after so many steps.
STEPS_BETWEEN_CLEARS = 512


class Engine:
    """Continuous batching over one model.

    `add()` queues a request, each `step()` moves all running ones on and returns their events; `generate()` does both
    for one request. How time and memory are shared is said by `options`. An engine belongs to the thread that made it.
    """

    @classmethod
    def load(cls, path: str | Path, *, options: EngineOptions = DEFAULTS, progress: Told = silent) -> Engine:
        """Load a model folder; raises what `loader.load` raises, and ModelLoadFailed for a KV cache it cannot have.

        `progress` is told how far it is: "weights" with bytes done and in all, then "warming".
        """
        loaded = loader.load(path, progress)
        progress("warming", 0, 0)
        kv.check(loaded.model, options.kv_bits, options.kv_group_size)
        if options.wired_limit_mb:
            # Only when asked: wiring is reported to be behind kernel panics of macOS.
            mx.set_wired_limit(options.wired_limit_mb << 20)
        draft = load_draft(options.draft_model, loaded.tokenizer) if options.draft_model else None
        engine = cls(loaded, options=options, prefix=prefix_cache(Path(path), loaded, options), draft=draft)
        engine.warm_up()
        return engine

    def __init__(
        self,
        loaded: loader.Loaded,
        *,
        options: EngineOptions = DEFAULTS,
        prefix: PrefixCache | None = None,
        draft: Any = None,
    ):
        self.model, self.tokenizer, self.info, shape = loaded
        self.options = options
        self.blas = blas.preload()
        self.device = str(mx.device_info().get("device_name", mx.default_device()))
        self.versions = {"mlx-panel": __version__, "mlx": version("mlx"), "mlx-lm": version("mlx-lm")}
        self.steps = self.prompt_tokens = self.completion_tokens = 0
        admission = Admission(shape, options)
        context = _context(self.info, options)
        names = self.info.architecture, self.info.vocab_size
        self._intake = Intake(self.tokenizer, *names, context, admission.cut)
        self._vocabulary = self._intake.vocabulary
        self._prefix = prefix
        telling = Telling(self.tokenizer, self._vocabulary)
        self._timeline = Timeline()
        self._prefill = Prefill(
            self.model, options, prefix, telling.report, telling.spans, lambda: self._budget.make_room(),
            timeline=self._timeline,
        )  # fmt: skip
        eos = frozenset(self.tokenizer.eos_token_ids)
        self._lone = Lone(self.model, eos, options, draft, self._vocabulary.size)
        self._lanes = Lanes(self._lane, lambda: self._prefill.token_bytes, lambda: self._budget.free)
        self._budget = Budget(admission, self._prefill, self._lanes, prefix)
        self._untold: list[Event] = []
        self._traces: list[Trace] = []
        # On a CPU mlx's `async_eval` waits until all but a few operations are done, so nothing is lost by waiting.
        self._waits = mx.default_device().type == mx.DeviceType.cpu

    def __repr__(self) -> str:
        return f"<Engine {self.info.architecture} {self.info.dtype}, {self.running} running, {self.queued} queued>"

    # --- requests --------------------------------------------------------------------------------------------

    def add(self, request: GenerateRequest, origin: Origin = NOWHERE) -> None:
        """Queue a request; it starts when there is a place. `origin` is for its trace.

        Raises TemplateError, EmptyPrompt, ContextLengthExceeded, MemoryExceeded, InvalidParameter, UnsupportedParameter,
        or Conflict for an id in use. A grammar that cannot be compiled is told by `step()`, as `Failed`.
        """
        if request.id in self.ids:
            raise Conflict("A request with this id is running.")
        if not 0 < request.n <= self.options.max_batch:
            raise InvalidParameter("n is more than this server runs at a time.", field="n")
        taken = self._timeline.now()
        row = self._intake.take(request)
        self._timeline.began(request.id, taken, origin)
        if row is not None:
            self._queue(row)

    def cancel(self, id: str) -> bool:
        """Drop a request now, its cache with it; the next `step()` yields its `Cancelled`. False if it is not there."""
        rows = self._intake.drop(id) or self._drop(id)
        if rows:
            self._untold.append(Cancelled(id, rows[0].usage()))
        return bool(rows)

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
                self._timeline.dropped(request.id)

    def step(self) -> list[Event]:
        """Move every running request on by a token, or a prompt by a chunk, and return what happened.

        Never raises for a request's sake: one that fails alone ends alone with `Failed`; when a forward pass fails,
        all that were in it end with `Failed` and later requests get a new batch.
        """
        decoding = self._decoding
        self._take_compiled()
        events, self._untold = self._untold, []
        progress, failed = self._process_prompts(decoding)
        ready, told = choices(progress.ready, self._intake)
        events += progress.events + failed + told
        for lane, joining in self._lanes.joined(ready):
            events += self._decode(lane, joining)
        pace = self._prefill.pace
        pace.looked(decoding=self._decoding, width=progress.width, seconds=progress.seconds)
        self._traces = self._timeline.ended(events, pace.token_seconds)
        self.steps += 1
        if not self.busy and self._prefix is not None:
            self._upkeep(self._prefix.flush)
        if not self.busy or self.steps % STEPS_BETWEEN_CLEARS == 0:
            mx.clear_cache()
        return events

    def traces(self) -> list[Trace]:
        """Where the time of the requests that ended in the last step went."""
        return self._traces

    def warm_up(self) -> None:
        """Run the model once on nothing: the first request then waits for no kernel and no guess at its pace."""
        self._intake.warm_up()
        self._prefill.warm_up()
        mx.clear_cache()
        self._budget.rest()

    def tune(self, options: EngineOptions) -> None:
        """New options, for the next step on. Those that shape caches or models are kept for the next load."""
        self.options = self.options.tuned(options)
        self._prefill.tune(self.options)
        self._lone.options = self.options
        self._intake.context_length = _context(self.info, self.options)
        self._budget.tuned(self.options)
        if self._prefix is not None and self._prefix.disk is not None:
            self._prefix.disk.budget = options.prefix_disk_mb << 20

    def forget(self) -> None:
        """Empty the prefix cache, memory and disk."""
        if self._prefix is not None:
            self._prefix.clear()

    # --- figures ---------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether `step()` has something to do or to tell."""
        return bool(self._untold or self._intake.pending) or self._decoding or len(self._prefill.queue) > 0

    @property
    def running(self) -> int:
        """Answers that are being computed, or whose prompt is."""
        return len(self._lanes) + self._prefill.queue.started

    @property
    def queued(self) -> int:
        return self._prefill.queue.waiting + len(self._intake.pending)

    @property
    def ids(self) -> tuple[str, ...]:
        """The requests that wait or run."""
        waiting = [pending.row for pending in self._intake.pending]
        return tuple(dict.fromkeys(row.id for row in [*self._all(), *waiting]))

    @property
    def cache_bytes(self) -> int:
        """Bytes held by the running requests' KV caches."""
        return self._budget.held

    def memory(self) -> Memory:
        return used.memory()

    def beat(self) -> Beat:
        """The counters since the start, memory and caches now."""
        caches = self.figures()
        if not self.busy:
            self._budget.rest()
        return Beat(
            self.running,
            self.queued,
            self.steps,
            self.prompt_tokens,
            self.completion_tokens,
            self.memory(),
            caches,
            self.options.memory_limit,
            self._budget.committed,
        )

    def figures(self) -> CacheFigures:
        """The caches now."""
        return figures(self._prefix, self._prefill, self._lanes, self._lone, self.cache_bytes)

    def close(self, *, last: bool = False) -> None:
        """Free the model and its caches; what the prefix cache still writes is written.

        With `last` this thread never uses mlx again: a thread or process that used mlx has to end this way.
        """
        if self._prefix is not None:
            self._prefix.close()
        self._untold.clear()
        self._intake.close()
        if self._budget is not None:
            self._budget.close()
        self._lanes = self._prefill = self._prefix = self._lone = self._budget = None  # type: ignore[assignment]
        self.model = self.tokenizer = None
        mx.clear_cache()
        if last:
            mx.clear_streams()

    # --- inside ----------------------------------------------------------------------------------------------

    @property
    def _decoding(self) -> bool:
        return len(self._lanes) > 0

    def _lane(self, main: bool) -> Batch:
        eos = frozenset(self.tokenizer.eos_token_ids)
        return Batch(self.model, eos, self._keep_prefix, self._lone if main else None)

    def _all(self) -> list[Row]:
        return [*self._lanes.rows, *self._prefill.queue]

    def _queue(self, row: Row) -> None:
        self._budget.admission.weigh(row)
        if key := row.request.block_key:
            self._timeline.hashed(row.id, BLOCK_TOKENS, block_hashes(row.prompt.tokens, key))
        self._prefill.queue.add(row)
        if sum(one.width for one in self._all()) > self.options.max_batch:
            self._untold.append(Stage(row.id, "queued", total=len(row.prompt.tokens)))

    def _take_compiled(self) -> None:
        ready, failed = self._intake.compiled(idle=not self._decoding and not len(self._prefill.queue))
        for row in ready:
            self._queue(row)
        self._untold += [refused(row, error) for row, error in failed]

    def _process_prompts(self, decoding: bool) -> tuple[Progress, list[Event]]:
        """A pass over prompts, if it is their turn; and what failed."""
        turn = self._budget.turn(self.options.max_batch - self.running)
        failed: list[Event] = []
        for row, refusal in turn.refused:
            self._prefill.drop(row)
            failed.append(refused(row, refusal))
        rows = self._prefill.turn(turn.space, decoding=decoding)
        try:
            progress = self._prefill.run(rows, wait=self._waits or not decoding) if rows else NOTHING
        except Exception as error:
            if len(rows) > 1:
                # One of them is to blame.
                self._prefill.again(rows)
                return NOTHING, failed
            return NOTHING, [*failed, self._fail(rows[0], error)]
        self.prompt_tokens += progress.tokens
        return progress, failed

    def _decode(self, lane: Batch, ready: list[Ready]) -> list[Event]:
        began = self._timeline.now()
        try:
            tokens = lane.step(ready)
        except Exception as error:
            return self._start_over(lane, ready, error)
        self._timeline.stepped(id(lane), began, lane.rows, joined=bool(ready))
        return [event for token in tokens if not token.row.over for event in self._take(lane, token)]

    def _take(self, lane: Batch, token: Token) -> list[Event]:
        row = token.row
        self.completion_tokens += 1
        try:
            if token.bad:
                raise unusable(row)
            known = token.logprobs
            told = None if known is None else token_logprob(self._vocabulary, token.token, known)
            events = row.take(token.token, token.finish, told)
        except Exception as error:
            return [self._fail(row, error)]
        if row.ended:
            lane.leave([row])
        return events

    def _drop(self, id: str) -> list[Row]:
        """Take a request's rows out, wherever they are."""
        rows = [row for row in self._all() if row.id == id]
        for row in rows:
            row.ended = True
            if row in self._prefill.queue:
                self._prefill.drop(row)
        self._lanes.leave(rows)
        return rows

    def _fail(self, row: Row, error: Exception) -> Failed:
        """One choice fails: its request does."""
        row.tally.failed = True  # those of its rows that ended in this step have left their lane before
        self._drop(row.id)
        log.error("one request failed: %s", site(error))
        self._doubt([row], error)
        return failed(row, error)

    def _start_over(self, lane: Batch, ready: list[Ready], error: Exception) -> list[Event]:
        rows = {row.id: row for row in [*lane.rows, *(row for group in ready for row in group.rows)]}
        log.error("a step failed with %d requests running: %s", len(rows), site(error))
        self._lanes.replace(lane)
        self._doubt(rows.values(), error)
        for id in rows:
            self._drop(id)
        mx.clear_cache()
        return [Failed(row.id, GenerationFailed.code, row.usage()) for row in rows.values()]

    def _keep_prefix(self, row: Row, caches: Callable[[], list[Any]]) -> None:
        """A row leaves: what it computed may serve a later prompt."""
        self._upkeep(lambda: self._prefill.store(row, caches))

    def _doubt(self, rows: Iterable[Row], error: Exception) -> None:
        """What is kept of rows whose output was no number may hold such values itself, and would fail others."""
        prefix = self._prefix
        if prefix is not None and isinstance(error, FloatingPointError):
            self._upkeep(lambda: prefix.doubt([row.tokens() for row in rows]))

    def _upkeep(self, work: Callable[[], None]) -> None:
        """Do something for the prefix cache. Where that fails a later prompt takes longer, and no request ends."""
        try:
            work()
        except Exception as error:
            log.error("the prefix cache could not be kept: %s", site(error))


def _context(info: ModelInfo, options: EngineOptions) -> int:
    """The most tokens that prompt and answer may have together."""
    return min(info.context_length, options.context_length or info.context_length)
