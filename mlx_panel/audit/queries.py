"""What is asked of the audit log: one function a question. Each takes a cursor and blocks for milliseconds."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import get_args

import duckdb

from ..analytics import AuditFilter, Row, Rows
from ..errors import InvalidParameter
from ..record import Status
from ..snapshot import AuditPage
from .facts import count as matches
from .facts import ends, fixed, requests
from .stored import LISTED, stored
from .where import FAILED, Bound, in_scope, matching, plain, where

__all__ = ["page", "recent_ttft", "rows", "snapshot", "totals", "where"]

MAX_LIMIT = 1000

_NEWEST = '"timestamp" DESC, id DESC'

FILTERS = {
    "status": "status = $status",
    "model": "(contains(lower(model_used), lower($model)) OR contains(lower(model_requested), lower($model)))",
    "endpoint": "endpoint = $endpoint",
}

FIRST_WINDOW, WINDOW_GROWTH = timedelta(minutes=10), 8
SOON = timedelta(microseconds=1)


@contextlib.contextmanager
def snapshot(cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """All that is asked inside sees the log at one moment, and cannot change it."""
    cursor.execute("BEGIN TRANSACTION READ ONLY")
    try:
        yield
    finally:
        cursor.rollback()


def rows(
    cursor: duckdb.DuckDBPyConnection,
    filter: AuditFilter,
    *,
    limit: int = 50,
    before: str = "",
    count: bool = False,
) -> Rows:
    """A page of at most `limit` (1 to 1000) requests, newest arrival first; `before` is the `next` of the page above it.

    Pages neither repeat nor skip a row while new ones come in. `count` adds how many match in all. Raises
    InvalidParameter.
    """
    _check_limit(limit)
    filter = fixed(filter)
    mark = _mark(before)
    with snapshot(cursor):
        found = _newest(cursor, filter, mark, limit + 1)
        records = _late(cursor, [rowid for _, _, rowid in found[:limit]])
        total = matches(cursor, filter) if count else None
    more = len(found) > limit
    return Rows(records, _token(*found[limit - 1][:2]) if more else "", total)


def _newest(
    cursor: duckdb.DuckDBPyConnection, filter: AuditFilter, mark: tuple[datetime, int] | None, limit: int
) -> list[tuple[datetime, int, int]]:
    """Timestamp, id and row number of the newest that match, looked for in windows that grow towards the past."""
    kind, bound = matching(filter)
    known = ends(cursor)
    if known is None:
        return []
    first, last = known
    since, until = (plain(moment) if moment else None for moment in filter.span())
    low, high = max(since or first, first), min(until or last + SOON, last + SOON)
    if mark is not None:
        kind += ' AND ("timestamp" < $mark OR id < $mark_id)'
        bound |= {"mark": mark[0], "mark_id": mark[1]}
        high = min(high, mark[0] + SOON)
    found: list[tuple[datetime, int, int]] = []
    window = FIRST_WINDOW
    while high > low and len(found) < limit:
        begin = max(low, high - window) if high - low > window else low
        found += _window(cursor, kind, bound, begin, high, limit - len(found))
        high, window = begin, window * WINDOW_GROWTH
    return found


def _window(
    cursor: duckdb.DuckDBPyConnection, kind: str, bound: Bound, low: datetime, high: datetime, limit: int
) -> list[tuple[datetime, int, int]]:
    return cursor.execute(
        f'SELECT "timestamp", id, rowid FROM audit WHERE {kind} AND "timestamp" >= $low AND "timestamp" < $high '
        f"ORDER BY {_NEWEST} LIMIT {limit}",
        {**bound, "low": low, "high": high},
    ).fetchall()


def _late(cursor: duckdb.DuckDBPyConnection, rowids: list[int]) -> list[Row]:
    """The rows of these numbers, newest first. Only they are read whole."""
    if not rowids:
        return []
    listed = ", ".join(map(str, rowids))
    found = cursor.execute(
        f"SELECT {LISTED} FROM audit WHERE rowid IN ({listed}) ORDER BY {_NEWEST}"
    ).fetchall()
    return [stored(row) for row in found]


def skip(cursor: duckdb.DuckDBPyConnection, filter: AuditFilter, offset: int) -> str:
    """The `before` of the page that begins behind the newest `offset` requests (1 or more) that match."""
    condition, bound = where(filter)
    found = cursor.execute(
        f'SELECT "timestamp", id FROM audit WHERE {condition} ORDER BY {_NEWEST} LIMIT 1 OFFSET $skipped',
        {**bound, "skipped": offset - 1},
    ).fetchall()
    return _token(*found[0]) if found else _token(datetime.min, 0)


def _token(moment: datetime, id: int) -> str:
    text = f"{moment.replace(tzinfo=UTC).isoformat()} {id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _mark(token: str) -> tuple[datetime, int] | None:
    if not token:
        return None
    try:
        text = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        moment, id = text.split(" ")
        at = plain(datetime.fromisoformat(moment))
        if not 0 <= int(id) < 2**63 or at > datetime.max - SOON:
            raise ValueError("no mark of ours")
        return at, int(id)
    except (ValueError, binascii.Error, OverflowError):
        raise InvalidParameter("before is the 'next' of another page.", field="before") from None


def page(
    cursor: duckdb.DuckDBPyConnection,
    *,
    limit: int = 50,
    offset: int = 0,
    status: str | None = None,
    model: str | None = None,
    endpoint: str | None = None,
    scope: str = "model",
) -> AuditPage:
    """Rows `offset` to `offset + limit`, newest arrival first, and how many match in all, at one moment.

    `model` is a part of the name asked for or of the one used, in capitals or not. `scope` "model" takes requests to model endpoints, "all"
    every request. Raises InvalidParameter: `limit` is 1 to 1000, `offset` not negative, `status` and `scope` known.
    """
    _check_page(limit, offset, status)
    given = {"status": status, "model": model, "endpoint": endpoint}
    bound = {name: value for name, value in given.items() if value is not None}
    condition = " AND ".join([in_scope(scope), *(FILTERS[name] for name in bound)])
    # Two steps for the rows, so that a page far down sorts three columns and not all.
    with snapshot(cursor):
        total = cursor.execute(f"SELECT count(*) FROM audit WHERE {condition}", bound).fetchall()[0][0]
        found = cursor.execute(
            f"SELECT {LISTED} FROM audit WHERE rowid IN (SELECT rowid FROM audit WHERE {condition} ORDER BY {_NEWEST} "
            f"LIMIT $limit OFFSET $offset) ORDER BY {_NEWEST}",
            {**bound, "limit": limit, "offset": offset},
        ).fetchall()
    return AuditPage(rows=[stored(row).record for row in found], total=total)


def totals(cursor: duckdb.DuckDBPyConnection, *, scope: str = "model") -> dict[str, int]:
    """`requests`, `errors` (neither success nor cancelled by the client) and `tokens` (prompt and answer)."""
    with snapshot(cursor):
        facts = requests(cursor, AuditFilter(scope=scope))  # type: ignore[arg-type]
        ((*row,),) = cursor.execute(
            f"SELECT sum(requests), sum(requests) FILTER ({FAILED}), sum(total_tokens) FROM {facts.sql}",
            facts.bound,
        ).fetchall()
    return {name: int(value or 0) for name, value in zip(("requests", "errors", "tokens"), row, strict=True)}


def recent_ttft(cursor: duckdb.DuckDBPyConnection, seconds: float = 60.0) -> float | None:
    """Median time to first token, milliseconds, of the requests that arrived in the last `seconds`."""
    since = plain(datetime.now(UTC)) - timedelta(seconds=seconds)
    return cursor.execute(
        'SELECT median(ttft_ms) FROM audit WHERE "timestamp" >= $since', {"since": since}
    ).fetchall()[0][0]


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidParameter(f"limit is 1 to {MAX_LIMIT}.", field="limit")


def _check_page(limit: int, offset: int, status: str | None) -> None:
    _check_limit(limit)
    if not 0 <= offset < 2**62:
        raise InvalidParameter("offset is 0 or more.", field="offset")
    if status is not None and status not in get_args(Status):
        raise InvalidParameter(f"status is one of {', '.join(get_args(Status))}.", field="status")
