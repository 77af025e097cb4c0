"""The time axis of a chart: buckets of a sensible length, in UTC."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import duckdb
import msgspec

from ...analytics import AuditFilter
from ..facts import ends

SECOND, HOUR, DAY = 1_000_000, 3_600_000_000, 86_400_000_000
SIZES = (
    *(count * SECOND for count in (1, 5, 15, 60, 300, 900)), HOUR, 3 * HOUR, 6 * HOUR, DAY, 7 * DAY,
)  # fmt: skip
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = (datetime.max.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
# A Monday, on which weeks begin, with no moment before it: a range around it would never fit into one bucket.
WEEK_ORIGIN = (datetime.min.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


class Axis(msgspec.Struct, frozen=True):
    """`count` buckets of `size` from `begin`; `since` and `until` are the ends of what they may hold. Microseconds."""

    begin: int = 0
    size: int = HOUR
    count: int = 0
    since: int = 0
    until: int = 0

    def __iter__(self) -> Iterator[int]:
        """The begin of each bucket, Unix milliseconds."""
        return (begin // 1000 for begin in range(self.begin, self.begin + self.count * self.size, self.size))

    @property
    def end(self) -> int:
        """Where the last bucket ends."""
        return self.begin + self.count * self.size

    @property
    def whole_hours(self) -> bool:
        """Whether each hour lies in one bucket."""
        return self.size % HOUR == 0

    @staticmethod
    def moment(micros: int) -> datetime:
        """Unix microseconds as a moment, aware; the first or last one there is, where a bucket reaches beyond it."""
        return EPOCH + timedelta(microseconds=max(WEEK_ORIGIN, min(micros, LATEST)))

    def bucket(self, moment: str = "arrived") -> str:
        """SQL for the number of the bucket that `moment` (a TIMESTAMP not before `begin`) lies in."""
        return f"(epoch_us({moment}) - {self.begin}) // {self.size}"

    def seconds(self, number: int) -> float:
        """How much of a bucket lies between `since` and `until`, but at least a quarter of it: a rate over an instant
        says nothing."""
        begin = self.begin + number * self.size
        held = min(begin + self.size, self.until) - max(begin, self.since)
        return max(held, self.size // 4) / SECOND


def axis(
    cursor: duckdb.DuckDBPyConnection, filter: AuditFilter, buckets: int, now: datetime | None = None
) -> Axis:
    """The axis of a filter: its own ends, or the log's first and last request where they are open.

    `now` is where an open end is at least. Without both, an empty log has no buckets. What the log holds as a whole counts, not what matches, so that charts of
    different filters can be laid side by side.
    """
    known = ends(cursor)
    first, last = (micros(moment.replace(tzinfo=UTC)) for moment in known) if known else (None, None)
    since, until, now_us = (
        None if moment is None else micros(moment) for moment in (filter.since, filter.until, now)
    )
    if first is None and since is None:
        return Axis()
    begin, end = _ends(since, until, now_us, first, last)
    size = next(size for size in _sizes() if _count(begin, end, size) <= buckets)
    start, count = begin - (begin - _origin(size)) % size, _count(begin, end, size)
    # Where the end is open the log's first or last request stands there: its bucket counts whole.
    low = start if since is None else begin
    high = start + size * count if until is None and now is None else end
    return Axis(start, size, count, low, high)


def _ends(
    since: int | None, until: int | None, now: int | None, first: int | None, last: int | None
) -> tuple[int, int]:
    """Begin (included) and end (not included) of what is shown, microseconds."""
    end = (
        until if until is not None else max(moment for moment in (since, now, last) if moment is not None) + 1
    )
    return (since if since is not None else min(first or 0, end - 1)), end


def _sizes() -> Iterator[int]:
    yield from SIZES
    size = SIZES[-1]
    while True:
        size *= 2
        yield size


def _count(begin: int, end: int, size: int) -> int:
    origin = _origin(size)
    return (end - 1 - origin) // size - (begin - origin) // size + 1


def _origin(size: int) -> int:
    return WEEK_ORIGIN if size % (7 * DAY) == 0 else 0


def micros(moment: datetime) -> int:
    """Unix microseconds of an aware moment."""
    return (moment - EPOCH) // timedelta(microseconds=1)
