"""Weights from files into memory, a piece at a time, so that one can see how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import mlx.core as mx

# Told how far a load is: its stage ("weights" or "warming"), and of weights the bytes done and in all.
Progress = Callable[[str, int, int], None]
# Weights are read in so many pieces, none smaller than this.
PIECES, LEAST = 100, 16 << 20


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody wants to know."""


def read(arrays: Iterable[mx.array], progress: Progress = silent) -> None:
    """Bring lazy arrays into memory.

    A piece is read and converted at a time, so what is not kept of the files is never in memory all at once.
    """
    arrays = list(arrays)
    total, done, size = sum(array.nbytes for array in arrays), 0, 0
    least = max(total // PIECES, LEAST)
    piece: list[mx.array] = []
    progress("weights", 0, total)
    for array in arrays:
        piece.append(array)
        size += array.nbytes
        if size >= least or done + size == total:
            mx.eval(piece)
            piece, done, size = [], done + size, 0
            progress("weights", done, total)
