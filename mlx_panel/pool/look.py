"""Workers looked at from outside, beside what they say themselves: CPU, memory, and whether somebody stopped them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

import psutil

from ..footprint import footprint


class Seen(NamedTuple):
    """What the system says of a process: `cpu` percent of one core since the last look (or its start), `memory` its footprint in bytes,
    `status` as psutil names it ("running", "sleeping", "stopped", "zombie")."""

    cpu: float
    memory: int
    status: str


class Looker:
    """Remembers the processes it looked at, as CPU time only means something between two looks."""

    def __init__(self) -> None:
        self._known: dict[int, psutil.Process] = {}

    def __repr__(self) -> str:
        return f"<Looker at {sorted(self._known)}>"

    def look(self, pids: Iterable[int]) -> dict[int, Seen]:
        """Look at processes. Blocks for some milliseconds; those that are gone are left out."""
        wanted = set(pids)
        self._known = {pid: known for pid, known in self._known.items() if pid in wanted}
        found = {pid: self._one(pid) for pid in wanted}
        return {pid: seen for pid, seen in found.items() if seen is not None}

    def _one(self, pid: int) -> Seen | None:
        try:
            process = self._known.get(pid)
            if process is None:
                process = self._known[pid] = psutil.Process(pid)
                process.cpu_percent()  # from here on counts the next one
                return Seen(_so_far(process), footprint(pid), process.status())
            return Seen(process.cpu_percent(), footprint(pid), process.status())
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            return None


def _so_far(process: psutil.Process) -> float:
    """Percent of one core that a process took in its whole life."""
    times = process.cpu_times()
    return 100 * (times.user + times.system) / max(0.01, time.time() - process.create_time())
