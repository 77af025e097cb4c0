"""A process with everything imported that waits for a model, so that a load need not wait for imports."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from ..errors import MlxPanelError
from ..messages import LocalModel
from .process import Worker, WorkerOptions

log = logging.getLogger(__name__)
# A start or a load has the machine for itself for so long; and what failed is not tried again at once.
QUIET_SECONDS, RETRY_SECONDS = 2.0, 60.0
TYPICAL = 400 << 20  # bytes, before one was measured
# It is started where so many times its memory is free, and ended where less than so many times is: models use the rest.
START_TIMES, KEEP_TIMES = 4, 2


class House(Protocol):
    async def worker_options(self, model: LocalModel | None) -> WorkerOptions: ...


class Spare:
    """At most one such process. `mind` starts and ends it; `take` hands it over."""

    def __init__(self, house: House):
        self._house = house
        self._worker: Worker | None = None
        self._starting: asyncio.Task[None] | None = None
        self._size = TYPICAL
        self._not_before = time.monotonic() + QUIET_SECONDS

    def __repr__(self) -> str:
        return f"<Spare pid {self.pid}, {self.memory >> 20} MiB>"

    @property
    def pid(self) -> int | None:
        return self._worker.pid if self._worker is not None else None

    @property
    def memory(self) -> int:
        """What it takes, bytes."""
        worker = self._worker
        return worker.warm.memory.process if worker is not None and worker.warm is not None else 0

    def mind(self, room: int | None, changed: Callable[[], None]) -> None:
        """Start it where there is room enough (bytes), end it where there is not; None leaves it be."""
        if room is None or self._starting is not None:
            return
        if self._worker is None and room >= START_TIMES * self._size and time.monotonic() >= self._not_before:
            self._starting = asyncio.create_task(self._start(changed))
        elif self._worker is not None and room < KEEP_TIMES * self.memory:
            self._starting = asyncio.create_task(self._stop())

    async def take(self) -> Worker | None:
        """The process, once it is ready if it is being started; it is no spare any more."""
        if self._starting is not None:
            await asyncio.wait((self._starting,))
        worker = self._worker
        if worker is None or worker.warm is None or worker.gone or worker.stopping:
            return None
        self._worker, self._not_before = None, time.monotonic() + QUIET_SECONDS
        return worker

    async def make_room(self, room: int) -> None:
        """End it unless so many bytes are left for it."""
        if self._starting is not None:
            await asyncio.wait((self._starting,))
        if self._worker is not None and room < self.memory:
            await self._stop()

    async def close(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait((self._starting,))
        await self._stop()

    def kill(self) -> None:
        if self._worker is not None:
            self._worker.signal(15)

    async def _start(self, changed: Callable[[], None]) -> None:
        try:
            self._worker = Worker(await self._house.worker_options(None), self._gone, _nothing)
            self._size = (await self._worker.hatch()).memory.process
        except (MlxPanelError, OSError) as error:
            log.warning("no spare process could be started: %s", type(error).__name__)
            self._worker, self._not_before = None, time.monotonic() + RETRY_SECONDS
        finally:
            self._starting = None
        changed()

    async def _stop(self) -> None:
        worker, self._worker = self._worker, None
        try:
            if worker is not None:
                await worker.stop()
        finally:
            self._starting = None

    def _gone(self, worker: Worker) -> None:
        if self._worker is worker:
            self._worker, self._not_before = None, time.monotonic() + RETRY_SECONDS


def _nothing(worker: Worker) -> None:
    """A spare has no news."""
