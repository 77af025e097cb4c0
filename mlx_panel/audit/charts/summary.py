"""A filter's requests in numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ...analytics import Stats
from ..facts import HOUR, timings
from ..where import where
from .money import TOKENS, bill
from .question import GROUPS, Question

SUMS = ("requests", *TOKENS, "total_tokens", "saved_us")


def summary(question: Question) -> Stats:
    """Everything `analytics.Stats` has."""
    facts, (dollars, _, bound) = question.whole(), bill(question.prices)
    made = ", ".join(f"sum({name}) AS {name}" for name in SUMS)
    rows = question.ask(
        f"SELECT {GROUPS['model']} AS model, {GROUPS['status']} AS status, {GROUPS['backend']} AS backend, {made}, "
        f"sum({dollars}), min(arrived), max(arrived) FROM {facts.sql} GROUP BY model, status, backend",
        facts.bound | bound,
    )
    sums: dict[str, Any] = {name: sum(row[3 + place] for row in rows) for place, name in enumerate(SUMS)}
    requests, saved = sums.pop("requests"), sums.pop("saved_us")
    by_model, by_status, by_backend = (_by(rows, column) for column in range(3))
    failed = by_status.get("error", 0) + by_status.get("timeout", 0)
    times, sampled = _times(question, requests)
    return Stats(
        requests=requests,
        errors=by_status.get("error", 0),
        timeouts=by_status.get("timeout", 0),
        cancelled=by_status.get("cancelled", 0),
        rejected=by_status.get("rejected", 0),
        error_rate=failed / requests if requests else 0.0,
        saved_ms=saved / 1000,
        cost=sum((row[-3] for row in rows), 0.0),
        by_model=by_model,
        by_status=by_status,
        by_backend=by_backend,
        sampled=sampled,
        **sums,
        **times,
        first=_end(question, "min", min((row[-2] for row in rows), default=None)),
        last=_end(question, "max", max((row[-1] for row in rows), default=None)),
    )


def _by(rows: list[tuple], column: int) -> dict[str, int]:
    """Requests by a column's values, most first."""
    found: dict[str, int] = {}
    for row in rows:
        found[row[column]] = found.get(row[column], 0) + row[3]
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _times(question: Question, requests: int) -> tuple[dict[str, Any], int]:
    facts, sampled = timings(question.cursor, question.filter, requests)
    ((ttft, total),) = question.ask(
        f"SELECT quantile_cont(ttft_ms, [0.5, 0.95]), quantile_cont(duration_ms, [0.5, 0.95]) FROM {facts.sql}",
        facts.bound,
    )
    names = ("ttft_p50", "ttft_p95", "total_p50", "total_p95")
    return dict(zip(names, (*(ttft or (None, None)), *(total or (None, None))), strict=True)), sampled


def _end(question: Question, which: str, hour: datetime | None) -> datetime | None:
    """The first ("min") or last ("max") arrival of the requests that match, which is in the hour from `hour` on."""
    if hour is None:
        return None
    condition, bound = where(question.filter)
    ((found,),) = question.ask(
        f'SELECT {which}("timestamp") FROM audit WHERE {condition} AND "timestamp" >= $hour AND "timestamp" < $next',
        {**bound, "hour": hour, "next": hour + HOUR},
    )
    return found.replace(tzinfo=UTC)
