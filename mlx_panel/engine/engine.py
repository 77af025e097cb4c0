"""The engine: a model in this process that answers many requests at once, one step at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import psutil

from .. import __version__
from . import blas

# Before mlx: a BLAS library opened after `mlx.core` was imported comes too late to be used by it.
blas.preload()

import mlx.core as mx  # noqa: E402

from ..errors import Conflict, GenerationFailed, InvalidParameter  # noqa: E402
from ..messages import Beat, Cancelled, Event, Failed, GenerateRequest, Memory, Stage, TokenLogprob  # noqa: E402
from ..site import site  # noqa: E402
from ..tuning import CacheFigures, CacheReport, EngineOptions  # noqa: E402
from . import kv, loader, prompt  # noqa: E402
from .batch import Batch, Ready, Token  # noqa: E402
from .detokenize import Vocabulary  # noqa: E402
from .floor import Floor  # noqa: E402
from .lone import Lone  # noqa: E402
from .prefill import Prefill, Progress  # noqa: E402
from .prefix import explain  # noqa: E402
from .prefix.cache import Match, PrefixCache  # noqa: E402
from .prefix.opening import prefix_cache  # noqa: E402
from .row import Row  # noqa: E402
from .sampling import check  # noqa: E402
from .speculate import load_draft  # noqa: E402

log = logging.getLogger(__name__)
NOTHING = Progress([], [])
DEFAULTS = EngineOptions()
# What mlx keeps for reuse goes back to the machine after so many steps.
STEPS_BETWEEN_CLEARS = 512
# Rows whose joining wasted more than this decode in another lane.
WASTE_BYTES = 256 << 20


class Engine:
    """Continuous batching over one model.

    `add()` queues a request, each `step()` moves all running ones on and returns their events; `generate()` does both
    for one request. How time and memory are shared is said by `options`. An engine belongs to the thread that made it.
    """

    @classmethod
    def load(cls, path: str | Path, *, options: EngineOptions = DEFAULTS) -> Engine:
        """Load a model folder; raises what `loader.load` raises, and ModelLoadFailed for a KV cache it cannot have."""
        loaded = loader.load(path)
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
        self.model, self.tokenizer, self.info = loaded
        self.options = options
        self.blas = blas.preload()
        self.device = str(mx.device_info().get("device_name", mx.default_device()))
        self.versions = {"mlx-panel": __version__, "mlx": version("mlx"), "mlx-lm": version("mlx-lm")}
        self.steps = self.prompt_tokens = self.completion_tokens = 0
        self._vocabulary = Vocabulary(self.tokenizer)
        self._floor = Floor(self.tokenizer)
        self._prefix = prefix
        self._prefill = Prefill(self.model, options, prefix, self._report, self._spans)
        eos = frozenset(self.tokenizer.eos_token_ids)
        self._lone = Lone(self.model, eos, options, draft, self._vocabulary.size)
        self._main = self._lane(self._lone)
        self._solos: list[Batch] = []
        self._untold: list[Event] = []
        self._looked: float | None = None
        self._chunk = 0
        # On a CPU mlx's `async_eval` waits until all but a few operations are done, so nothing is lost by waiting.
        self._waits = mx.default_device().type == mx.DeviceType.cpu
        self._process = psutil.Process()

    def __repr__(self) -> str:
        return f"<Engine {self.info.architecture} {self.info.dtype}, {self.running} running, {self.queued} queued>"

    # --- requests --------------------------------------------------------------------------------------------

    def add(self, request: GenerateRequest) -> None:
        """Queue a request; it starts when there is a place.

        Raises TemplateError, EmptyPrompt, ContextLengthExceeded, InvalidParameter, or Conflict for an id in use.
        """
        if request.id in self.ids:
            raise Conflict("A request with this id is running.")
        check(request.sampling)
        if max(request.sampling.logit_bias, default=0) >= self.info.vocab_size:
            raise InvalidParameter("logit_bias names a token the model does not have.", field="logit_bias")
        built = prompt.build(request, self.tokenizer, self.info.context_length, self._floor)
        row = Row(request, built, self._vocabulary.detokenizer())
        self._prefill.queue.add(row)
        if len(self._all()) > self.options.max_batch:
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
        """Move every running request on by a token, or a prompt by a chunk, and return what happened.

        Never raises for a request's sake: one that fails alone ends alone with `Failed`; when a forward pass fails,
        all that were in it end with `Failed` and later requests get a new batch.
        """
        events, self._untold = self._untold, []
        decoding = self._decoding
        progress, failed = self._process_prompts(decoding)
        events += progress.events + failed
        for lane, ready in self._lanes(progress.ready):
            events += self._decode(lane, ready)
        self._solos = [lane for lane in self._solos if len(lane)]
        self._clock(progress)
        self.steps += 1
        if not self.busy and self._prefix is not None:
            self._upkeep(self._prefix.flush)
        if not self.busy or self.steps % STEPS_BETWEEN_CLEARS == 0:
            mx.clear_cache()
        return events

    def warm_up(self) -> None:
        """Run the model once on nothing: the first request then waits for no kernel and no guess at its pace."""
        self._prefill.warm_up()

    def tune(self, options: EngineOptions) -> None:
        """New options, for the next step on. Those that shape caches or models are kept for the next load."""
        self.options = self.options.tuned(options)
        self._prefill.tune(self.options)
        self._lone.options = self.options
        if self._prefix is not None:
            self._prefix.budget = options.prefix_cache_mb << 20
            if self._prefix.disk is not None:
                self._prefix.disk.budget = options.prefix_disk_mb << 20

    def forget(self) -> None:
        """Empty the prefix cache, memory and disk."""
        if self._prefix is not None:
            self._prefix.clear()

    # --- figures ---------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether `step()` has something to do or to tell."""
        return bool(self._untold) or self._decoding or len(self._prefill.queue) > 0

    @property
    def running(self) -> int:
        """Requests whose prompt or answer is being computed."""
        return sum(map(len, (self._main, *self._solos))) + self._prefill.queue.started

    @property
    def queued(self) -> int:
        return len(self._prefill.queue) - self._prefill.queue.started

    @property
    def ids(self) -> tuple[str, ...]:
        """The requests that wait or run."""
        return tuple(row.id for row in self._all())

    @property
    def cache_bytes(self) -> int:
        """Bytes held by the running requests' KV caches."""
        return self._prefill.nbytes + sum(lane.nbytes for lane in (self._main, *self._solos))

    def memory(self) -> Memory:
        return Memory(
            active=mx.get_active_memory(),
            peak=mx.get_peak_memory(),
            cache=mx.get_cache_memory(),
            process=self._process.memory_info().rss,
        )

    def beat(self) -> Beat:
        """The counters since the start, memory and caches now."""
        return Beat(
            self.running,
            self.queued,
            self.steps,
            self.prompt_tokens,
            self.completion_tokens,
            self.memory(),
            self.figures(),
        )

    def figures(self) -> CacheFigures:
        """The caches now."""
        figures = CacheFigures() if self._prefix is None else self._prefix.figures
        lanes = [lane for lane in (self._main, *self._solos) if len(lane)]
        dtype = (
            lanes[0].kv_dtype if lanes else kv.kv_dtype(next((row.caches for row in self._prefill.queue), []))
        )
        return msgspec.structs.replace(
            figures,
            kv_dtype=dtype,
            kv_bytes=self.cache_bytes,
            drafted=self._lone.drafted,
            accepted=self._lone.accepted,
        )

    def close(self, *, last: bool = False) -> None:
        """Free the model and its caches; what the prefix cache still writes is written.

        With `last` this thread never uses mlx again: a thread or process that used mlx has to end this way.
        """
        if self._prefix is not None:
            self._prefix.close()
        self._untold.clear()
        self._main = self._solos = self._prefill = self._prefix = self._lone = None  # type: ignore[assignment]
        self.model = self.tokenizer = None
        mx.clear_cache()
        if last:
            mx.clear_streams()

    # --- inside ----------------------------------------------------------------------------------------------

    @property
    def _decoding(self) -> bool:
        return len(self._main) > 0 or bool(self._solos)

    def _lane(self, lone: Lone | None = None) -> Batch:
        return Batch(self.model, frozenset(self.tokenizer.eos_token_ids), self._keep_prefix, lone)

    def _all(self) -> list[Row]:
        return [*self._main.rows, *(row for lane in self._solos for row in lane.rows), *self._prefill.queue]

    def _process_prompts(self, decoding: bool) -> tuple[Progress, list[Event]]:
        """A pass over prompts, if it is their turn; and what failed."""
        rows = self._prefill.turn(decoding=decoding, places=self.options.max_batch - self.running)
        try:
            progress = self._prefill.run(rows, wait=self._waits or not decoding) if rows else NOTHING
        except Exception as error:
            if len(rows) > 1:
                # One of them is to blame.
                self._prefill.again(rows)
                return NOTHING, []
            return NOTHING, [self._fail(rows[0], error)]
        self.prompt_tokens += progress.tokens
        return progress, []

    def _lanes(self, ready: list[Ready]) -> list[tuple[Batch, list[Ready]]]:
        """Each lane, and the rows that join it."""
        joining: dict[int, list[Ready]] = {}
        for group in ready:
            lane = self._lane_for(group)
            joining.setdefault(id(lane), []).append(group)
        return [(lane, joining.get(id(lane), [])) for lane in (self._main, *self._solos)]

    def _lane_for(self, group: Ready) -> Batch:
        """The lane for rows: one of their own for a deterministic request, and for rows so much longer or shorter than
        those that run that joining them would copy and waste too much memory; they share no pass then."""
        shared = [lane for lane in self._solos if not any(row.request.deterministic for row in lane.rows)]
        for lane in () if group.rows[0].request.deterministic else (self._main, *shared):
            if lane.misfit(group) * self._prefill.token_bytes <= WASTE_BYTES:
                return lane
        self._solos.append(self._lane())
        return self._solos[-1]

    def _decode(self, lane: Batch, ready: list[Ready]) -> list[Event]:
        try:
            tokens = lane.step(ready)
        except Exception as error:
            return self._start_over(lane, ready, error)
        return [event for token in tokens if not token.row.ended for event in self._take(lane, token)]

    def _take(self, lane: Batch, token: Token) -> list[Event]:
        row = token.row
        self.completion_tokens += 1
        try:
            if token.bad:
                raise FloatingPointError("the model's output is not a number")
            events = row.take(token.token, token.finish, self._logprob(token))
        except Exception as error:
            lane.leave([row])
            return [self._failed(row, error)]
        if row.ended:
            lane.leave([row])
        return events

    def _logprob(self, token: Token) -> TokenLogprob | None:
        if token.logprobs is None:
            return None
        piece = self._vocabulary.piece
        top = tuple(TokenLogprob(id, piece(id), value) for id, value in token.logprobs.top)
        return TokenLogprob(token.token, piece(token.token), token.logprobs.logprob, top)

    def _drop(self, row: Row) -> None:
        if row in self._prefill.queue:
            self._prefill.drop(row)
        for lane in (self._main, *self._solos):
            lane.leave([row])

    def _fail(self, row: Row, error: Exception) -> Failed:
        self._drop(row)
        return self._failed(row, error)

    def _failed(self, row: Row, error: Exception) -> Failed:
        log.error("one request failed: %s", site(error))
        self._doubt([row], error)
        return Failed(row.id, GenerationFailed.code, row.usage())

    def _start_over(self, lane: Batch, ready: list[Ready], error: Exception) -> list[Event]:
        rows = {row.id: row for row in [*lane.rows, *(row for group in ready for row in group.rows)]}
        log.error("a step failed with %d requests running: %s", len(rows), site(error))
        if lane is self._main:
            self._main = self._lane(self._lone)
        else:
            self._solos.remove(lane)
        self._doubt(rows.values(), error)
        mx.clear_cache()
        return [Failed(row.id, GenerationFailed.code, row.usage()) for row in rows.values()]

    def _clock(self, progress: Progress) -> None:
        """Learn from the time since tokens were last looked at what a step costs, and a chunk that was not waited for.

        Such a chunk is computed after the pass whose tokens were just taken, so it counts for the next interval.
        """
        now, before = time.perf_counter(), self._looked
        pace = self._prefill.pace
        if before is not None and self._chunk:
            pace.prefilled(self._chunk, now - before - pace.step_seconds)
        elif before is not None:
            pace.decoded(now - before - progress.seconds)
        self._looked = now if self._decoding else None
        self._chunk = progress.width if self._decoding and not progress.seconds else 0

    def _report(self, row: Row, match: Match | None) -> CacheReport:
        if match is None:
            return CacheReport(row.id, len(row.prompt.tokens))
        return explain.explain(match, row.id, len(row.prompt.tokens), lambda: self._spans(row))

    def _spans(self, row: Row) -> list[explain.Span]:
        if row.request.messages is None:
            return []
        lengths = explain.token_lengths(row.prompt.tokens, self._vocabulary, self.tokenizer)
        return explain.spans(row.prompt.text, row.request.messages, lengths)

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
