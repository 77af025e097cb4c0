"""Who used how much, and what cloud models cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ...analytics import Price
from ..where import FAILED, MODEL, Bound
from .answer import Answer
from .question import GROUPS, OTHER, Question

MOST_CALLERS = 25
CLOUD = "backend_type <> 'local'"
TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens")


class Bill(NamedTuple):
    """SQL for US dollars of a row of the facts, whether a price is known for it, and the values of both's parameters."""

    dollars: str
    known: str
    bound: Bound


def bill(prices: Mapping[str, Price]) -> Bill:
    """What rows cost by the price of their model, else of its provider, else nothing; local models cost nothing."""
    if not prices:
        return Bill("CAST(0 AS DOUBLE)", "false", {})
    names = {f"price{number}": name for number, name in enumerate(prices)}
    cases = [
        f"WHEN {of} = ${key} THEN {_dollars(prices[name])}"
        for of in (MODEL, "CAST(backend_type AS VARCHAR)")
        for key, name in names.items()
    ]
    listed = ", ".join(f"${key}" for key in names)
    known = f"{CLOUD} AND ({MODEL} IN ({listed}) OR CAST(backend_type AS VARCHAR) IN ({listed}))"
    return Bill(f"CASE WHEN {CLOUD} THEN CASE {' '.join(cases)} ELSE 0 END ELSE 0 END", known, dict(names))


def _dollars(price: Price) -> str:
    """SQL for tokens at a price a million; cached tokens are among those of the prompt."""
    cached = price.input if price.cached is None else price.cached
    fresh = f"(prompt_tokens - cached_tokens) * CAST({price.input!r} AS DOUBLE)"
    rest = (
        f"cached_tokens * CAST({cached!r} AS DOUBLE) + completion_tokens * CAST({price.output!r} AS DOUBLE)"
    )
    return f"({fresh} + {rest}) / 1e6"


def cost(question: Question) -> Answer:
    """US dollars by bucket and group, the dearest groups first, of requests whose price is known."""
    dollars, known, bound = bill(question.prices)
    sums = {"cost": f"sum({dollars})"}
    found = question.grouped(sums, group=question.by, rank="cost", condition=known, bound=bound)
    return Answer(
        [
            [time, group, *cells.get(number, (0.0,))]
            for group, cells in found.items()
            for number, time in enumerate(question.axis)
        ]
    )


def callers(question: Question) -> Answer:
    """Requests, failures, tokens and dollars of each caller, those with most requests first, then all others."""
    facts, (dollars, _, bound) = question.whole(), bill(question.prices)
    sums = {"requests": "sum(requests)", "errors": f"coalesce(sum(requests) FILTER ({FAILED}), 0)"}
    sums |= {name: f"sum({name})" for name in TOKENS} | {"cost": f"sum({dollars})"}
    made = ", ".join(f"{text} AS {name}" for name, text in sums.items())
    again = ", ".join(f"sum({name})" for name in sums)
    rows = question.ask(
        f"""
        WITH each AS (SELECT {GROUPS["caller"]} AS name, {made} FROM {facts.sql} GROUP BY ALL),
        placed AS (SELECT *, least({MOST_CALLERS + 1}, row_number() OVER (ORDER BY requests DESC, name)) AS place FROM each)
        SELECT CASE WHEN place > {MOST_CALLERS} THEN '{OTHER}' ELSE name END AS shown, {again}
        FROM placed GROUP BY place, shown ORDER BY place
        """,
        facts.bound | bound,
    )
    return Answer([list(row) for row in rows], total=sum(row[1] for row in rows))
