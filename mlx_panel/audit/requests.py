"""One request of the log, with where its time went and who was there. Each question takes a cursor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import duckdb
import msgspec

from ..analytics import Beside, RequestView
from ..errors import NotFound
from ..record import AuditRecord, Neighbour, Span
from .queries import snapshot
from .shares import sentence, shares
from .stored import LISTED, stored
from .where import in_scope, plain

# Two requests that had to do with each other arrived at most so long apart.
APART = timedelta(hours=6)
NEAR = 1000  # ids among which the next model request is looked for first
MOST_SAME = 50
FIRST_WINDOW, ABOUT = 100_000, 200_000  # rows
OWN_ID = re.compile(r"req_[0-9a-f]{32}")


def view(cursor: duckdb.DuckDBPyConnection, id: int) -> RequestView:
    """The request with this number. Raises NotFound."""
    with snapshot(cursor):
        record = _row(cursor, id)
        spans, neighbours, hashed = _detail(cursor, id)
        parts = shares(record, spans, neighbours)
        return RequestView(
            id, record, spans, neighbours, parts, sentence(record, parts, neighbours),
            beside=_beside(cursor, id, record, neighbours),
            same=_same(cursor, id, record),
            before=_next(cursor, id, "max", "<", id - NEAR), after=_next(cursor, id, "min", ">", id + NEAR),
            hashed=hashed,
        )  # fmt: skip


def find(cursor: duckdb.DuckDBPyConnection, request_id: str) -> list[int]:
    """The numbers of the requests with this id, newest first, at most 50: a caller may use one twice.

    Newest are looked for first, in windows that grow towards the past; those beside it are of the window it was in.
    """
    last = cursor.execute("SELECT max(id) FROM audit").fetchall()[0][0] or 0
    high, window = last + 1, FIRST_WINDOW
    while high > 0:
        low = max(0, high - window)
        found = cursor.execute(
            "SELECT id FROM audit WHERE id >= $low AND id < $high AND request_id = $request_id "
            f"ORDER BY id DESC LIMIT {MOST_SAME}",
            {"low": low, "high": high, "request_id": request_id},
        ).fetchall()
        if found:
            return [id for (id,) in found]
        high, window = low, window * 8
    return []


def named(cursor: duckdb.DuckDBPyConnection, name: str) -> RequestView:
    """The request of a number, else the newest of a request id. Raises NotFound."""
    if name.isascii() and name.isdecimal() and len(name) < 19:
        try:
            return view(cursor, int(name))
        except NotFound:
            pass  # a caller's own id may look like a number
    ids = find(cursor, name)
    if not ids:
        raise NotFound("There is no such request in the audit log. Old ones are deleted after some time.")
    return view(cursor, ids[0])


def _same(cursor: duckdb.DuckDBPyConnection, id: int, record: AuditRecord) -> tuple[int, ...]:
    """The numbers of the requests with its id about its time, newest first. Ids of our own are never given twice."""
    if OWN_ID.fullmatch(record.request_id):
        return (id,)
    found = cursor.execute(
        "SELECT id FROM audit WHERE id >= $low AND id <= $high AND request_id = $request_id "
        f"ORDER BY id DESC LIMIT {MOST_SAME}",
        {"low": id - ABOUT, "high": id + ABOUT, "request_id": record.request_id},
    ).fetchall()
    return tuple(one for (one,) in found)


def _row(cursor: duckdb.DuckDBPyConnection, id: int) -> AuditRecord:
    found = cursor.execute(f"SELECT {LISTED} FROM audit WHERE id = $id", {"id": id}).fetchall()
    if not found:
        raise NotFound("There is no such request in the audit log. Old ones are deleted after some time.")
    return stored(found[0]).record


def _detail(
    cursor: duckdb.DuckDBPyConnection, id: int
) -> tuple[tuple[Span, ...], tuple[Neighbour, ...], int]:
    found = cursor.execute(
        "SELECT spans, neighbours, octet_length(blocks) // 8 FROM detail WHERE id = $id", {"id": id}
    ).fetchall()
    if not found:
        return (), (), 0
    spans, neighbours, hashed = found[0]
    return _spans(spans), msgspec.convert(neighbours or (), tuple[Neighbour, ...]), hashed or 0


def _spans(found: list[dict[str, Any]] | None) -> tuple[Span, ...]:
    return msgspec.convert(found or (), tuple[Span, ...])


def _next(cursor: duckdb.DuckDBPyConnection, id: int, best: str, side: str, bound: int) -> int | None:
    """The nearest model request on one side, first looked for up to `bound`."""
    near = "id >= $bound" if side == "<" else "id <= $bound"
    query = f"SELECT {best}(id) FROM audit WHERE id {side} $id AND {in_scope('model')}"
    found = cursor.execute(f"{query} AND {near}", {"id": id, "bound": bound}).fetchall()[0][0]
    return found if found is not None else cursor.execute(query, {"id": id}).fetchall()[0][0]


def _beside(
    cursor: duckdb.DuckDBPyConnection, id: int, record: AuditRecord, neighbours: Sequence[Neighbour]
) -> tuple[Beside, ...]:
    """The rows of neighbours: of those with the same request id the one whose time overlaps this one's."""
    names = [one.request_id for one in neighbours if one.request_id != record.request_id]
    if not names:
        return ()
    begin = plain(record.timestamp)
    end = begin + timedelta(milliseconds=record.duration_ms)
    found = cursor.execute(
        'SELECT a.id, request_id, "timestamp", duration_ms, coalesce(model_used, model_requested), status, spans '
        "FROM audit AS a LEFT JOIN detail AS d ON d.id = a.id "
        'WHERE request_id IN (SELECT unnest($names)) AND "timestamp" > $early AND "timestamp" <= $end '
        'AND "timestamp" + to_microseconds((duration_ms * 1000)::BIGINT) >= $begin AND a.id <> $id ORDER BY a.id',
        {"names": names, "early": begin - APART, "begin": begin, "end": end, "id": id},
    ).fetchall()
    order = {name: place for place, name in enumerate(names)}
    rows = [_one_beside(row, begin, record.duration_ms) for row in found]
    return tuple(sorted(rows, key=lambda one: (order[one.request_id], one.id)))


def _one_beside(row: Sequence[Any], begin: datetime, duration: float) -> Beside:
    id, name, when, took, model, status, spans = row
    at = (when - begin) / timedelta(milliseconds=1)
    return Beside(id, name, round(at, 3), took, model, status, tuple(_within(_spans(spans), at, duration)))


def _within(spans: Iterable[Span], at: float, duration: float) -> Iterable[Span]:
    """Spans moved by `at`, and cut to the time from 0 to `duration`."""
    for span in spans:
        start, end = max(0.0, span.at_ms + at), min(duration, span.at_ms + span.ms + at)
        if end > start:
            yield Span(span.kind, round(start, 3), round(end - start, 3), span.tokens)
