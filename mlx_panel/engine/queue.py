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
        return sum(row.started for row in self._rows)

    def add(self, row: Row) -> None:
        self._rows.append(row)

    def remove(self, row: Row) -> None:
        self._rows.remove(row)

    def turn(self, order: AdmissionOrder, budget: int, places: int) -> list[Row]:
        """The rows of the next pass over `budget` prompt tokens: one, or several that all end with it.

        Of rows not yet started at most `places` are taken. Rows that end together are padded to the longest of them,
        and the padding counts.
        """
        open_rows = self._open(places)
        if not open_rows:
            return []
        first = open_rows[0]
        if order == "shortest":
            if not self._oldest_next:
                first = min(open_rows, key=_left)
            self._oldest_next = not self._oldest_next
        return self._with_company(first, open_rows, budget, places)

    def _open(self, places: int) -> list[Row]:
        return [row for row in self._rows if row.started or places > 0]

    def _with_company(self, first: Row, rows: list[Row], budget: int, places: int) -> list[Row]:
        """More rows that fit into the same pass. One that does not end with it runs alone."""
        if first.alone or _left(first) > budget:
            return [first]
        group, longest = [first], _left(first)
        places -= not first.started
        for row in sorted((row for row in rows if row is not first and not row.alone), key=_left):
            longest = max(longest, _left(row))
            if longest * (len(group) + 1) > budget or (not row.started and places < 1):
                break
            places -= not row.started
            group.append(row)
        return group


def _left(row: Row) -> int:
    return row.left
