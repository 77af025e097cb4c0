"""The past as a replay needs it: who asked when for how much, and which prompts began alike. No text was ever kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec

from ..analytics import AuditFilter
from ..errors import AuditError, AuditLocked
from ..inquiry import Past
from .where import matching, plain

PAGE = 2000
# What never got to a model has no length and cannot be run again; vectors are no answers.
ANSWERED = "prompt_tokens > 0 AND status <> 'rejected' AND endpoint <> '/v1/embeddings'"
COLUMNS = (
    "prompt_tokens", "completion_tokens", "stream", "temperature", "top_p", "top_k", "max_tokens", "ttft_ms", "duration_ms",
    "status", "cached_tokens",
)  # fmt: skip
_LIST = f'"timestamp", id, coalesce(model_used, model_requested), {", ".join(COLUMNS)}'
FIRST_WINDOW, GROWTH = timedelta(minutes=10), 8
SOON = timedelta(microseconds=1)


class Mark(NamedTuple):
    """Where a reading of the past has come to: `at` and `id` of the last request read, `first` when the first one came.

    `window` is how long the stretch of time looked at next is.
    """

    first: datetime | None
    at: datetime
    id: int
    window: timedelta = FIRST_WINDOW


def past(cursor: duckdb.DuckDBPyConnection, filter: AuditFilter) -> Iterator[Past]:
    """The requests of `filter` that wrote text, in the order in which they came, a page in memory at a time.

    The cursor may be one of a running server's log or of a file that nobody has open (`stopped`). Raises AuditError for a
    file of an older version, which the next start of a server brings up to date.
    """
    mark, filter = None, pinned(filter)
    while True:
        found, mark = page(cursor, filter, mark)
        yield from found
        if mark is None:
            return


def page(
    cursor: duckdb.DuckDBPyConnection, filter: AuditFilter, after: Mark | None = None, *, limit: int = PAGE
) -> tuple[list[Past], Mark | None]:
    """The next requests after a mark, up to `limit`, and the mark for those after them: None at the end."""
    begin, end = _bounds(cursor, filter)
    if begin is None or end is None:
        return [], None
    mark = after or Mark(None, begin, -1)
    while mark.at < end:
        until = min(mark.at + mark.window, end)
        rows = _rows(cursor, filter, mark, until, limit)
        if rows:
            at, id = rows[-1][:2]
            mark = Mark(mark.first or rows[0][0], at, id, mark.window)
            if len(rows) < limit:
                mark = Mark(mark.first, until, -1, mark.window * GROWTH)
            assert mark.first is not None
            return _pasts(rows, _blocks(cursor, [row[1] for row in rows]), mark.first), mark
        mark = Mark(mark.first, until, -1, mark.window * GROWTH)
    return [], None


@contextlib.contextmanager
def stopped(file: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A log that no server has open, for reading. Raises AuditLocked while one has, AuditError where it is no log."""
    try:
        log = duckdb.connect(str(file), read_only=True, config={"threads": 1, "memory_limit": "512MB"})
    except duckdb.Error as error:
        if "Could not set lock" in str(error):
            raise AuditLocked(f"{file} is in use by a running server.") from error
        raise AuditError(f"{file} cannot be opened as an audit log ({type(error).__name__}).") from error
    with contextlib.closing(log):
        yield log


def _bounds(
    cursor: duckdb.DuckDBPyConnection, filter: AuditFilter
) -> tuple[datetime, datetime] | tuple[None, None]:
    """From when to when there can be requests of the filter."""
    first, last = cursor.execute('SELECT min("timestamp"), max("timestamp") FROM audit').fetchall()[0]
    if first is None:
        return None, None
    since, until = (plain(moment) if moment else None for moment in filter.span())
    return max(since or first, first), min(until or last + SOON, last + SOON)


def _rows(
    cursor: duckdb.DuckDBPyConnection, filter: AuditFilter, mark: Mark, until: datetime, limit: int
) -> list[tuple]:
    kind, bound = matching(filter)
    moments = {"at": mark.at, "id": mark.id, "until": until}
    try:
        return cursor.execute(
            f'SELECT {_LIST} FROM audit WHERE {kind} AND {ANSWERED} AND "timestamp" >= $at AND "timestamp" < $until '
            f'AND ("timestamp" > $at OR id > $id) ORDER BY "timestamp", id LIMIT {limit}',
            bound | moments,
        ).fetchall()
    except duckdb.BinderException as error:
        raise AuditError(
            "The audit log is one of an older version; start the server on it once, then ask again."
        ) from error


def _blocks(cursor: duckdb.DuckDBPyConnection, ids: list[int]) -> dict[int, tuple[int, bytes]]:
    """Block length and hashes by the row's id, of those that have some."""
    # The bounds let DuckDB skip what lies outside them without reading it.
    found = cursor.execute(
        "SELECT id, block_tokens, blocks FROM detail WHERE id BETWEEN $low AND $high "
        "AND id IN (SELECT unnest($ids::BIGINT[])) AND octet_length(blocks) > 0",
        {"low": min(ids), "high": max(ids), "ids": ids},
    ).fetchall()
    return {id: (length, hashes) for id, length, hashes in found}


def _pasts(rows: list[tuple], blocks: dict[int, tuple[int, bytes]], first: datetime) -> list[Past]:
    found = []
    for at, id, model, *values in rows:
        length, hashes = blocks.get(id, (0, b""))
        given: dict[str, Any] = dict(zip(COLUMNS, values, strict=True))
        seconds = round((at - first).total_seconds(), 6)
        found.append(Past(at=seconds, model=model, block_tokens=length, blocks=hashes.hex(), **given))
    return found


def pinned(filter: AuditFilter) -> AuditFilter:
    """The filter with `range` and an open end made moments: pages that are asked for later mean the same time."""
    now = datetime.now(UTC)
    begin, end = filter.span(now)
    return msgspec.structs.replace(filter, since=begin, until=end or now, range="")
