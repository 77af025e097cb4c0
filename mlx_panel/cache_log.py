"""What the prefix cache did for the latest requests, in memory alone, and what that means in words."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence

import msgspec

from .messages import Message
from .parse.volatile import RULES, strip
from .tuning import CacheRecord, CacheReport

SIZE = 256
LOOKED_AT = 100_000  # characters: some milliseconds
PLACES = {"none": "the cache", "memory": "memory", "disk": "disk"}


class CacheLog:
    """The last `size` requests' reports by the API's request id; of two with one id the later one counts.

    `stripped` counts the lines each rule of `parse/volatile.py` has left out of conversations.
    """

    def __init__(self, size: int = SIZE):
        self.stripped: Counter[str] = Counter()
        self._size = size
        self._records: OrderedDict[str, CacheRecord] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"<CacheLog {len(self)} of {self._size}>"

    def add(self, request_id: str, model: str, report: CacheReport, helpful: tuple[str, ...] = ()) -> None:
        """Keep a report. `helpful` names rules that would have changed the message in which the prompt differed."""
        self._records.pop(request_id, None)
        text = sentence(report) + (advice(helpful) if helpful else "")
        self._records[request_id] = CacheRecord(request_id, model, time.time(), report, text, helpful)
        if len(self) > self._size:
            self._records.popitem(last=False)

    def find(self, request_id: str) -> CacheRecord | None:
        return self._records.get(request_id)

    def latest(self) -> list[CacheRecord]:
        """All of them, newest first."""
        return list(reversed(self._records.values()))


def helpful(report: CacheReport, turns: Sequence[Message], enabled: Collection[str]) -> tuple[str, ...]:
    """The rules that are off and know a line of the message in which a prompt differs from the nearest one."""
    if report.message is None or not 0 <= report.message < len(turns):
        return ()
    turn = turns[report.message]
    seen = msgspec.structs.replace(turn, content=(turn.content or "")[:LOOKED_AT])
    off = {rule.name for rule in RULES} - set(enabled)
    return tuple(sorted(strip([seen], off)[1]))


def sentence(report: CacheReport) -> str:
    """A report for a person. Messages count from 1 here."""
    if report.outcome == "off":
        return "The prefix cache was not asked: it is off, or the request was deterministic."
    if report.outcome == "first":
        return (
            f"No known prompt begins like this one; all its {report.prompt_tokens:,} tokens were processed."
        )
    count = f"{report.cached_tokens:,}" if report.cached_tokens else "None"
    share = f"{count} of {report.prompt_tokens:,} prompt tokens came from {PLACES[report.tier]}"
    if report.outcome == "hit" or report.diverged_at is None:
        return f"{share}, all that can be reused."
    return f"{share}; from token {report.diverged_at:,} on the prompt differs from the nearest known one{_place(report)}."


def _place(report: CacheReport) -> str:
    if report.message is None:
        return ""
    return f", in message {report.message + 1}" + (f" ({report.role})" if report.role else "")


def advice(helpful: tuple[str, ...]) -> str:
    """What could keep the message the same the next time."""
    return f" That message has lines which strip_rules would leave out: {', '.join(helpful)}."
