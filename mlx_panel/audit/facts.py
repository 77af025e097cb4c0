"""Requests as a relation to sum over: the sums of whole hours from `audit_hour`, all else from `audit`.

Both together are always every request once: `audit_hour` holds the rows up to the id in `audit_rolled`, whole hours of
it are taken, and `audit` is read for the parts of an hour at a filter's ends and for rows of a greater id. The two are
asked in one transaction (`queries.snapshot`): between two, rows move from one to the other.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import duckdb
import msgspec

from ..analytics import AuditFilter
from .where import Bound, between, matching, plain

HOUR = timedelta(hours=1)
EPOCH = datetime(1970, 1, 1)
LAST_HOUR = (datetime.max - EPOCH) // HOUR
EXACT = 400_000  # percentiles of more requests come from a sample
SAMPLED = 16
IN_SAMPLE = f"hash(id) % {SAMPLED} = 0"

DIMENSIONS = (
    "model_used", "model_requested", "endpoint", "dialect", "backend_type", "status", "error_type", "caller", "preset",
)  # fmt: skip
TIMES = ("ttft_ms", "itl_ms", "queue_ms", "duration_ms")


def _micros(text: str) -> str:
    """SQL for milliseconds as whole microseconds; 0 for none, and for what is no number."""
    return f"coalesce(TRY_CAST(round(CAST({text} AS DOUBLE) * 1000) AS BIGINT), 0)"


# Whole numbers, so that sums are the same in whatever order and pieces they are made.
SUMS = {
    "requests": "1",
    "prompt_tokens": "prompt_tokens",
    "cached_tokens": "cached_tokens",
    "completion_tokens": "completion_tokens",
    "total_tokens": "total_tokens",
    "saved_us": _micros("saved_ms"),
    # An answer's speed is that of the tokens after its first one.
    "decode_tokens": "CASE WHEN decode_ms >= 1 THEN greatest(completion_tokens - coalesce(choices, 1), 0) ELSE 0 END",
    "decode_us": f"CASE WHEN decode_ms >= 1 THEN {_micros('decode_ms')} ELSE 0 END",
}
MOSTS = {f"most_{name}": name for name in TIMES}
LASTS = _micros("greatest(duration_ms, 0)")
WAITS = f"least({LASTS}, {_micros('greatest(coalesce(queue_ms, 0) + coalesce(load_ms, 0), 0)')})"
MOMENTS = {
    "arrived": '"timestamp"',
    "started": f'"timestamp" + to_microseconds({WAITS})',
    "ended": f'"timestamp" + to_microseconds({LASTS})',
}
OFFSETS = tuple(f"{name}_us" for name in MOMENTS)

_FACTS = ", ".join(("arrived", *DIMENSIONS, *SUMS, *MOSTS))
_RAW_FACTS = ", ".join(
    ('"timestamp" AS arrived', *DIMENSIONS, *(f"{text} AS {name}" for name, text in (SUMS | MOSTS).items()))
)
_MOMENTS = ", ".join(("requests", *MOMENTS, *OFFSETS))
_RAW_MOMENTS = ", ".join(
    (
        "1 AS requests",
        *(f"{text} AS {name}" for name, text in MOMENTS.items()),
        *(f"0 AS {name}" for name in OFFSETS),
    )
)
_TIMES = ", ".join(('"timestamp" AS arrived', *DIMENSIONS, *TIMES))


class Facts(msgspec.Struct, frozen=True):
    """A relation in brackets, `sql`, with the values of its parameters."""

    sql: str
    bound: Bound


def requests(cursor: duckdb.DuckDBPyConnection, filter: AuditFilter, *, hours: bool = True) -> Facts:
    """The requests of `filter`: columns `arrived`, DIMENSIONS, SUMS and MOSTS.

    With `hours`, a row may be several requests that are alike and arrived in one hour, and `arrived` its begin.
    """
    since, until = (plain(moment) if moment else None for moment in filter.span())
    kind, bound = matching(filter)
    low, high = (
        since and min(-(-(since - EPOCH) // HOUR), LAST_HOUR) * HOUR + EPOCH,
        until and (until - EPOCH) // HOUR * HOUR + EPOCH,
    )
    last = rolled(cursor) if hours and (low is None or high is None or low < high) else 0
    if not last:
        when, moments = between(since, until)
        return Facts(f"(SELECT {_RAW_FACTS} FROM audit WHERE {kind} AND {when})", bound | moments)
    inside, moments = between(low, high, "arrived", "_whole")
    recent, _ = between(low, high, name="_whole")
    parts = [
        f"SELECT {_FACTS} FROM audit_hour WHERE {kind} AND {inside}",
        f"SELECT {_RAW_FACTS} FROM audit WHERE {kind} AND id > {last} AND {recent}",
    ]
    for name, begin, end in (("_first", since, low), ("_last", high, until)):
        if begin != end:
            when, ends = between(begin, end, name=name)
            parts.append(f"SELECT {_RAW_FACTS} FROM audit WHERE {kind} AND {when}")
            moments |= ends
    return Facts(f"({' UNION ALL '.join(parts)})", bound | moments)


def timings(
    cursor: duckdb.DuckDBPyConnection, filter: AuditFilter, total: int, exact: int = EXACT
) -> tuple[Facts, int]:
    """The requests of `filter`, of which `total` match: columns `arrived`, DIMENSIONS and TIMES; one of how many they are.

    All of them up to `exact`, else those of a sample.
    """
    kind, bound = matching(filter)
    when, more = between(*filter.span())
    condition = f"{kind} AND {when}"
    if total <= exact:
        return Facts(f"(SELECT {_TIMES} FROM audit WHERE {condition})", bound | more), 1
    recent = f"id > {rolled(cursor)} AND {IN_SAMPLE}"
    sql = (
        f"(SELECT {_TIMES} FROM audit_sample WHERE {condition} "
        f"UNION ALL SELECT {_TIMES} FROM audit WHERE {condition} AND {recent})"
    )
    return Facts(sql, bound | more), SAMPLED


def moments(
    cursor: duckdb.DuckDBPyConnection, filter: AuditFilter, begin: datetime, end: datetime, *, hours: bool
) -> Facts:
    """When the requests that were here between `begin` and `end` came, started and ended: `requests`, MOMENTS, OFFSETS.

    With `hours`, ends being those of hours, a row may be several requests, its moments hours' begins, and OFFSETS the
    sums of what they are later than that, microseconds. The filter's own time is ignored.
    """
    kind, bound = matching(filter)
    last = rolled(cursor)
    since = plain(begin)
    bound |= {"since": since, "until": plain(end)}
    here = f'{kind} AND "timestamp" < $until AND {MOMENTS["ended"]} >= $since'
    tail = f"SELECT {_RAW_MOMENTS} FROM audit WHERE {here} AND id > {last}"
    if hours:
        first = f"SELECT {_MOMENTS} FROM audit_hour WHERE {kind} AND arrived < $until AND ended >= $since"
    else:
        # The earliest hour of a request that may last until `begin`: no row before it needs to be looked at.
        bound["early"] = _earliest(cursor, since)
        first = f'SELECT {_RAW_MOMENTS} FROM audit WHERE {here} AND id <= {last} AND "timestamp" >= $early'
    return Facts(f"({first} UNION ALL {tail})", bound)


def _earliest(cursor: duckdb.DuckDBPyConnection, since: datetime) -> datetime:
    hour = (since - EPOCH) // HOUR * HOUR + EPOCH
    ((found,),) = cursor.execute("SELECT min(arrived) FROM audit_hour WHERE ended >= ?", [hour]).fetchall()
    return hour if found is None else min(found, hour)


def rolled(cursor: duckdb.DuckDBPyConnection) -> int:
    """The id up to which rows are in `audit_hour` and `audit_sample`."""
    return cursor.execute("SELECT id FROM audit_rolled").fetchall()[0][0]


def ends(cursor: duckdb.DuckDBPyConnection) -> tuple[datetime, datetime] | None:
    """Arrival of the log's first and last request, UTC without a zone; None in an empty log."""
    # Rows and not min() and max(): DuckDB takes those from figures that a commit which failed leaves wrong.
    found = [
        cursor.execute(f'SELECT "timestamp" FROM audit ORDER BY "timestamp" {order} LIMIT 1').fetchall()
        for order in ("ASC", "DESC")
    ]
    return (found[0][0][0], found[1][0][0]) if found[0] and found[1] else None


def count(cursor: duckdb.DuckDBPyConnection, filter: AuditFilter) -> int:
    """How many requests match."""
    facts = requests(cursor, filter)
    return int(
        cursor.execute(f"SELECT coalesce(sum(requests), 0) FROM {facts.sql}", facts.bound).fetchall()[0][0]
    )


def fixed(filter: AuditFilter, now: datetime | None = None) -> AuditFilter:
    """The filter with its `range` as moments, so that all that is asked in one answer means the same time."""
    since, until = filter.span(now or datetime.now(UTC))
    return msgspec.structs.replace(filter, since=since, until=until, range="")
