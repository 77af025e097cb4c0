"""What the writer's thread does between two commits: jobs that others give it, and housekeeping by the clock."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import duckdb

from ..errors import AuditError

T = TypeVar("T")
Work = Callable[[duckdb.DuckDBPyConnection], T]
Chore = Callable[[duckdb.DuckDBPyConnection], float]
AFTER_FAILURE_SECONDS = 60.0


class Chores:
    """Jobs, done once, and `chores`, each asked again after as many seconds as it said. Its owner locks around all calls."""

    def __init__(self) -> None:
        self.chores: list[Chore] = []
        self._due: dict[Chore, float] = {}  # monotonic; one that was never asked is due
        self._jobs: deque[tuple[Work[Any], Future[Any]]] = deque()

    def __repr__(self) -> str:
        return f"<Chores {len(self.chores)} by the clock, {len(self._jobs)} jobs wait>"

    def add(self, work: Work[T]) -> Future[T]:
        future: Future[T] = Future()
        self._jobs.append((work, future))
        return future

    def soon(self, chore: Chore) -> None:
        """Ask a chore next, also if it is under way now."""
        self._due[chore] = 0.0

    def due(self) -> float:
        """When (monotonic) the next one is due; infinity when none is."""
        return 0.0 if self._jobs else min((self._when(chore) for chore in self.chores), default=math.inf)

    def take_job(self) -> tuple[Work[Any], Future[Any]] | None:
        return self._jobs.popleft() if self._jobs else None

    def take_chore(self) -> Chore:
        """The chore that is due first; `done` says when it is due again."""
        chore = min(self.chores, key=self._when)
        self._due[chore] = math.inf
        return chore

    def done(self, chore: Chore, seconds: float) -> None:
        if self._due[chore] == math.inf:
            self._due[chore] = time.monotonic() + seconds

    def abandon(self) -> None:
        """Nothing more is done; who waits for a job learns it."""
        for _, future in self._jobs:
            if future.set_running_or_notify_cancel():
                future.set_exception(AuditError("The audit log was closed."))
        self._jobs.clear()

    def _when(self, chore: Chore) -> float:
        return self._due.get(chore, 0.0)
