"""One model of the pool: its process, who uses it, and who waits for it. Nothing here decides or waits."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ..errors import MlxPanelError
from ..messages import LocalModel
from ..snapshot import LoadProgress, ModelStateName
from ..tuning import EngineOptions
from .plan import Place, State
from .process import Worker


class Waiter:
    """A request that waits for a model. `granted` is resolved with the worker, which then is leased already."""

    def __init__(self, *, low: bool):
        self.low = low
        self.since = time.monotonic()
        self.granted: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<Waiter {time.monotonic() - self.since:.1f} s{', low' if self.low else ''}>"

    def fail(self, error: MlxPanelError) -> None:
        if not self.granted.done():
            self.granted.set_exception(error)
            self.granted.exception()  # it may be gone by now, which is no news for asyncio


class Slot:
    """A model and its process, if it has one.

    `expected` is what a load of it counts for, `grant` what its process may take, bytes. It was used last at `used`
    (monotonic seconds), `uses` times since it was loaded. `wished` is since when somebody who is no request wants it in
    memory, and it is not loaded again before `not_before`.
    """

    def __init__(self, model: LocalModel):
        self.model = model
        self.worker: Worker | None = None
        self.loading: asyncio.Task[None] | None = None
        self.unloading: asyncio.Task[None] | None = None
        self.waiters: list[Waiter] = []
        self.leases = 0
        self.uses = 0
        self.used = time.monotonic()
        self.ended: float | None = None  # when its last request ended, Unix seconds
        self.wished: float | None = None
        self.not_before = 0.0
        self.asked = 0.0  # when the load under way, or the last one, was asked for
        self.expected = 0
        self.grant = 0
        self.options = EngineOptions()
        self.restarts = 0
        self.failures = 0
        self.crashed = False
        self.reason = ""
        self.log: tuple[str, ...] = ()
        self.news = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Slot {self.model.id} {self.state}, {self.leases} leases, {len(self.waiters)} waiting>"

    @property
    def alive(self) -> bool:
        return (
            self.worker is not None and self.worker.alive and self.unloading is None and self.loading is None
        )

    @property
    def here(self) -> bool:
        """Whether it is in memory, or on its way in or out."""
        return self.alive or self.loading is not None or self.unloading is not None

    @property
    def busy(self) -> bool:
        """Whether anything of it is in memory, or on its way in or out."""
        return self.here or self.leases > 0 or bool(self.waiters) or self.wished is not None

    @property
    def state(self) -> ModelStateName:
        if self.unloading is not None:
            return "stopping"
        if self.loading is not None:
            return "loading"
        if self.alive:
            return "ready"
        return "failed" if self.reason else "available"

    @property
    def size(self) -> int:
        """What it counts for: what is expected of it, or what it really takes where that is more."""
        worker = self.worker
        if worker is None:
            return self.expected
        committed = worker.beat.committed if worker.ready is not None else 0
        return max(self.expected, worker.memory.process, committed)

    def place(self, *, pinned: bool, ttl: float, now: float) -> Place:
        """It as the plan sees it."""
        since = [waiter.since for waiter in self.waiters] + ([] if self.wished is None else [self.wished])
        low = bool(self.waiters) and self.wished is None and all(waiter.low for waiter in self.waiters)
        return Place(
            id=self.model.id, size=self.size, state=self._place_state(), leases=self.leases, pinned=pinned,
            since=min(since) if since and now >= self.not_before else None, low=low,
            used=self.used, uses=self.uses, ttl=ttl,
        )  # fmt: skip

    def _place_state(self) -> State:
        if self.unloading is not None:
            return "stopping"
        if self.loading is not None:
            return "loading"
        if self.worker is not None and not self.worker.exited.is_set():
            return "ready" if self.worker.alive else "stopping"
        return "absent"

    def take(self) -> Worker:
        """Lease it."""
        assert self.worker is not None
        self.leases += 1
        self.uses += 1
        self.used = time.monotonic()
        return self.worker

    def give(self) -> None:
        """A lease has ended."""
        self.leases -= 1
        self.used, self.ended = time.monotonic(), time.time()

    def grant_all(self) -> None:
        """Lease it to all who wait."""
        waiting, self.waiters = self.waiters, []
        for waiter in waiting:
            if not waiter.granted.done():
                waiter.granted.set_result(self.take())
        self.wished = None

    def refuse_all(self, error: MlxPanelError) -> None:
        """All who wait get the same error."""
        waiting, self.waiters = self.waiters, []
        for waiter in waiting:
            waiter.fail(error)
        self.wished = None
        self.tell()

    def tell(self) -> None:
        """Wake those who watch its load."""
        self.news.set()
        self.news = asyncio.Event()

    def progress(self) -> LoadProgress | None:
        """How far its load is, None when nobody asked for one."""
        seconds = time.monotonic() - self.asked if self.asked else 0.0
        if self.state == "loading" and self.worker is not None:
            told: Any = self.worker.loading
            return LoadProgress(told.stage, told.done, told.total, seconds)
        if self.state == "loading":
            return LoadProgress("starting", seconds=seconds)
        if self.alive:
            return LoadProgress("ready", seconds=self.worker.ready.load_seconds if self.worker.ready else 0.0)  # type: ignore[union-attr]
        if self.waiters or self.wished is not None:
            since = min([waiter.since for waiter in self.waiters], default=self.wished or time.monotonic())
            return LoadProgress("waiting", seconds=time.monotonic() - since)
        return LoadProgress("failed", error=self.reason) if self.reason else None
