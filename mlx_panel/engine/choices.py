"""From prompts that are processed to the answers that follow: the choices of a request, and its echo."""

from __future__ import annotations

from collections.abc import Sequence

from ..messages import Echo, Event, TokenLogprob
from .batch import Ready
from .detokenize import Vocabulary
from .intake import Intake
from .lanes import copies
from .row import Row
from .sampling import RowLogprobs


def choices(ready: Sequence[Ready], intake: Intake) -> tuple[list[Ready], list[Event]]:
    """The rows, each as many times as its request has choices; and what is told of them now."""
    groups: list[Ready] = []
    events: list[Event] = []
    for group in ready:
        events += [echo(row, intake) for row in group.rows if row.request.echo]
        if all(row.width == 1 and row.room > 0 for row in group.rows):
            groups.append(group)
            continue
        for place, row in enumerate(group.rows):
            several = intake.choices(row)
            if row.room > 0:
                groups += copies(several, group.single(place))
            else:
                events += [one.done("length") for one in several]
    return groups, events


def echo(row: Row, intake: Intake) -> Echo:
    """The prompt, with what the model thought of its tokens where that was asked for."""
    tokens = [(row.prompt.tokens[0], None), *row.echoed] if row.looks_back else []
    # What the tokenizer puts before every prompt is no part of its text.
    unsaid = bool(tokens) and not intake.vocabulary.piece(tokens[0][0])
    told = [token_logprob(intake.vocabulary, *token) for token in tokens[unsaid:]]
    return Echo(row.id, intake.text(row), tuple(told))


def token_logprob(vocabulary: Vocabulary, token: int, known: RowLogprobs | None) -> TokenLogprob:
    """A token, its bytes and its log-probability."""
    piece = vocabulary.piece
    if known is None:
        return TokenLogprob(token, piece(token), None)
    top = tuple(TokenLogprob(id, piece(id), value) for id, value in known.top)
    return TokenLogprob(token, piece(token), known.logprob, top)
