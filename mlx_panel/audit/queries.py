"""What is asked of the audit log: one function a question. Each takes a cursor and blocks for milliseconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import duckdb

from ..errors import InvalidParameter
from ..messages import AuditRecord, Status
from ..snapshot import AuditPage

MAX_LIMIT = 1000

COLUMNS = AuditRecord.__struct_fields__
_LIST = ", ".join(f'"{name}"' for name in COLUMNS)
_NEWEST = '"timestamp" DESC, id DESC'
_TIMESTAMP = COLUMNS.index("timestamp")

SCOPES = {"model": "dialect <> 'management'", "all": "true"}
FILTERS = {
    "status": "status = $status",
    "model": "(contains(lower(model_used), lower($model)) OR contains(lower(model_requested), lower($model)))",
    "endpoint": "endpoint = $endpoint",
}


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
    where = " AND ".join([_scope(scope), *(FILTERS[name] for name in bound)])
    # Two steps for the rows, so that a page far down sorts three columns and not all.
    cursor.execute("BEGIN TRANSACTION READ ONLY")
    try:
        total = cursor.execute(f"SELECT count(*) FROM audit WHERE {where}", bound).fetchall()[0][0]
        rows = cursor.execute(
            f"SELECT {_LIST} FROM audit WHERE rowid IN (SELECT rowid FROM audit WHERE {where} ORDER BY {_NEWEST} "
            f"LIMIT $limit OFFSET $offset) ORDER BY {_NEWEST}",
            {**bound, "limit": limit, "offset": offset},
        ).fetchall()
    finally:
        cursor.rollback()
    return AuditPage(rows=[_record(row) for row in rows], total=total)


def totals(cursor: duckdb.DuckDBPyConnection, *, scope: str = "model") -> dict[str, int]:
    """`requests`, `errors` (neither success nor cancelled by the client) and `tokens` (prompt and answer)."""
    row = cursor.execute(
        "SELECT count(*), count(*) FILTER (status NOT IN ('success', 'cancelled')), coalesce(sum(total_tokens), 0) "
        f"FROM audit WHERE {_scope(scope)}"
    ).fetchall()[0]
    return dict(zip(("requests", "errors", "tokens"), map(int, row), strict=True))


def recent_ttft(cursor: duckdb.DuckDBPyConnection, seconds: float = 60.0) -> float | None:
    """Median time to first token, milliseconds, of the requests that arrived in the last `seconds`."""
    since = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=seconds)
    return cursor.execute(
        'SELECT median(ttft_ms) FROM audit WHERE "timestamp" >= $since', {"since": since}
    ).fetchall()[0][0]


def _check_page(limit: int, offset: int, status: str | None) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidParameter(f"limit is 1 to {MAX_LIMIT}.", field="limit")
    if not 0 <= offset < 2**62:
        raise InvalidParameter("offset is 0 or more.", field="offset")
    if status is not None and status not in get_args(Status):
        raise InvalidParameter(f"status is one of {', '.join(get_args(Status))}.", field="status")


def _scope(scope: str) -> str:
    if scope not in SCOPES:
        raise InvalidParameter(f"scope is one of {', '.join(SCOPES)}.", field="scope")
    return SCOPES[scope]


def _record(row: tuple) -> AuditRecord:
    values = list(row)
    values[_TIMESTAMP] = values[_TIMESTAMP].replace(tzinfo=UTC)
    return AuditRecord(*values)
