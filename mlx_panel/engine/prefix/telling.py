"""What the prefix cache did for a row, told in terms of its request."""

from __future__ import annotations

from typing import Any

from ...tuning import CacheReport
from ..detokenize import Vocabulary
from ..row import Row
from . import explain
from .cache import Match


class Telling:
    """Reports about the rows of one model."""

    def __init__(self, tokenizer: Any, vocabulary: Vocabulary):
        self._tokenizer, self._vocabulary = tokenizer, vocabulary

    def __repr__(self) -> str:
        return f"<Telling {self._vocabulary!r}>"

    def report(self, row: Row, match: Match | None) -> CacheReport:
        """What came of a lookup; None where there was none."""
        total = len(row.prompt.tokens)
        if match is None:
            return CacheReport(row.id, total)
        return explain.explain(match, row.id, total, lambda: self.spans(row))

    def spans(self, row: Row) -> list[explain.Span]:
        """Where the messages of a row's prompt lie; none for a raw prompt."""
        if row.request.messages is None:
            return []
        lengths = explain.token_lengths(row.prompt.tokens, self._vocabulary, self._tokenizer)
        return explain.spans(row.prompt.text, row.request.messages, lengths)
