"""The prompts that wait or are being processed, and whose turn it is. Pure bookkeeping, no mlx."""

from __future__ import annotations

from collections.abc import Iterator

from ..tuning import AdmissionOrder
from .row import Row


class PromptQueue:
    """Rows in the order of their arrival, until their prompt is processed.

    By "arrival" the oldest goes first. By "shortest" every other turn goes to the row with the least left, so short
    prompts overtake long ones, and the turns between to the oldest, so that a long one always has half of them.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []
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

    def remove(self, row: Row) -> None:
        self._rows.remove(row)

    def turn(self, order: AdmissionOrder, budget: int, places: int, *, idle: bool = False) -> list[Row]:
        """The rows of the next pass over `budget` prompt tokens: one, or several that all end with it.

        Of rows not yet started those are taken that find room in `places`; `idle` says that nothing runs. Rows that end
        together are padded to the longest of them, and the padding counts.
        """
        open_rows = self._open(places, idle)
        if not open_rows:
            return []
        first = open_rows[0]
        if order == "shortest":
            if not self._oldest_next:
                first = min(open_rows, key=_left)
            self._oldest_next = not self._oldest_next
        return self._with_company(first, open_rows, budget, places)

    def _open(self, places: int, idle: bool) -> list[Row]:
        waiting = next((row for row in self._rows if not row.started), None)
        if idle and waiting is not None and waiting.width > places:
            # It came when more could run at once, and there will never be more places than now.
            return [waiting]
        if waiting is None or waiting.width > places:
            # Places are kept for the oldest that waits, or requests with many choices would never find enough.
            places = 0
        return [row for row in self._rows if row.started or row.width <= places]

    def _with_company(self, first: Row, rows: list[Row], budget: int, places: int) -> list[Row]:
        """More rows that fit into the same pass. One that does not end with it runs alone."""
        if first.alone or _left(first) > budget:
            return [first]
        group, longest = [first], _left(first)
        places -= 0 if first.started else first.width
        for row in sorted((row for row in rows if row is not first and not row.alone), key=_left):
            longest = max(longest, _left(row))
            if longest * (len(group) + 1) > budget or (not row.started and places < row.width):
                break
            places -= 0 if row.started else row.width
            group.append(row)
        return group


def _left(row: Row) -> int:
    return row.left
