"""The prompts that wait or are being processed, and whose turn it is. Pure bookkeeping, no mlx."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..tuning import AdmissionOrder
from .row import Row

# So many rows that came later may start before a row of low priority; then it stands in line like any other.
PATIENCE = 32
NO_LIMIT = 1 << 62


class Space(NamedTuple):
    """What there is for rows that start: `places`, and `memory` bytes for caches and passes.

    Of these `reserved` are for the caches of `width` rows by now, or `wasted` in them, and a pass takes `transient`.
    """

    places: int
    memory: int = NO_LIMIT
    reserved: int = 0
    width: int = 0
    wasted: int = 0
    transient: int = 0

    @property
    def taken(self) -> int:
        """Bytes that may come to be taken."""
        # A batch has a slot in reserve for every four (`slots.py`).
        spare = self.reserved * (self.width // 4) // self.width if self.width else 0
        return self.reserved + max(self.wasted, spare) + self.transient

    def fits(self, row: Row) -> bool:
        if row.width > self.places or self.memory >= NO_LIMIT:
            return row.width <= self.places
        return self.less(row).taken <= self.memory

    def less(self, row: Row) -> Space:
        """What is left once the row has started."""
        if row.started:
            return self
        return self._replace(
            places=self.places - row.width,
            reserved=self.reserved + row.needs,
            width=self.width + row.width,
            transient=max(self.transient, row.transient),
        )


class PromptQueue:
    """Rows in the order of their arrival, until their prompt is processed.

    By "arrival" the oldest goes first. By "shortest" every other turn goes to the row with the least left, so short
    prompts overtake long ones, and the turns between to the oldest, so that a long one always has half of them.

    A row of low priority starts when no other waits, or after `PATIENCE` of those that came after it have started.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._low = 0  # rows of low priority,
        self._passed: dict[str, int] = {}  # and how many that came later started before each
        self._oldest_next = False

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __contains__(self, row: Row) -> bool:
        return row in self._rows

    def __repr__(self) -> str:
        return f"<PromptQueue {len(self)} rows, {self.started} started>"

    @property
    def started(self) -> int:
        """Places that rows under way take, or will take."""
        return sum(row.width for row in self._rows if row.started)

    @property
    def waiting(self) -> int:
        """Rows not yet started."""
        return sum(not row.started for row in self._rows)

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._low += row.request.priority == "low"

    def remove(self, row: Row) -> None:
        self._rows.remove(row)
        self._low -= row.request.priority == "low"
        self._passed.pop(row.id, None)

    def turn(self, order: AdmissionOrder, budget: int, space: Space, *, idle: bool = False) -> list[Row]:
        """The rows of the next pass over `budget` prompt tokens: one, or several that all end with it.

        Of rows not yet started those are taken that find room in `space`; `idle` says that nothing runs. Rows that end
        together are padded to the longest of them, and the padding counts.
        """
        open_rows = self._open(space, idle)
        if not open_rows:
            return []
        first = open_rows[0]
        if order == "shortest":
            if not self._oldest_next:
                first = min(open_rows, key=_left)
            self._oldest_next = not self._oldest_next
        group = self._with_company(first, open_rows, budget, space)
        self._note(group)
        return group

    def _in_line(self) -> list[Row]:
        """The rows whose turn it may be: those of low priority step back while any other waits to start."""
        back = {id(row) for row in self._rows if not row.started and self._yields(row)} if self._low else ()
        if not back or len(back) == self.waiting:
            return self._rows
        return [row for row in self._rows if id(row) not in back]

    def _yields(self, row: Row) -> bool:
        return row.request.priority == "low" and self._passed.get(row.id, 0) < PATIENCE

    def _note(self, group: list[Row]) -> None:
        """Count for those of low priority who starts before them."""
        if not self._low:
            return
        waiting = [row for row in self._rows if not row.started]
        new = [place for place, row in enumerate(waiting) if row in group]
        for place, row in enumerate(waiting):
            if row.request.priority == "low" and row not in group:
                self._passed[row.id] = self._passed.get(row.id, 0) + sum(one > place for one in new)

    def _open(self, space: Space, idle: bool) -> list[Row]:
        rows = self._in_line()
        waiting = next((row for row in rows if not row.started), None)
        fits = waiting is not None and space.fits(waiting)
        if idle and waiting is not None and not fits:
            # It came when more could run at once, and there will never be more room than now.
            return [waiting]
        if not fits:
            # Room is kept for the oldest that waits, or requests that need much of it would never find enough.
            return [row for row in rows if row.started]
        return [row for row in rows if row.started or space.fits(row)]

    def _with_company(self, first: Row, rows: list[Row], budget: int, space: Space) -> list[Row]:
        """More rows that fit into the same pass. One that does not end with it runs alone."""
        if first.alone or _left(first) > budget:
            return [first]
        group, longest = [first], _left(first)
        space = space.less(first)
        for row in sorted((row for row in rows if row is not first and not row.alone), key=_left):
            longest = max(longest, _left(row))
            if longest * (len(group) + 1) > budget or not (row.started or space.fits(row)):
                break
            space = space.less(row)
            group.append(row)
        return group


def _left(row: Row) -> int:
    return row.left
