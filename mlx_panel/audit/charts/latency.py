"""Charts of how long requests took: percentiles over time, by group, by hour of the week; the slowest ones."""

from __future__ import annotations

from ..facts import count, timings
from ..where import MODEL, where
from .answer import Answer
from .axis import DAY, HOUR
from .question import MOST_GROUPS, OTHER, Question

METRICS = {"ttft": "ttft_ms", "itl": "itl_ms", "queue": "queue_ms", "total": "duration_ms"}
SLOWEST = (
    "id", 'epoch_ms("timestamp")', "request_id", MODEL, "endpoint", "CAST(status AS VARCHAR)",
    "duration_ms", "ttft_ms", "queue_ms", "prompt_tokens", "completion_tokens",
)  # fmt: skip


def latency(question: Question) -> Answer:
    """Requests and percentiles by bucket; None where no request had the metric."""
    metric = METRICS[question.options["metric"]]
    counts = {bucket: int(number) for bucket, number in question.over_time("sum(requests)")}
    total = sum(counts.values())
    facts, sampled = timings(question.cursor, question.filter, total)
    found = dict(
        question.ask(
            f"SELECT {question.axis.bucket()} AS bucket, quantile_cont({metric}, [0.5, 0.95, 0.99]) FROM {facts.sql} "
            f"WHERE {metric} IS NOT NULL GROUP BY ALL",
            facts.bound,
        )
    )
    rows = [
        [time, counts.get(number, 0), *found.get(number, (None,) * 3)]
        for number, time in enumerate(question.axis)
    ]
    return Answer(rows, sampled, total)


def percentiles(question: Question) -> Answer:
    """Requests, percentiles and the longest by group, the largest groups first."""
    metric, group = METRICS[question.options["metric"]], question.by
    groups = _largest(question, group, f"most_{metric}")
    total = sum(number for number, _ in groups.values())
    facts, sampled = timings(question.cursor, question.filter, total)
    names = {f"group{number}": name for number, name in enumerate(groups) if name != OTHER}
    listed = ", ".join(f"${key}" for key in names)
    name = f"CASE WHEN {group} IN ({listed}) THEN {group} ELSE '{OTHER}' END" if names else f"'{OTHER}'"
    found = dict(
        question.ask(
            f"SELECT {name} AS name, quantile_cont({metric}, [0.5, 0.9, 0.95, 0.99]) FROM {facts.sql} "
            f"WHERE {metric} IS NOT NULL GROUP BY ALL",
            facts.bound | names,
        )
    )
    rows = [
        [name, number, *(found.get(name) or (None,) * 4), most] for name, (number, most) in groups.items()
    ]
    return Answer(rows, sampled, total)


def _largest(question: Question, group: str, most: str) -> dict[str, tuple[int, float | None]]:
    """Requests of the largest groups and their longest, and those of the others together under "other"."""
    facts = question.whole()
    rows = question.ask(
        f"SELECT {group} AS name, sum(requests) AS amount, max({most}) FROM {facts.sql} GROUP BY ALL "
        "HAVING amount > 0 ORDER BY amount DESC, name",
        facts.bound,
    )
    found: dict[str, tuple[int, float | None]] = {}
    for place, (name, number, longest) in enumerate(rows):
        name = name if place < MOST_GROUPS else OTHER
        known = found.get(name, (0, None))
        found[name] = (
            known[0] + int(number),
            max((x for x in (known[1], longest) if x is not None), default=None),
        )
    return found


def heatmap(question: Question) -> Answer:
    """A value for each hour of the week, Monday first; `offset` is minutes east of UTC."""
    value, offset = question.options["value"], int(question.options["offset"])
    local = f"(epoch_us(arrived) + {offset * 60_000_000})"
    cell = f"({local} // {DAY} + 3) % 7 AS weekday, {local} // {HOUR} % 24 AS hour"
    sampled, total = 1, None
    if value == "ttft":
        total = count(question.cursor, question.filter)
        facts, sampled = timings(question.cursor, question.filter, total)
        wanted = "quantile_cont(ttft_ms, 0.5)"
    else:
        facts = question.whole(hours=offset % 60 == 0)
        wanted = f"CAST(sum({'requests' if value == 'requests' else 'total_tokens'}) AS BIGINT)"
    found = {
        (weekday, hour): value
        for weekday, hour, value in question.ask(
            f"SELECT {cell}, {wanted} FROM {facts.sql} GROUP BY ALL", facts.bound
        )
    }
    empty = None if value == "ttft" else 0
    rows = [[weekday, hour, found.get((weekday, hour), empty)] for weekday in range(7) for hour in range(24)]
    return Answer(rows, sampled, total, {"value": {"ttft": "ms", "tokens": "tokens"}.get(value, "count")})


def slowest(question: Question) -> Answer:
    """The requests that took longest, the longest first.

    Each row of the facts says the longest of some requests, so that as many requests as rows are asked for last at least
    as long as the last of those: all shorter ones are passed over without a look at what they are.
    """
    limit, facts = int(question.options["limit"]), question.whole()
    longest = question.ask(
        f"SELECT most_duration_ms FROM {facts.sql} ORDER BY 1 DESC LIMIT {limit}", facts.bound
    )
    if not longest:
        return Answer([])
    condition, bound = where(question.filter)
    order = "duration_ms DESC, id DESC"
    rows = question.ask(
        f"SELECT {', '.join(SLOWEST)} FROM audit WHERE rowid IN (SELECT rowid FROM audit WHERE {condition} "
        f"AND duration_ms >= $least ORDER BY {order} LIMIT {limit}) ORDER BY {order}",
        {**bound, "least": longest[-1][0]},
    )
    return Answer([list(row) for row in rows])
