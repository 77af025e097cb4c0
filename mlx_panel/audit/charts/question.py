"""A question to the log: what was asked, with the axis and the names of groups that its chart needs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

import duckdb

from ...analytics import AuditFilter, Price
from ..facts import Facts, requests
from ..where import ERROR, MODEL, UNKNOWN
from .axis import Axis, axis

MOST_GROUPS = 8
OTHER, ALL = "other", "all"
GROUPS = {
    "model": MODEL,
    "endpoint": "endpoint",
    "backend": f"coalesce(CAST(backend_type AS VARCHAR), '{UNKNOWN}')",
    "status": "CAST(status AS VARCHAR)",
    "caller": f"coalesce(caller, '{UNKNOWN}')",
    "error": ERROR,
    "none": f"'{ALL}'",
}


class Question:
    """What a chart function is given: a cursor inside a transaction, a filter without `range`, the chart's options.

    `axis` is made when it is first needed; `now` is where its open end is at least, None for where the log ends.
    """

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        filter: AuditFilter,
        options: Mapping[str, str],
        *,
        buckets: int,
        prices: Mapping[str, Price],
        now: datetime | None = None,
    ) -> None:
        self.cursor, self.filter, self.options = cursor, filter, options
        self.buckets, self.prices, self.now = buckets, prices, now

    def __repr__(self) -> str:
        return f"<Question {self.filter!r} {dict(self.options)}>"

    @cached_property
    def axis(self) -> Axis:
        return axis(self.cursor, self.filter, self.buckets, self.now)

    @property
    def by(self) -> str:
        """SQL for the group of a request."""
        return GROUPS[self.options["by"]]

    def ask(self, sql: str, bound: Mapping[str, Any]) -> list[tuple]:
        return self.cursor.execute(sql, dict(bound)).fetchall()

    def over_time(self, select: str, *, condition: str = "true") -> list[tuple]:
        """Bucket and sums: `select` is SQL over the facts' columns."""
        facts = self.facts()
        sql = (
            f"SELECT {self.axis.bucket()} AS bucket, {select} FROM {facts.sql} WHERE {condition} GROUP BY ALL"
        )
        return self.ask(sql, facts.bound)

    def facts(self) -> Facts:
        """The requests that match, fit for the axis."""
        return requests(self.cursor, self.filter, hours=self.axis.whole_hours)

    def whole(self, *, hours: bool = True) -> Facts:
        """The requests that match, for sums without a time axis."""
        return requests(self.cursor, self.filter, hours=hours)

    def grouped(
        self,
        sums: Mapping[str, str],
        *,
        group: str,
        rank: str,
        condition: str = "true",
        bound: Mapping[str, Any] = {},
    ) -> dict[str, dict[int, tuple]]:
        """Sums by group and bucket, for the largest groups by `rank` (one of the sums) and "other", largest first."""
        facts = self.facts()
        made = ", ".join(f"{text} AS {name}" for name, text in sums.items())
        again = ", ".join(f"sum({name})" for name in sums)
        rows = self.ask(
            f"""
            WITH cells AS MATERIALIZED (
                SELECT {self.axis.bucket()} AS bucket, {group} AS name, {made}
                FROM {facts.sql} WHERE {condition} GROUP BY ALL
            ),
            names AS (SELECT name, sum({rank}) AS amount FROM cells GROUP BY name),
            placed AS (
                SELECT name, least({MOST_GROUPS + 1}, row_number() OVER (ORDER BY amount DESC, name)) AS place FROM names
            )
            SELECT place, CASE WHEN place > {MOST_GROUPS} THEN '{OTHER}' ELSE name END AS shown, bucket, {again}
            FROM cells JOIN placed USING (name) GROUP BY place, shown, bucket ORDER BY place
            """,
            facts.bound | dict(bound),
        )
        found: dict[str, dict[int, tuple]] = {}
        for _, name, bucket, *values in rows:
            cells = found.setdefault(name, {})
            # A group may itself be called "other".
            before = cells.get(bucket, (0,) * len(values))
            cells[bucket] = tuple(value + known for value, known in zip(values, before, strict=True))
        return found
