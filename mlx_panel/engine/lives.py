"""What a timeline keeps: lives of requests, their stays in lanes, and entries of passes over prompts. No mlx."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..record import SpanKind

NEVER = float("inf")
SHARES = 64  # in an entry, before the smaller ones of requests that are over share one without a name,
NAMELESS = 0  # which has the number of no lane


class Life:
    """A request, from when it was sent to this engine; times are the timeline's clock."""

    __slots__ = ("blocks", "cached", "name", "over", "sent", "started", "stays", "taken", "tokenised", "zero")

    def __init__(self, name: str, zero: float, sent: float, taken: float, tokenised: float):
        self.name, self.zero, self.sent, self.taken, self.tokenised = name, zero, sent, taken, tokenised
        self.started = NEVER
        self.cached = 0
        self.over = False
        self.stays: list[Stay] = []
        self.blocks = (0, b"")

    def __repr__(self) -> str:
        return f"<Life of {self.name}, {len(self.stays)} stays>"

    def marks(self) -> list[float]:
        """The moments at which what it does changes."""
        stays = [moment for stay in self.stays for moment in (stay.began, stay.left)]
        return [self.sent, self.taken, self.tokenised, self.started, *stays]


class Count(NamedTuple):
    """Of a lane: the steps so far, seconds in them, and rows in each, summed."""

    steps: int = 0
    seconds: float = 0.0
    rows: int = 0


class Stay:
    """A request in a lane: the lane's counters when it came, and when it left."""

    __slots__ = ("after", "before", "began", "lane", "left", "life")

    def __init__(self, life: Life, lane: int, began: float, before: Count):
        self.life, self.lane, self.began, self.before = life, lane, began, before
        self.left = NEVER
        self.after = before

    @property
    def steps(self) -> int:
        return self.after.steps - self.before.steps


class Lane:
    """Rows that decode together; `number` is never used again."""

    __slots__ = ("count", "number", "rows", "stays", "usual")

    def __init__(self, number: int):
        self.number, self.rows = number, 0
        self.count = Count()
        self.stays: dict[str, Stay] = {}
        self.usual = 0.0


# Of one in a pass: the seconds it was in it, those that are its part of it by tokens, tokens, and seconds of restoring.
Share = tuple[float, float, int, float]


class Entry(NamedTuple):
    """Passes from `start` to `end`, of which `busy` seconds were spent in them. Shares by the request, or by the number
    of a lane for its decode steps (told only while there are several lanes)."""

    start: float
    end: float
    busy: float
    shares: dict[Life | int, Share]


def split(known: Sequence[tuple[Life, int]], spent: float) -> dict[Life | int, Share]:
    """A pass that took so long, by the tokens of those in it."""
    total = sum(tokens for _, tokens in known) or 1
    return {life: (spent, spent * tokens / total, tokens, 0.0) for life, tokens in known}


def phases(life: Life) -> list[tuple[float, SpanKind]]:
    """What a request did where it was in no pass over prompts, each with its beginning."""
    joined = min((stay.began for stay in life.stays), default=NEVER)
    left = max((stay.left for stay in life.stays), default=NEVER)
    phases: list[tuple[float, SpanKind]] = [
        (life.sent, "queue"), (life.taken, "tokenise"), (life.tokenised, "queue"), (life.started, "wait"),
        (joined, "decode"), (left, "wait"),
    ]  # fmt: skip
    return [phase for phase in phases if phase[0] < NEVER]


def shorter(entries: list[Entry], lives: Iterable[Life], most: int) -> list[Entry]:
    """At most `most` entries, if possible: the older half is put together in pairs, again and again. Where a request
    that lives came or changed in between, nothing is."""
    marks = sorted(moment for life in lives for moment in life.marks())
    before = len(entries) + 1
    while most < len(entries) < before:
        before = len(entries)
        entries = _in_pairs(entries, marks)
    return entries


def _in_pairs(entries: list[Entry], marks: Sequence[float]) -> list[Entry]:
    half = len(entries) // 2
    free = [
        bisect_left(marks, one.end) == bisect_right(marks, two.start) for one, two in pairwise(entries[:half])
    ]
    found: list[Entry] = []
    place = 0
    while place < half:
        if place + 1 < half and free[place]:
            found.append(_one(entries[place], entries[place + 1]))
            place += 2
        else:
            found.append(entries[place])
            place += 1
    return found + entries[half:]


def _one(first: Entry, second: Entry) -> Entry:
    shares = dict(first.shares)
    for key, share in second.shares.items():
        full, split, tokens, restoring = shares.get(key, (0.0, 0.0, 0, 0.0))
        shares[key] = (full + share[0], split + share[1], tokens + share[2], restoring + share[3])
    if len(shares) > SHARES:
        shares = _fewer(shares)
    return Entry(first.start, second.end, first.busy + second.busy, shares)


def _fewer(shares: dict[Life | int, Share]) -> dict[Life | int, Share]:
    over = [key for key in shares if isinstance(key, Life) and key.over]
    small = sorted(over, key=lambda key: shares[key][1])[: max(0, len(shares) - SHARES // 2)]
    known = [shares.pop(key) for key in small]
    nameless = shares.get(NAMELESS, (0.0, 0.0, 0, 0.0))[1] + sum(share[1] for share in known)
    shares[NAMELESS] = (0.0, nameless, 0, 0.0)
    return shares
