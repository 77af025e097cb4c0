"""How long the log is kept: rows that are too old, or more than there is room for, go, the oldest first."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import duckdb

from . import rollup
from .storage import Contents, Retained, Storage, live_bytes
from .store import AuditStore

logger = logging.getLogger(__name__)

EVERY_SECONDS = 600.0
NEWEST = 1000  # rows that stay whatever they take
MIB = 1 << 20

Cursor = duckdb.DuckDBPyConnection


class Limits(NamedTuple):
    """How long the log is kept, and what it may take; 0 is no limit."""

    days: float = 0.0
    megabytes: int = 0


class Retention:
    """A chore of the audit's writer: looks at the log every ten minutes, and removes what is beyond the limits.

    Rows beyond the age go by whole hours, so they may live that much longer. For the file's size go as many rows as
    their average size says, never the newest 1,000. `last` is what the last look did, `next` when the next one is due.
    """

    def __init__(self, limits: Callable[[], Limits]) -> None:
        self._limits = limits
        self.last: Retained | None = None
        self.next: datetime | None = None

    def __repr__(self) -> str:
        return f"<Retention last {self.last}, next {self.next}>"

    def __call__(self, cursor: Cursor) -> float:
        """Look, and remove what has to go; seconds until the next look."""
        started, now = time.monotonic(), datetime.now(UTC)
        rows, (cut, reason) = 0, self._cut(cursor)
        if cut is not None:
            rows = remove(cursor, cut)
            seconds = time.monotonic() - started
            logger.info("audit: %d rows removed for their %s in %.2f s", rows, reason, seconds)
        before = cut.replace(tzinfo=UTC) if cut else None
        self.last = Retained(now, rows, time.monotonic() - started, reason, before)
        self.next = now + timedelta(seconds=EVERY_SECONDS)
        return EVERY_SECONDS

    def storage(self, store: AuditStore, found: Contents) -> Storage:
        """What is told of the log's file and its writer, with what was found in the file."""
        return Storage(
            str(store.path), found, pending=store.pending, written=store.written, failed=store.failed,
            trouble=store.trouble, retained=self.last, next=self.next, shrunk=store.shrunk,
        )  # fmt: skip

    def _cut(self, cursor: Cursor) -> tuple[datetime | None, str]:
        """Before which moment all rows go, and for what; None where nothing has to."""
        limits = self._limits()
        old, much = _too_old(cursor, limits.days), _too_much(cursor, limits.megabytes)
        if old and (much is None or old >= much):
            return old, "age"
        return much, "size" if much else ""


def remove(cursor: Cursor, cut: datetime) -> int:
    """Delete what is from before `cut`, UTC without its zone, from all tables; return how many requests those were.

    Raises what DuckDB raises: close the cursor then, and all is as before.
    """
    cursor.begin()
    removed = _remove(cursor, cut)
    cursor.commit()
    # While somebody reads, what went is cleaned up later.
    with contextlib.suppress(duckdb.TransactionException):
        cursor.execute("CHECKPOINT")
    return removed


def _remove(cursor: Cursor, cut: datetime) -> int:
    last, stays = _first_id(cursor, "TRUE", "DESC"), _first_id(cursor, '"timestamp" >= $cut', cut=cut)
    cursor.execute("UPDATE serial SET last_id = $last WHERE last_id < $last", {"last": last})
    # Ids nearly follow the time: all up to the first row that stays, then the few behind it.
    cursor.execute("DELETE FROM detail WHERE id < ?", [stays or last + 1])
    more = 'SELECT id FROM audit WHERE id > $stays AND "timestamp" < $cut'
    cursor.execute(f"DELETE FROM detail WHERE id IN ({more})", {"stays": stays, "cut": cut})
    cursor.execute('DELETE FROM pool_event WHERE "timestamp" < ?', [cut])
    (removed,) = cursor.execute('DELETE FROM audit WHERE "timestamp" < ?', [cut]).fetchall()[0]
    rollup.forget(cursor, _hour(cut))
    if cut != _hour(cut):
        rollup.again(cursor, _hour(cut))
    return removed


def _first_id(cursor: Cursor, where: str, order: str = "", **bound: datetime) -> int:
    rows = cursor.execute(f"SELECT id FROM audit WHERE {where} ORDER BY id {order} LIMIT 1", bound).fetchall()
    return rows[0][0] if rows else 0


def _too_old(cursor: Cursor, days: float) -> datetime | None:
    """What is from before this moment, the begin of an hour, is too old; None where nothing is."""
    cut = _hour(datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days))
    older = [f'SELECT 1 FROM {table} WHERE "timestamp" < $cut LIMIT 1' for table in ("audit", "pool_event")]
    return cut if days and any(cursor.execute(one, {"cut": cut}).fetchall() for one in older) else None


def _too_much(cursor: Cursor, megabytes: int) -> datetime | None:
    """Without what is from before this moment, the log takes what it may; None where it does so."""
    size, rows = live_bytes(cursor)
    if not megabytes or size <= megabytes * MIB:
        return None
    surplus = min(math.ceil(rows * (1 - megabytes * MIB / size)), rows - NEWEST)
    if surplus <= 0:
        return None
    return cursor.execute(
        f'SELECT "timestamp" FROM audit ORDER BY "timestamp" LIMIT 1 OFFSET {surplus}'
    ).fetchall()[0][0]


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)
