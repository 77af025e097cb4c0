"""What one request did, by the clock: filled while its answer arrives, and made a row afterwards."""

from __future__ import annotations

import re
from itertools import pairwise

from .records import CountedBy, Row, RowStatus

CODE = re.compile(r"[^A-Za-z0-9_.\-]+")
LONGEST_CODE = 48


class Trace:
    """Times are `time.perf_counter()` seconds. Content that arrives at one moment is one arrival, however many pieces."""

    __slots__ = (
        "arrivals", "cached_tokens", "chunks", "completion_tokens", "ended", "error", "finish_reason", "http_status",
        "message", "number", "prompt_tokens", "sent", "status",
    )  # fmt: skip

    def __init__(self, number: int, sent: float):
        self.number, self.sent = number, sent
        self.arrivals: list[float] = []
        self.chunks = self.prompt_tokens = self.cached_tokens = self.http_status = 0
        self.completion_tokens: int | None = None
        self.ended = sent
        self.status: RowStatus = "success"
        self.error = self.message = self.finish_reason = ""

    def __repr__(self) -> str:
        return f"<Trace {self.number} {self.status}, {self.chunks} pieces>"

    def hear(self, now: float, chunks: int = 1) -> None:
        """Content arrived."""
        self.chunks += chunks
        if not self.arrivals or self.arrivals[-1] != now:
            self.arrivals.append(now)

    def fail(self, code: str, message: str = "") -> None:
        """The request failed; `code` is cut to a plain word, `message` is told to a person and never stored."""
        self.status, self.error = "error", CODE.sub("_", code)[:LONGEST_CODE].strip("_") or "error"
        self.message = message

    def gaps(self) -> list[float]:
        """Milliseconds between one arrival and the next."""
        return [(later - earlier) * 1000 for earlier, later in pairwise(self.arrivals)]

    @property
    def tokens(self) -> int:
        """By the server's usage where it said any, else one a piece."""
        return self.chunks if self.completion_tokens is None else self.completion_tokens

    @property
    def counted_by(self) -> CountedBy:
        if self.completion_tokens is not None:
            return "usage"
        return "chunks" if self.chunks else "none"

    def row(self, began: float) -> Row:
        """The row of a request in a run that began at this time."""
        first = self.arrivals[0] if self.arrivals else None
        return Row(
            number=self.number,
            start=_ms(self.sent - began),
            status=self.status,
            http_status=self.http_status,
            error=self.error,
            ttft=None if first is None else _ms(first - self.sent),
            tpot=self._tpot(),
            e2e=_ms(self.ended - self.sent) if self.status == "success" else None,
            itl_max=round(max(self.gaps()), 3) if len(self.arrivals) > 1 else None,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=self.tokens,
            chunks=self.chunks,
            arrivals=len(self.arrivals),
            finish_reason=CODE.sub("_", self.finish_reason)[:LONGEST_CODE],
            tokens_counted_by=self.counted_by,
        )

    def _tpot(self) -> float | None:
        if len(self.arrivals) < 2 or self.tokens < 2:
            return None
        return _ms((self.arrivals[-1] - self.arrivals[0]) / (self.tokens - 1))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
