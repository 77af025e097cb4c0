"""A replay on a terminal and on a page: then and now side by side, and what would be sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .columns import number
from .records import Result, Run, Summary
from .replay import Planned

BARS = 30
FIGURES: tuple[tuple[str, Callable[[Summary], float | None]], ...] = (
    ("Requests", lambda one: one.requests),
    ("Errors", lambda one: one.failed),
    ("Seconds", lambda one: one.seconds),
    ("Tokens/s", lambda one: one.tokens_per_second),
    ("Prompt tokens", lambda one: one.prompt_tokens),
    ("Answer tokens", lambda one: one.completion_tokens),
    ("TTFT p50 (ms)", lambda one: one.ttft.p50),
    ("TTFT p95 (ms)", lambda one: one.ttft.p95),
    ("TTFT p99 (ms)", lambda one: one.ttft.p99),
    ("TPOT p50 (ms)", lambda one: one.tpot.p50),
    ("TPOT p95 (ms)", lambda one: one.tpot.p95),
    ("E2E p50 (ms)", lambda one: one.e2e.p50),
    ("E2E p95 (ms)", lambda one: one.e2e.p95),
)
COUNTS = ("Requests", "Errors", "Prompt tokens", "Answer tokens")
EDGES: dict[str, tuple[float, ...]] = {
    "gap to the request before, s": (0.01, 0.1, 1, 10, 60, 600),
    "prompt, tokens": (32, 128, 512, 2048, 8192, 32768),
    "answer, tokens": (2, 16, 64, 256, 1024, 4096),
}


def headers(result: Result) -> list[str]:
    """Of the table that `rows` fills."""
    return ["Figure", "Then", *(["Now"] if len(result.targets) < 3 else ["A", "B"])]


def rows(result: Result) -> list[list[str]]:
    """The same figures of the past and of each replay; a dash where one does not know it."""
    summaries = [run.summary for run in sorted(result.runs, key=_place)]
    found = []
    for name, of in FIGURES:
        values = [of(one) for one in summaries]
        if any(value is not None for value in values):
            found.append([name, *(_cell(name, value) for value in values)])
    found.append(["From the cache", *map(_cached, summaries)])
    late = [number(one.sent_late_p99 or None) for one in summaries]
    return [*found, ["Sent late, p99 (ms)", *late]] if any(one.sent_late_p99 for one in summaries) else found


def closing(result: Result) -> list[str]:
    """What has to be known beside the table."""
    replay = result.runs[0].workload.replay
    if replay is None:
        return []
    lines = [
        f"{replay.shared:.1%} of the prompts' tokens are in whole blocks with which an earlier prompt began too. "
        "What came from a cache then because it was an answer before is not found there again."
    ]
    if replay.speed != 1 or replay.max_gap:
        lines.append("The gaps are not those of the past: times and tokens per second are of another load.")
    return lines


def preview(planned: Planned) -> list[str]:
    """What a replay would send, as lines of text."""
    replay = planned.workload.replay
    assert replay is not None
    count, then = replay.requests, planned.then.rows
    models = [f"{model or 'the only model'} ({times:,})" for model, times in planned.models.most_common()]
    lines = [
        f"{count:,} requests of {replay.source or 'the past'}, which came in {_time(replay.seconds)}; "
        f"they would be sent in {_time(replay.seconds / replay.speed)}.",
        f"To: {', '.join(models)}",
        f"{planned.then.summary.prompt_tokens:,} tokens of prompts, {planned.then.summary.completion_tokens:,} of answers; "
        f"{planned.streamed / count:.0%} streamed; at most {planned.workload.concurrency} at once then.",
        f"{planned.hashed:,} of {count:,} have hashes of their prompts. {replay.shared:.1%} of the tokens are in blocks that came "
        f"before; {planned.recorded:.1%} came from the cache then.",
    ]
    values: tuple[Sequence[float], ...] = (
        planned.gaps[1:],
        [row.prompt_tokens for row in then],
        [row.completion_tokens for row in then],
    )
    for (title, edges), found in zip(EDGES.items(), values, strict=True):
        lines += ["", title, *histogram(found, edges)]
    return lines


def histogram(values: Sequence[float], edges: Sequence[float]) -> list[str]:
    """How many values are below each edge, and how many are not below the last; a bar of text for each."""
    lows = (0, *edges)
    counts = [
        sum(low <= value < high for value in values)
        for low, high in zip(lows, (*edges, float("inf")), strict=True)
    ]
    names = [*(f"< {edge:g}" for edge in edges), f"≥ {edges[-1]:g}"]
    most = max(counts) or 1
    width = max(map(len, names))
    return [
        f"  {name:>{width}} {'█' * round(BARS * count / most):<{BARS}} {count:,}"
        for name, count in zip(names, counts, strict=True)
    ]


def markdown(
    result: Result, table: Callable[[Sequence[str], Iterable[Sequence[str]]], list[str]]
) -> list[str]:
    """Then and now as lines of a page."""
    return [*table(headers(result), rows(result)), "", *(f"- {line}" for line in closing(result)), ""]


def _place(run: Run) -> int:
    return run.target


def _cell(name: str, value: float | None) -> str:
    return f"{int(value):,}" if name in COUNTS and value is not None else number(value)


def _cached(summary: Summary) -> str:
    return f"{summary.cached_tokens / summary.prompt_tokens:.1%}" if summary.prompt_tokens else "–"


def _time(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    if not hours and rest < 120:
        return f"{seconds:.1f} s"
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
