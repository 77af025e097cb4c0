"""Why a prompt was not reused as a whole: where it leaves the nearest known one, and in whose message. Never the text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import msgspec

from ...messages import Message
from ...tuning import CacheOutcome, CacheReport
from ..detokenize import Vocabulary
from .cache import LEAST, Match

# Beginnings that every prompt of a template shares are shorter than this.
ALIKE = LEAST
_BEGINNING_BYTES = 16


class Span(msgspec.Struct, frozen=True):
    """The tokens from `start` up to `end` hold the content of message number `message` (from 0)."""

    start: int
    end: int
    message: int
    role: str


def explain(match: Match, id: str, tokens: int, spans: Callable[[], Sequence[Span]]) -> CacheReport:
    """What the cache did for a prompt of so many tokens; `spans` is only called when a message is to be named.

    "changed": the nearest known prompt goes on differently before this one's last message, having at least `ALIKE`
    tokens in common with it. A difference in the last message, or after it, is a new turn and nothing to explain: all
    that can be reused was. "first": nothing was reused, and nothing that begins like this is known.
    """
    outcome: CacheOutcome = "hit" if match.tokens else "first"
    if match.nearest is None or not match.left or match.nearest < ALIKE:
        return CacheReport(id, tokens, match.tokens, match.tier, outcome)
    found = spans()
    if found and match.nearest >= found[-1].start:
        return CacheReport(id, tokens, match.tokens, match.tier, outcome)
    span = at(match.nearest, found)
    place = (span.message, span.role) if span is not None else (None, None)
    return CacheReport(id, tokens, match.tokens, match.tier, "changed", match.nearest, *place)


def at(position: int, spans: Sequence[Span]) -> Span | None:
    """The span a token lies in; None between messages, in the template's own words."""
    index = bisect_right(spans, position, key=lambda span: span.start) - 1
    return spans[index] if index >= 0 and position < spans[index].end else None


def spans(text: str, messages: Sequence[Message], lengths: Sequence[int]) -> list[Span]:
    """Where the messages' contents lie in a rendered prompt, in tokens; `lengths` are the tokens' bytes, in order.

    Contents are looked for one after the other, as given or without the blanks around them; one that the template
    has rewritten, or left out, has no span. A token that holds the end of one thing and the beginning of the next
    counts for the next. Time is linear in the prompt where templates keep the contents.
    """
    ends = list(accumulate(lengths))
    data = text.encode("utf-8", "surrogatepass")
    # A tokenizer may add a beginning-of-sequence token or a blank that the text does not have.
    extra = ends[-1] - len(data) if ends else 0
    shift = extra if 0 <= extra <= _BEGINNING_BYTES else 0
    found, cursor = [], 0
    for number, message in enumerate(messages):
        content = (message.content or "").encode("utf-8", "surrogatepass")
        start, size = _locate(data, content, cursor)
        if start < 0:
            continue
        cursor = start + size
        first = bisect_right(ends, start + shift)
        last = bisect_right(ends, cursor - 1 + shift)
        found.append(Span(first, min(last + 1, len(ends)), number, message.role))
    return found


def _locate(data: bytes, content: bytes, cursor: int) -> tuple[int, int]:
    """Where a content lies at or after `cursor`, and its size; -1 for nowhere."""
    bare = content.strip()
    start = data.find(content, cursor) if bare else -1
    return (start, len(content)) if start >= 0 or not bare else (data.find(bare, cursor), len(bare))


def token_lengths(tokens: Sequence[int], vocabulary: Vocabulary, tokenizer: Any) -> list[int]:
    """Bytes of each token in the rendered prompt; special tokens count with the text they are written as there."""
    known = {token: len(vocabulary.piece(token)) for token in set(tokens)}
    for token in known:
        if token in vocabulary.special:
            known[token] = len(str(tokenizer.convert_ids_to_tokens(token)).encode())
    return [known[token] for token in tokens]
