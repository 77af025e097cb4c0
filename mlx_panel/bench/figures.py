"""Rows and gaps to figures: percentiles, rates, counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from .records import CountedBy, Row, Spread, Summary, Workload

LAGGING = 1.0  # of the median gap
LAG_FLOOR = 20.0  # milliseconds
BUSY = 0.8  # of a core
LATE = 100.0  # milliseconds; a request that is sent this late is not the one that was asked for


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` (0 to 1) of ascending, non-empty `values` lie, interpolated linearly.

    It is numpy's default method (Hyndman and Fan 1996, "Sample Quantiles in Statistical Packages", definition 7).
    """
    place = (len(values) - 1) * part
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def spread(values: Iterable[float | None]) -> Spread:
    """How values are spread; those that are None were not measured."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return Spread()
    p50, p95, p99 = (round(percentile(known, part), 3) for part in (0.5, 0.95, 0.99))
    mean = round(sum(known) / len(known), 3)
    return Spread(n=len(known), mean=mean, p50=p50, p95=p95, p99=p99, max=round(known[-1], 3))


def summarise(
    rows: Sequence[Row],
    gaps: Iterable[float],
    seconds: float,
    workload: Workload,
    *,
    lag: float = 0.0,
    cpu: float = 0.0,
    late: float = 0.0,
) -> Summary:
    """A run's figures. `gaps` are milliseconds, as `lag` and `late`, `seconds` from the first request to the last answer's end.

    The tokens of cancelled and failed requests count too: they were computed and they arrived.
    """
    kinds = Counter(row.status for row in rows)
    tokens, chunks = sum(row.completion_tokens for row in rows), sum(row.chunks for row in rows)
    prompts, done = sum(row.prompt_tokens for row in rows), kinds["success"]
    per = 1 / seconds if seconds else 0.0
    return Summary(
        requests=len(rows), succeeded=done, failed=kinds["error"], cancelled=kinds["cancelled"], seconds=round(seconds, 4),
        requests_per_second=round(done * per, 3), tokens_per_second=round(tokens * per, 2),
        prompt_tokens_per_second=round(prompts * per, 2), prompt_tokens=prompts,
        cached_tokens=sum(row.cached_tokens for row in rows), completion_tokens=tokens,
        tokens_per_chunk=round(tokens / chunks, 3) if chunks else 0.0, tokens_counted_by=_counted(rows),
        stopped_early=0 if workload.replay else sum(row.status == "success" and row.completion_tokens < workload.output_tokens for row in rows),
        ttft=spread(row.ttft for row in rows), itl=spread(gaps), tpot=spread(row.tpot for row in rows),
        e2e=spread(row.e2e for row in rows), errors=dict(Counter(row.error for row in rows if row.error)),
        client_lag_p99=round(lag, 3), client_cpu=round(cpu, 3), sent_late_p99=round(late, 3),
    )  # fmt: skip


def warnings(summary: Summary, workload: Workload) -> tuple[str, ...]:
    """What a reader has to know before believing the figures."""
    found = []
    if summary.failed:
        kinds = ", ".join(f"{count} {code}" for code, count in sorted(summary.errors.items()))
        found.append(f"{summary.failed} of {summary.requests} requests failed: {kinds}.")
    limit = max(LAG_FLOOR, LAGGING * (summary.itl.p50 or 0.0))
    if summary.client_cpu > BUSY or summary.client_lag_p99 > limit:
        found.append(
            f"The client may have been the bottleneck, or the machine too busy for it: it used {summary.client_cpu:.0%} "
            f"of a core, and its loop ran {summary.client_lag_p99:.0f} ms late (p99)."
        )
    if summary.sent_late_p99 > LATE:
        found.append(
            f"Requests were sent up to {summary.sent_late_p99:.0f} ms late (p99): gaps are not quite those asked for."
        )
    if summary.tokens_counted_by == "chunks" and not workload.cancel:
        found.append(
            "The server sent no usage: tokens are counted as pieces of text, which may hold several."
        )
    if summary.stopped_early:
        found.append(f"{summary.stopped_early} of {summary.succeeded} answers ended before max_tokens.")
    return tuple(found)


def _counted(rows: Sequence[Row]) -> CountedBy:
    kinds: set[CountedBy] = {row.tokens_counted_by for row in rows} - {"none"}
    return "both" if len(kinds) > 1 else next(iter(kinds), "none")
