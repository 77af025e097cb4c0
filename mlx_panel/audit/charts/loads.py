"""Models that came and went."""

from __future__ import annotations

from ..where import between
from .answer import Answer
from .question import Question

MOST_EVENTS = 1000


def loads(question: Question) -> Answer:
    """Events of models, oldest first, at most the newest 1000. Of a filter, time, `model` and `text` apply."""
    filter = question.filter
    when, bound = between(filter.since, filter.until)
    names = {f"model{number}": name for number, name in enumerate(filter.model)}
    conditions = [when]
    if names:
        conditions.append(f"model IN ({', '.join(f'${key}' for key in names)})")
    if filter.text:
        conditions.append("contains(lower(model), lower($text))")
        bound = bound | {"text": filter.text}
    rows = question.ask(
        'SELECT epoch_ms("timestamp"), model, CAST(kind AS VARCHAR), CAST(seconds AS DOUBLE), bytes, reason FROM pool_event '
        f'WHERE {" AND ".join(conditions)} ORDER BY "timestamp" DESC LIMIT {MOST_EVENTS}',
        bound | names,
    )
    return Answer([list(row) for row in reversed(rows)], total=len(rows))
