"""How many requests ran and how many waited, averaged over each bucket."""

from __future__ import annotations

from itertools import accumulate

from ..facts import MOMENTS, OFFSETS, moments
from .answer import Answer
from .axis import Axis
from .question import Question


def concurrency(question: Question) -> Answer:
    """Time-averaged number of running and of waiting requests, each request exact to the microsecond.

    A request waits from its arrival for `queue_ms` and `load_ms`, then runs to the end of its duration; those that came
    before the axis count from its begin. Buckets are whole: the filter's ends do not cut the first and the last. The time
    that requests have been here by an edge t is the sum over arrivals before t of (t - arrival), less the same sum over
    ends; so arrivals, starts and ends are added up by bucket, each for itself, and the difference is taken at the edges.
    """
    axis = question.axis
    cells = {name: [[0, 0] for _ in range(axis.count)] for name in MOMENTS}
    for row in _events(question):
        places, number, offsets = row[:3], row[3], row[4:]
        for name, place, offset in zip(MOMENTS, places, offsets, strict=True):
            if place < axis.count:
                cells[name][place][0] += int(number)
                cells[name][place][1] += int(offset)
    arrived, started, ended = (_spent(axis, cells[name]) for name in MOMENTS)
    rows: list[list] = []
    for number, time in enumerate(axis):
        length = _length(question, number)
        running, waiting = started[number] - ended[number], arrived[number] - started[number]
        rows.append([time, running / length, waiting / length])
    return Answer(rows)


def _events(question: Question) -> list[tuple]:
    """Requests by the buckets of their three moments, with how much later than those begin the moments are in sum."""
    axis = question.axis
    begin, end = axis.moment(axis.begin), axis.moment(axis.end)
    facts = moments(question.cursor, question.filter, begin, end, hours=axis.whole_hours)
    places, sums = [], []
    for name, offset in zip(MOMENTS, OFFSETS, strict=True):
        since = f"(epoch_us({name}) - {axis.begin})"
        places.append(f"greatest({since}, 0) // {axis.size} AS {name}_place")
        # What came before the axis stands at its begin.
        sums.append(
            f"sum(CASE WHEN {since} < 0 THEN 0 ELSE requests * ({since} % {axis.size}) + {offset} END)"
        )
    sql = f"SELECT {', '.join(places)}, sum(requests), {', '.join(sums)} FROM {facts.sql} GROUP BY ALL"
    return question.ask(sql, facts.bound) if axis.count else []


def _spent(axis: Axis, cells: list[list[int]]) -> list[int]:
    """For each bucket, microseconds from each event to the bucket's end, or the whole of it for events before it."""
    before = accumulate((number for number, _ in cells), initial=0)
    return [
        (known + number) * axis.size - offset for known, (number, offset) in zip(before, cells, strict=False)
    ]


def _length(question: Question, number: int) -> int:
    """A bucket's length, microseconds, but for the part of the last one that is still to come."""
    axis = question.axis
    begin = axis.begin + number * axis.size
    end = axis.until if question.now is not None else axis.end
    return min(axis.size, max(end - begin, axis.size // 4))
