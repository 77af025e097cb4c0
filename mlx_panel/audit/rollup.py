"""Keeping the sums by hour and the sample up to date with the log, a piece at a time."""

from __future__ import annotations

from datetime import datetime, timedelta

import duckdb

from .facts import DIMENSIONS, IN_SAMPLE, MOMENTS, MOSTS, OFFSETS, SUMS, TIMES, rolled
from .where import plain

# Rows are taken in when so many wait, so that few rows of sums are made; those that wait are read from the log itself.
PIECE = 1 << 15
LOOK_SECONDS = 5.0

_HOURS = ", ".join(f"date_trunc('hour', {text}) AS {name}" for name, text in MOMENTS.items())
_SUMS = ", ".join(f"CAST(sum({text}) AS BIGINT) AS {name}" for name, text in SUMS.items())
_OFFSETS = ", ".join(
    f"CAST(sum(epoch_us({text}) % 3600000000) AS BIGINT) AS {name}"
    for name, text in zip(OFFSETS, MOMENTS.values(), strict=True)
)
_MOSTS = ", ".join(f"max({text}) AS {name}" for name, text in MOSTS.items())
_ROLL = f"""
    INSERT INTO audit_hour BY NAME SELECT {_HOURS}, {", ".join(DIMENSIONS)}, {_SUMS}, {_OFFSETS}, {_MOSTS}
    FROM audit WHERE {{which}} GROUP BY ALL ORDER BY arrived
"""
_KEEP = f"""
    INSERT INTO audit_sample BY NAME SELECT "timestamp", {", ".join((*DIMENSIONS, *TIMES))}
    FROM audit WHERE {{which}} AND {IN_SAMPLE}
"""

_NEXT = "id > $low AND id <= $high"
_HOUR = 'id <= $rolled AND "timestamp" >= $begin AND "timestamp" < $end'


def advance(cursor: duckdb.DuckDBPyConnection, piece: int = PIECE) -> float:
    """Take the next `piece` rows into the sums and the sample, if so many wait, in one transaction.

    Returns seconds until it wants to be called again: 0 while there is more. Only the thread that writes may call it,
    with a cursor outside a transaction.
    """
    ready = False
    cursor.begin()
    try:
        low = rolled(cursor)
        # Not max(id): DuckDB takes that from figures that a commit which failed leaves wrong.
        newest = cursor.execute("SELECT id FROM audit ORDER BY id DESC LIMIT 1").fetchall()
        if newest and newest[0][0] - low >= piece:
            for statement in (_ROLL, _KEEP):
                cursor.execute(statement.format(which=_NEXT), {"low": low, "high": low + piece})
            cursor.execute("UPDATE audit_rolled SET id = ?", [low + piece])
            ready = True
    finally:
        # A transaction in which a statement failed can only be rolled back.
        (cursor.commit if ready else cursor.rollback)()
    return 0.0 if ready else LOOK_SECONDS


def forget(cursor: duckdb.DuckDBPyConnection, before: datetime) -> None:
    """Remove what the sums and the sample hold of requests that arrived before `before`, the begin of an hour.

    Part of the transaction in which the rows of `audit` go. Raises ValueError for another moment.
    """
    moment = plain(before)
    if moment != moment.replace(minute=0, second=0, microsecond=0):
        raise ValueError("not the begin of an hour")
    cursor.execute("DELETE FROM audit_hour WHERE arrived < ?", [moment])
    cursor.execute('DELETE FROM audit_sample WHERE "timestamp" < ?', [moment])


def again(cursor: duckdb.DuckDBPyConnection, hour: datetime) -> None:
    """Make the sums and the sample of requests that arrived in one hour anew, from those of them that are left.

    Part of the transaction in which the others go.
    """
    begin = plain(hour)
    bound = {"begin": begin, "end": begin + timedelta(hours=1)}
    cursor.execute("DELETE FROM audit_hour WHERE arrived = ?", [begin])
    cursor.execute('DELETE FROM audit_sample WHERE "timestamp" >= $begin AND "timestamp" < $end', bound)
    for statement in (_ROLL, _KEEP):
        cursor.execute(statement.format(which=_HOUR), {**bound, "rolled": rolled(cursor)})
