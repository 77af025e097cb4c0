"""An engine kept to its memory limit: who may start, what answers under way get, and what is left for old prompts."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from ..errors import MemoryExceeded
from ..tuning import EngineOptions
from . import used
from .admission import Admission
from .lanes import Lanes
from .prefill import Prefill
from .prefix.cache import PrefixCache
from .queue import NO_LIMIT, Space
from .row import Row


class Turn(NamedTuple):
    """`space` is for rows that start now; `refused` will never fit any more."""

    space: Space
    refused: tuple[tuple[Row, MemoryExceeded], ...] = ()


class Budget:
    """The limit applied to what an engine has: its rows, their caches, its prefix cache."""

    def __init__(self, admission: Admission, prefill: Prefill, lanes: Lanes, prefix: PrefixCache | None):
        self.admission = admission
        self._prefill, self._lanes, self._prefix = prefill, lanes, prefix
        self._keeps = used.keeps()

    def __repr__(self) -> str:
        return f"<Budget {self.committed >> 20} MiB committed, {self.admission!r}>"

    @property
    def held(self) -> int:
        """Bytes of the running requests' KV caches now."""
        return self._prefill.nbytes + self._lanes.nbytes

    @property
    def committed(self) -> int:
        """Bytes that the process may come to take for what runs; the prefix cache gives way and does not count."""
        return self.admission.committed(self._started, self.held)

    @property
    def free(self) -> int:
        """Bytes that the caches of more requests could have."""
        if not self.admission.limit:
            return NO_LIMIT
        space = self.admission.space(self._started, self.held)
        return space.memory - space.taken

    def turn(self, places: int) -> Turn:
        """Before prompts are processed: answers get more room, and rows that wait are looked at."""
        if not self.admission.limit:
            return Turn(Space(places))
        started = self._started
        self.admission.extend(started, lambda: self.held)
        if not self._prefill.queue.waiting:
            return Turn(Space(places))
        # What fits alone starts when nothing runs. There may be less memory than when it was taken.
        refused = () if started else tuple(self._unfit())
        return Turn(self.admission.space(started, self.held, places), refused)

    def tuned(self, options: EngineOptions) -> None:
        """New options: another limit, or none."""
        self.admission.options = options
        # mlx keeps what it freed, on a GPU up to all of its memory. What one pass takes is worth keeping.
        most = self.admission.pass_bytes if options.memory_limit else self._keeps
        mx.set_cache_limit(min(most, self._keeps))
        self.make_room()

    def close(self) -> None:
        """Leave mlx as it was."""
        mx.set_cache_limit(self._keeps)

    def make_room(self) -> None:
        """Leave the prefix cache what no request may come to need."""
        if self._prefix is not None:
            options = self.admission.options
            wanted, limit = options.prefix_cache_mb << 20, options.memory_limit
            self._prefix.budget = max(0, min(wanted, limit - self.committed)) if limit else wanted

    def rest(self) -> None:
        """Nothing runs: learn what the process takes without any cache, and give back what was freed."""
        kept = self._prefix.figures.bytes if self._prefix is not None else 0
        self.admission.learn(self._prefill.shape, used.resting() - kept)
        self.tuned(self.admission.options)

    @property
    def _started(self) -> list[Row]:
        """The rows that run, or whose prompts are processed."""
        return [*self._lanes.rows, *(row for row in self._prefill.queue if row.started)]

    def _unfit(self) -> list[tuple[Row, MemoryExceeded]]:
        """Cut the rows that wait to what fits now; those that do not fit even so."""
        refused = []
        for row in self._prefill.queue:
            try:
                row.prompt = self.admission.cut(row.prompt, row.request)
                self.admission.weigh(row)
            except MemoryExceeded as error:
                refused.append((row, error))
        return refused
