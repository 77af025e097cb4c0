"""One sampler for the whole process: a snapshot a second, handed to everybody who watches."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable

import msgspec
import psutil

from .library import Download, Task
from .messages import LocalModel
from .meter import History, Meter, Rates, Watcher, total
from .pool.pool import ModelPool
from .snapshot import ModelState, Sample, Snapshot

Jobs = Callable[[], tuple[tuple[Download, ...], tuple[Task, ...]]]
PERIOD = 1.0
LAG_PERIOD = 0.02
LAG_WINDOW = 500
CATALOG_EVERY = 5


class Lag:
    """How late the loop runs what is due: a timer measures its own delay, 50 times a second."""

    def __init__(self) -> None:
        self._late: deque[float] = deque(maxlen=LAG_WINDOW)

    async def measure(self) -> None:
        while True:
            due = time.monotonic() + LAG_PERIOD
            await asyncio.sleep(LAG_PERIOD)
            self._late.append(time.monotonic() - due)

    def p99_ms(self) -> float:
        """The 99th percentile over the last ten seconds or so, milliseconds."""
        if not self._late:
            return 0.0
        late = sorted(self._late)
        return late[int(len(late) * 0.99)] * 1000


class Sampler:
    """Ticks once a second, also unwatched: the sparklines' history should be there when a page opens.

    A tick costs well under a millisecond; what it hands out is built once, however many watch.
    """

    def __init__(self, pool: ModelPool, meter: Meter, draining: Callable[[], bool], jobs: Jobs):
        self._pool, self._meter, self._draining, self._jobs = pool, meter, draining, jobs
        self._rates, self._history, self._lag = Rates(), History(), Lag()
        self._watchers: dict[object, Callable[[], Watcher | None]] = {}
        self._memory_limit = psutil.virtual_memory().total
        self._models: list[LocalModel] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.now = Snapshot(time.time())

    def __repr__(self) -> str:
        return f"<Sampler {len(self._watchers)} watchers>"

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._lag.measure())]

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    def subscribe(self, watcher: Watcher) -> Callable[[], None]:
        """See `Source.subscribe`. The first call comes before this returns to the loop."""
        key = object()
        reference = weakref.WeakMethod(watcher) if inspect.ismethod(watcher) else lambda: watcher
        self._watchers[key] = reference
        asyncio.get_running_loop().call_soon(self._first, key)
        return lambda: self._watchers.pop(key, None) and None

    async def watch(self) -> AsyncIterator[tuple[Snapshot, list[Sample] | None]]:
        """Snapshots as an iterator, for a stream of events. A slow reader misses some, it never queues them."""
        latest: list[tuple[Snapshot, list[Sample] | None]] = []
        there = asyncio.Event()

        def note(snapshot: Snapshot, history: list[Sample] | None) -> None:
            latest[:] = [(snapshot, history if history is not None or not latest else latest[0][1])]
            there.set()

        stop = self.subscribe(note)
        try:
            while True:
                await there.wait()
                there.clear()
                yield latest.pop()
        finally:
            stop()

    def _first(self, key: object) -> None:
        watcher = self._watchers.get(key, lambda: None)()
        if watcher is not None:
            watcher(self.now, self._history.samples())

    async def states(self) -> list[ModelState]:
        """Every model as it is now, with the rate of the last second."""
        await self.look()
        rates = {model.id: model.tokens_per_second for model in self.now.models}
        return [_with_rate(state, rates) for state in self._pool.states(self._models)]

    async def look(self) -> None:
        """See which models the disk has."""
        self._models = await self._pool.catalog()

    async def _run(self) -> None:
        for turn in itertools.count(1):
            self._tick()
            await asyncio.sleep(PERIOD)
            if turn % CATALOG_EVERY == 0:
                await self.look()

    def _tick(self) -> None:
        self.now = self._snapshot()
        self._history.add(self.now)
        for key, reference in list(self._watchers.items()):
            watcher = reference()
            if watcher is None:
                del self._watchers[key]
            else:
                watcher(self.now, None)

    def _snapshot(self) -> Snapshot:
        workers = self._pool.workers
        decode = {
            worker.model.id: self._rates.rate(worker.model.id, worker.beat.completion_tokens)
            for worker in workers
        }
        prefill = sum(
            self._rates.rate(f"{worker.model.id} prefill", worker.beat.prompt_tokens) for worker in workers
        )
        self._rates.keep({*decode, *(f"{name} prefill" for name in decode)})
        downloads, tasks = self._jobs()
        models = tuple(_with_rate(state, decode) for state in self._pool.states(self._models))
        return Snapshot(
            time=time.time(), queued=total(models, "queued"), tokens_per_second=sum(decode.values()), prompt_tokens_per_second=prefill,
            memory_used=total(models, "memory"), memory_limit=self._memory_limit, loop_lag_ms=self._lag.p99_ms(),
            draining=self._draining(), models=models, pool=self._pool.figures(), downloads=downloads, tasks=tasks,
            **self._meter.figures(),
        )  # fmt: skip


def _with_rate(state: ModelState, rates: dict[str, float]) -> ModelState:
    return msgspec.structs.replace(state, tokens_per_second=rates.get(state.id, 0.0))
