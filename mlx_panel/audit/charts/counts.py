"""Charts that count and add up: requests, tokens, errors, throughput, the prefix cache."""

from __future__ import annotations

from ..where import FAILED
from .answer import Answer
from .question import GROUPS, Question

TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens")


def requests(question: Question) -> Answer:
    """Requests by bucket and group."""
    found = question.grouped({"requests": "sum(requests)"}, group=question.by, rank="requests")
    return _lines(question, found, 1, _total(found))


def tokens(question: Question) -> Answer:
    """Tokens by bucket and group."""
    sums = {name: f"sum({name})" for name in TOKENS}
    sums |= {"volume": "sum(prompt_tokens + completion_tokens)", "requests": "sum(requests)"}
    found = question.grouped(sums, group=question.by, rank="volume")
    return _lines(question, found, len(TOKENS), _total(found))


def errors(question: Question) -> Answer:
    """Requests that failed, by bucket and code; those without a code by their status."""
    found = question.grouped(
        {"requests": "sum(requests)"}, group=GROUPS["error"], rank="requests", condition=FAILED
    )
    return _lines(question, found, 1)


def throughput(question: Question) -> Answer:
    """Tokens of answers a second: by the clock, and by the time from first token to last of one request."""
    found = _sums(question, "completion_tokens", "decode_tokens", "decode_us")
    rows: list[list] = []
    for number, time in enumerate(question.axis):
        made, decoded, micros, _ = found.get(number, (0, 0, 0, 0))
        rows.append([time, made / question.axis.seconds(number), decoded / micros * 1e6 if micros else None])
    return Answer(rows, total=sum(cell[-1] for cell in found.values()))


def cache(question: Question) -> Answer:
    """Prompt tokens, those that came from the cache, their share (None without a prompt), and prefill time saved."""
    found = _sums(question, "prompt_tokens", "cached_tokens", "saved_us")
    rows: list[list] = []
    for number, time in enumerate(question.axis):
        prompt, cached, saved, _ = found.get(number, (0, 0, 0, 0))
        rows.append([time, prompt, cached, cached / prompt if prompt else None, saved / 1000])
    return Answer(rows, total=sum(cell[-1] for cell in found.values()))


def _sums(question: Question, *names: str) -> dict[int, tuple[int, ...]]:
    """By bucket, sums of these columns and the number of requests."""
    rows = question.over_time(", ".join(f"sum({name})" for name in (*names, "requests")))
    return {bucket: tuple(map(int, values)) for bucket, *values in rows}


def _total(found: dict[str, dict[int, tuple]]) -> int:
    """Requests of all groups and buckets; their number is the last of a cell."""
    return sum(cell[-1] for cells in found.values() for cell in cells.values())


def _lines(
    question: Question, found: dict[str, dict[int, tuple]], width: int, total: int | None = None
) -> Answer:
    """Every group in every bucket, with zeros where it had nothing, so that no line is drawn through a gap."""
    rows = [
        [time, name, *cells.get(number, (0,) * width)[:width]]
        for name, cells in found.items()
        for number, time in enumerate(question.axis)
    ]
    return Answer(rows, total=total)
