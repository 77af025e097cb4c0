"""Prompts into caches, a chunk at a time, between the steps of the answers that run."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from ..messages import Event
from ..sizing import Shape
from ..tuning import DETERMINISTIC_CHUNK, CacheReport, EngineOptions
from . import kv, lookback
from .batch import Ready
from .pace import FIRST_CHUNK, Pace
from .prefix.cache import Match, PrefixCache
from .prefix.explain import Span
from .queue import PromptQueue, Space
from .row import Row
from .timeline import Timeline


class Progress(NamedTuple):
    """What a pass did: rows that are ready to decode, events, the prompt tokens it processed.

    `width` is those tokens and the padding, `seconds` how long they took where that was waited for.
    """

    ready: list[Ready]
    events: list[Event]
    tokens: int = 0
    width: int = 0
    seconds: float = 0.0


class Prefill:
    """The prompts under way; `shape` says what a sequence takes in KV caches, nothing while unknown.

    `report(row, match)` says what the prefix cache did for a row, `spans(row)` where its messages lie; `started()` is
    called when rows have begun, before anything is computed for them. What is done is noted in `timeline`.
    """

    def __init__(
        self,
        model: Any,
        options: EngineOptions,
        prefix: PrefixCache | None,
        report: Callable[[Row, Match | None], CacheReport],
        spans: Callable[[Row], Sequence[Span]],
        started: Callable[[], None] = lambda: None,
        timeline: Timeline | None = None,
    ):
        self.queue = PromptQueue()
        self.pace = Pace(options)
        self._model = model
        self._prefix = prefix
        self._report = report
        self._spans = spans
        self._started = started
        self._timeline = timeline or Timeline()
        self._budget = 0
        self.shape = Shape(weights=0)

    def __repr__(self) -> str:
        return f"<Prefill {self.queue!r} {self.pace!r}>"

    @property
    def token_bytes(self) -> int:
        """What a token takes in a KV cache."""
        return self.shape.kv_token + self.shape.kv_window_token

    @property
    def nbytes(self) -> int:
        return sum(kv.nbytes(row.caches) for row in self.queue)

    def warm_up(self) -> None:
        """Process a prompt of nothing, so that the first request finds kernels made and the pace known."""
        caches = self.new_caches()
        at = time.perf_counter()
        self._model(mx.zeros((1, FIRST_CHUNK), dtype=mx.uint32), cache=caches)
        mx.eval([cache.state for cache in caches])
        self.pace.prefilled(FIRST_CHUNK, time.perf_counter() - at)
        self.shape = kv.shape(caches)

    def tune(self, options: EngineOptions) -> None:
        self.pace.options = options

    def turn(self, space: Space, *, decoding: bool) -> list[Row]:
        """The rows whose prompts are to be processed now; more may start as far as there is `space`."""
        self._budget = self.pace.chunk(decoding=decoding) if len(self.queue) else 0
        if not self._budget:
            return []
        idle = not decoding and not self.queue.started
        order = self.pace.options.admission_order
        return self.queue.turn(order, self._budget, space, idle=idle)

    def run(self, rows: Sequence[Row], *, wait: bool) -> Progress:
        """Launch a pass over the prompts of `rows`; with `wait`, until it is done, which measures it."""
        events: list[Event] = [self._start(row) for row in rows if not row.started]
        if events:
            self._started()
        at_end = [row for row in rows if not row.left]
        running = self._together([row for row in rows if row.left])
        before = sum(row.prefilled for row in rows)
        noted, places = self._timeline.now(), [row.position for row in running]
        at = time.perf_counter()
        width, caches = self._run(running) if running else (0, [])
        seconds = 0.0
        if width and wait:
            mx.eval([cache.state for cache in caches])
            seconds = time.perf_counter() - at
            self.pace.prefilled(width, seconds)
        told = [(row.id, row.position - place) for row, place in zip(running, places, strict=True)]
        self._timeline.passed(noted, told, waited=wait)
        ready = [Ready([row], row.caches, False) for row in at_end]
        ended = [row for row in running if not row.left]
        if ended:
            ready.append(Ready(ended, caches, len(running) > 1))
        for row in at_end + ended:
            kv.reserve(row.caches, kv.STEP)
            self.drop(row)
        events += [row.prefill() for row in at_end + running]
        return Progress(ready, events, sum(row.prefilled for row in rows) - before, width, seconds)

    def again(self, rows: Sequence[Row]) -> None:
        """After a pass over several rows failed: each by itself from its beginning."""
        for row in rows:
            row.started, row.cautious, row.position, row.stored = False, True, 0, 0

    def drop(self, row: Row) -> None:
        """Forget a row; what was computed of its prompt stays in the prefix cache."""
        self.queue.remove(row)
        row.caches = []

    # --- inside ----------------------------------------------------------------------------------------------

    def _start(self, row: Row) -> CacheReport:
        began = self._timeline.now()
        report = self._restore(row)
        if report.outcome != "off":
            self._timeline.restored(row.id, began, row.position)
        return report

    def _restore(self, row: Row) -> CacheReport:
        prefix = self._prefix_of(row)
        if prefix is None:
            row.restored(self._roomy_caches(row), 0)
            return self._report(row, None)
        tokens = row.prompt.tokens
        match = prefix.find(tokens)
        if prefix.snapshots:
            row.stops = prefix.stops(tokens, [span.end for span in self._spans(row)])
        row.restored(match.caches or self._roomy_caches(row), match.tokens)
        return self._report(row, match)

    def _roomy_caches(self, row: Row) -> list[Any]:
        caches = self.new_caches()
        kv.reserve(caches, len(row.prompt.tokens))
        return caches

    def new_caches(self) -> list[Any]:
        options = self.pace.options
        return kv.make_caches(self._model, kv_bits=options.kv_bits, kv_group_size=options.kv_group_size)

    def _together(self, rows: list[Row]) -> list[Row]:
        """Those of the rows that can share a pass: all, or the first. Only a row that has started knows its stops."""
        longest = max((row.left for row in rows), default=0)
        alone = len(rows) < 2 or any(row.alone for row in rows)
        return rows[:1] if alone or not kv.paddable([row.caches for row in rows], longest) else rows

    def _run(self, rows: list[Row]) -> tuple[int, list[Any]]:
        """Launch a pass; the number of tokens in it, padding included, and the caches it fills."""
        if len(rows) > 1:
            return self._run_together(rows)
        row = rows[0]
        chunk = row.chunk(DETERMINISTIC_CHUNK if row.request.deterministic else self._budget)
        if row.looks_back:
            chunk = chunk[: lookback.CHUNK]
        logits = self._model(mx.array([chunk]), cache=row.caches)
        if row.looks_back:
            self._look_back(row, logits[0], len(chunk))
        mx.async_eval([cache.state for cache in row.caches])
        row.position += len(chunk)
        self.store(row, lambda: row.caches)
        return len(chunk), row.caches

    def _look_back(self, row: Row, logits: mx.array, length: int) -> None:
        at, tokens = row.position, row.prompt.tokens
        told = lookback.told(logits, tokens[at + 1 : at + 1 + length], row.request.logprobs or 0)
        row.echoed += zip(tokens[at + 1 : at + 1 + length], told, strict=True)

    def _run_together(self, rows: list[Row]) -> tuple[int, list[Any]]:
        """All of them to their ends in one pass, padded on the right to the longest."""
        longest = max(row.left for row in rows)
        padded = [(row.chunk(longest) + [0] * longest)[:longest] for row in rows]
        caches = kv.merge([row.caches for row in rows])
        self._model(mx.array(padded), cache=caches)
        for row in rows:
            row.position += row.left
        kv.settle(caches, [row.position for row in rows])
        mx.async_eval([cache.state for cache in caches])
        for place, row in enumerate(rows):
            self.store(row, functools.partial(kv.extract, caches, place))
        return longest * len(rows), caches

    def store(self, row: Row, caches: Callable[[], list[Any]]) -> None:
        """Offer the tokens a row has in its caches to the prefix cache."""
        prefix = self._prefix_of(row)
        if prefix is None or not prefix.wants(row.position, row.stored, row.stops):
            return
        tokens = row.tokens()[: row.position]
        # An answer that a stop string ended early leaves tokens in the caches that are not its own.
        if len(tokens) == row.position:
            prefix.store(tokens, caches())
            row.stored = row.position

    def _prefix_of(self, row: Row) -> PrefixCache | None:
        """The prefix cache, unless it is switched off or the row is to be computed from its beginning."""
        off = self._prefix is None or not self._prefix.budget or row.request.deterministic or row.looks_back
        return None if off else self._prefix
