"""The batches that decode side by side: one for nearly everybody, and others for rows that cannot share its passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from . import kv
from .batch import Batch, Ready
from .row import Row

# Rows whose joining wasted more than this decode in another lane.
WASTE_BYTES = 256 << 20


class Lanes:
    """`new(main)` makes a batch; `token_bytes()` says what a token takes in a KV cache, `free()` how many bytes there are
    that nobody needs."""

    def __init__(self, new: Callable[[bool], Batch], token_bytes: Callable[[], int], free: Callable[[], int]):
        self._new, self._token_bytes, self._free = new, token_bytes, free
        self._main = new(True)
        self._solos: list[Batch] = []

    def __repr__(self) -> str:
        return f"<Lanes {self._main!r} and {len(self._solos)} more>"

    def __iter__(self) -> Iterator[Batch]:
        return iter([self._main, *self._solos])

    def __len__(self) -> int:
        """Rows that decode."""
        return sum(map(len, self))

    @property
    def rows(self) -> list[Row]:
        return [row for lane in self for row in lane.rows]

    @property
    def nbytes(self) -> int:
        return sum(lane.nbytes for lane in self)

    @property
    def kv_dtype(self) -> str:
        """Of the caches in use; "" when there are none."""
        return next((lane.kv_dtype for lane in self if len(lane)), "")

    def joined(self, ready: Sequence[Ready]) -> list[tuple[Batch, list[Ready]]]:
        """Each lane, and the rows that join it. Lanes of their own that are empty end here."""
        self._solos = [lane for lane in self._solos if len(lane)]
        joining: dict[int, list[Ready]] = {}
        for group in ready:
            lane = self._lane_for(group, joining)
            joining.setdefault(id(lane), []).append(group)
        return [(lane, joining.get(id(lane), [])) for lane in self]

    def leave(self, rows: Sequence[Row]) -> None:
        """Take rows out, wherever they are."""
        for lane in self:
            lane.leave(rows)

    def replace(self, lane: Batch) -> None:
        """Forget a lane that failed, with all its rows."""
        if lane is self._main:
            self._main = self._new(True)
        else:
            self._solos.remove(lane)

    def _lane_for(self, group: Ready, joining: dict[int, list[Ready]]) -> Batch:
        """The lane for rows: one of their own for a deterministic request, and for rows so much longer or shorter than
        those that run that joining them would copy and waste too much memory; they share no pass then."""
        alone = group.rows[0].request.deterministic
        for lane in () if alone else (self._main, *self._solos):
            company = [row for other in joining.get(id(lane), []) for row in other.rows] + lane.rows
            if lane is not self._main and any(row.request.deterministic for row in company):
                continue
            if lane.misfit(group) * self._token_bytes() <= min(WASTE_BYTES, max(0, self._free())):
                return lane
        self._solos.append(self._new(False))
        return self._solos[-1]


def copies(choices: list[Row], caches: list[Any]) -> list[Ready]:
    """The choices of a request with a copy of its prompt's caches each; deterministic ones apart."""
    if choices[0].request.deterministic:
        return [Ready([choice], kv.merge([caches]), True) for choice in choices]
    if len(choices) == 1:
        return [Ready(choices, caches, False)]
    return [Ready(choices, kv.merge([caches] * len(choices)), True)]
