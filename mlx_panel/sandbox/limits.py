"""What the operating system is told about a process that is about to run somebody's SQL."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

PAGE = resource.getpagesize()
# Beyond what DuckDB may take: the result as Python and as text, and what the allocator rounds up.
SLACK = 128 << 20
GUESS = 256 << 20


def restrict(memory_bytes: int, cpu_seconds: int) -> None:
    """From now on: no new file, socket or pipe, no byte to a file, no process, no core dump, so much CPU and memory.

    None of it can be taken back by this process, unless it belongs to root. macOS does not hold the limit on memory;
    the parent looks there (`audit/sql_child.py`).
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, cpu_seconds)
    _limit(resource.RLIMIT_NPROC, 0)
    if sys.platform == "linux":
        _limit(resource.RLIMIT_AS, _mapped() + memory_bytes + SLACK)
    _limit(resource.RLIMIT_FSIZE, 0)
    # What is open stays open: the pipes and the database.
    _limit(resource.RLIMIT_NOFILE, 0)


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    with contextlib.suppress(ValueError, OSError):  # a system without this limit has the others
        resource.setrlimit(kind, (most, most))


def _mapped() -> int:
    """Bytes of address space in use; a generous guess where /proc is not to be read."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[0]) * PAGE
    except OSError:
        return GUESS
