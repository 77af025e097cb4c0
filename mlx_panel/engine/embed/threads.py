"""Work of numpy on several cores at once, each with a piece of its own.

Two halves of a batch, each on a core with a matmul of one thread, are done sooner than both one after the other with a
matmul of two threads: everything between the matmuls runs on both cores then, and no thread waits for another that the
system has put aside. docs/embeddings.md has the figures.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

A = TypeVar("A")
B = TypeVar("B")
# numpy's wheels bring OpenBLAS along under names of their own.
SETTERS = ("scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads")


class Threads:
    """A thread a core; just one where the threads of numpy's BLAS cannot be set, which then uses the cores itself."""

    def __init__(self) -> None:
        self._limit = _setter()
        self.cores = _cores() if self._limit is not None else 1
        self._pool = ThreadPoolExecutor(self.cores, "numpy")

    def __repr__(self) -> str:
        return f"<Threads on {self.cores} cores>"

    def submit(self, work: Callable[[A], B], piece: A, *, alone: bool) -> Future[B]:
        """Begin a piece of work. One that is `alone` has all cores for its matmuls."""
        if self._limit is not None:
            self._limit(self.cores if alone else 1)
        return self._pool.submit(work, piece)

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._pool.shutdown()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _setter() -> Callable[[int], Any] | None:
    """The function that sets the threads of the BLAS inside numpy; None where numpy has another."""
    folder = Path(np.__file__).parent
    for file in sorted((*folder.parent.glob("numpy.libs/*openblas*"), *folder.glob(".dylibs/*openblas*"))):
        library = ctypes.CDLL(str(file))  # numpy has it open already
        for name in SETTERS:
            if hasattr(library, name):
                return getattr(library, name)
    return None
