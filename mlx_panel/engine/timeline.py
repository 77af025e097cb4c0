"""Where the time of each request in an engine went, and which others it shared passes with or waited for. No mlx.

The idea: nothing is written down for each token. A pass over prompts leaves one entry with those that were in it, a
decode step moves three counters of its lane, and a row's stay in a lane is those counters when it came and when it
left. Two rows shared the steps in which their stays overlap, and what lay between a request's own passes was waiting,
so all else follows at a request's end from entries and stays that overlap its life.

Times are those of the machine on which Python waits. On a CPU mlx computes before it returns. On a GPU, while answers
run, a pass over prompts is launched and not waited for: what the decode step that waits for it takes longer than such
steps usually do is that pass. A decode step is the pass that was launched last, and the reading of the tokens before.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from heapq import nsmallest
from typing import Protocol

from ..messages import Cancelled, Done, Embedded, Event, Failed, Neighbour, Origin, Trace
from .lives import NAMELESS, NEVER, Count, Entry, Lane, Life, Share, Stay, phases, shorter, split
from .stretches import Stretches

# Entries and stays that are kept before neighbours in time are put together, and those of the shortest forgotten.
ENTRIES, STAYS = 512, 512
NEIGHBOURS = 32
OLD = 3600.0  # seconds: what was sent before that was sent by another clock
FRESH = 0.2  # how much the latest step counts in what is usual
NOWHERE = Origin()
TINY = 1e-9  # seconds: less is what floats leave over
FINAL = frozenset({Done, Failed, Cancelled, Embedded})


class HasId(Protocol):
    """A row."""

    @property
    def id(self) -> str: ...


class Timeline:
    """Notes what an engine does, and says at a request's end what became of its time (`messages.Trace`).

    An engine's own thread calls it. Several choices of a request are one request.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.now = clock
        self._lives: dict[str, Life] = {}
        self._entries: list[Entry] = []
        self._room = ENTRIES
        self._lanes: dict[int, Lane] = {}
        self._numbers = 0
        self._past: list[Stay] = []  # of those that left, in the order of their leaving
        # What was not waited for in this step, and in the one before with the lane that waits for it.
        self._launched: list[tuple[Life, int]] = []
        self._due: tuple[Lane | None, list[tuple[Life, int]]] = (None, [])

    def __repr__(self) -> str:
        return (
            f"<Timeline {len(self._lives)} requests, {len(self._entries)} entries, {len(self._past)} stays>"
        )

    # --- what happens ----------------------------------------------------------------------------------------

    def began(self, id: str, taken: float, origin: Origin = NOWHERE) -> None:
        """A request was taken at `taken`, and its prompt is tokenised now."""
        zero, sent = started(origin, taken)
        self._lives[id] = Life(origin.request_id or id, zero, sent, taken, self.now())

    def hashed(self, id: str, block_tokens: int, blocks: bytes) -> None:
        """Keep the hashes of a request's prompt for its trace."""
        if (life := self._lives.get(id)) is not None:
            life.blocks = (block_tokens, blocks)

    def restored(self, id: str, began: float, tokens: int) -> None:
        """Since `began` a cached prefix of `tokens` tokens was looked for and brought back."""
        if (life := self._lives.get(id)) is not None:
            now = self.now()
            life.started, life.cached = min(life.started, began), tokens
            self._note(began, now, {life: (now - began, now - began, 0, now - began)})

    def passed(self, began: float, told: Sequence[tuple[str, int]], *, waited: bool = True) -> None:
        """A pass over so many prompt tokens of these requests, since `began`; what was not `waited` for lasts on."""
        now = self.now()
        known = [(life, tokens) for id, tokens in told if (life := self._lives.get(id)) is not None]
        if not any(tokens for _, tokens in known):
            return
        for life, _ in known:
            life.started = min(life.started, began)
        if waited:
            self._note(began, now, split(known, now - began))
        else:
            self._launched += known

    def stepped(self, lane: int, began: float, rows: Sequence[HasId], *, joined: bool) -> None:
        """A step of a lane, since `began`, with these rows in the pass that it launched; `joined`: new ones among them."""
        now = self.now()
        here = self._lanes.get(lane)
        if here is None:
            if not rows:
                return
            self._numbers += 1
            here = self._lanes[lane] = Lane(self._numbers)
        if self._launched or self._due[0] is here:
            began = self._late(here, began, now)
        if joined or len(rows) != here.rows:
            self._seat(here, began, rows)
            if not rows:
                del self._lanes[lane]
                return
        spent, (steps, seconds, places) = now - began, here.count
        here.count = Count(steps + 1, seconds + spent, places + len(rows))
        here.usual += (spent - here.usual) * (FRESH if here.usual else 1.0)
        if len(self._lanes) > 1:
            self._note(began, now, {here.number: (spent, spent, 0, 0.0)})

    def ended(self, events: Iterable[Event], token_seconds: float = 0.0) -> list[Trace]:
        """The traces of the requests that end with these events; a prompt token takes `token_seconds` to compute."""
        ids = [event.id for event in events if type(event) in FINAL and getattr(event, "last", True)]
        if not ids:
            return []
        now = self.now()
        traces = [
            self._trace(id, life, now, token_seconds)
            for id in ids
            if (life := self._lives.pop(id, None)) is not None
        ]
        self._forget()
        return traces

    def dropped(self, id: str) -> None:
        """A request of which nobody will be told anything more."""
        if (life := self._lives.pop(id, None)) is not None:
            self._close(id, self.now())
            life.over = True
            self._forget()

    # --- inside ----------------------------------------------------------------------------------------------

    def _note(self, start: float, end: float, shares: dict[Life | int, Share]) -> None:
        self._entries.append(Entry(start, end, end - start, shares))
        if len(self._entries) > self._room:
            self._entries = shorter(self._entries, self._lives.values(), ENTRIES * 3 // 4)
            self._room = max(ENTRIES, len(self._entries) + ENTRIES // 4)

    def _late(self, lane: Lane, began: float, now: float) -> float:
        """When a step really began that first waited for passes launched in the step before; those are noted."""
        (waiting, due), self._due = self._due, (None, [])
        if self._launched:
            self._due, self._launched = (lane, self._launched), []
        late = now - began - lane.usual
        if waiting is not lane or not lane.usual or late <= 0:
            return began
        self._note(began, began + late, split(due, late))
        return began + late

    def _seat(self, lane: Lane, at: float, rows: Sequence[HasId]) -> None:
        """Bring a lane's stays up to date: some rows left before the step that began `at`, others came with it."""
        ids = {row.id for row in rows}
        for id in lane.stays.keys() - ids:
            self._leave(lane, id, at)
        for id in ids - lane.stays.keys():
            if (life := self._lives.get(id)) is not None:
                stay = lane.stays[id] = Stay(life, lane.number, at, lane.count)
                life.stays.append(stay)
        lane.rows = len(rows)

    def _leave(self, lane: Lane, id: str, at: float) -> None:
        stay = lane.stays.pop(id)
        stay.left, stay.after = at, lane.count
        self._past.append(stay)

    def _close(self, id: str, now: float) -> None:
        """End the stays of a request that is not in any lane any more."""
        for key, lane in list(self._lanes.items()):
            if id in lane.stays:
                self._leave(lane, id, now)
                lane.rows = -1  # how many of them were its own is not known: the next step counts
                if not lane.stays:
                    del self._lanes[key]

    def _forget(self) -> None:
        """Let go of what no request that lives, or is on its way here, can need."""
        oldest = min((life.sent for life in self._lives.values()), default=NEVER)
        oldest = min(oldest, self.now() - 1.0)
        if self._entries and self._entries[0].end <= oldest:
            del self._entries[: bisect_right(self._entries, oldest, key=_end)]
        if self._past and self._past[0].left <= oldest:
            del self._past[: bisect_right(self._past, oldest, key=_left)]
        if len(self._past) > STAYS:
            longest = sorted(range(len(self._past)), key=lambda place: self._past[place].steps)
            self._past = [self._past[place] for place in sorted(longest[STAYS // 2 :])]

    def _trace(self, id: str, life: Life, now: float, token_seconds: float) -> Trace:
        self._close(id, now)
        life.over = True
        (block_tokens, blocks), life.blocks = life.blocks, (0, b"")  # entries may keep the life for a while
        first = bisect_right(self._entries, life.sent, key=_end)
        found = Stretches(life.zero, life.sent, phases(life))
        waited: dict[Life | int, tuple[float, int]] = {}
        for entry in self._entries[first:]:
            if entry.start >= now:
                break
            _look(life, entry, found, waited)
        found.gap(now)
        steps = sum(stay.steps for stay in life.stays)
        rows = sum(stay.after.rows - stay.before.rows for stay in life.stays)
        return Trace(
            id,
            spans=found.spans(),
            neighbours=_neighbours(waited, self._shared(life)),
            others_ms=round(sum(_others(life, waited)), 3),
            saved_ms=round(life.cached * token_seconds * 1000, 3),
            batch=round(rows / steps, 3) if steps else 0.0,
            block_tokens=block_tokens,
            blocks=blocks,
        )

    def _shared(self, life: Life) -> dict[Life, tuple[float, int]]:
        """Milliseconds and steps of decoding that other requests shared with this one."""
        found: dict[Life, tuple[float, int]] = {}
        lanes = {lane.number: lane for lane in self._lanes.values()}
        for mine in life.stays:
            lane = lanes.get(mine.lane)
            present = [(stay, lane.count) for stay in lane.stays.values()] if lane is not None else []
            first = bisect_left(self._past, mine.began, key=_left)
            gone = [(stay, stay.after) for stay in self._past[first:] if stay.lane == mine.lane]
            for stay, after in (*present, *gone):
                steps = min(mine.after.steps, after.steps) - max(mine.before.steps, stay.before.steps)
                if steps > 0 and stay.life is not life:
                    ms, known = found.get(stay.life, (0.0, 0))
                    seconds = min(mine.after.seconds, after.seconds) - max(
                        mine.before.seconds, stay.before.seconds
                    )
                    found[stay.life] = (ms + seconds * 1000, known + steps)
        return found


def started(origin: Origin, taken: float) -> tuple[float, float]:
    """When a request came to the server and was sent from there, if that is known, else when it was taken."""
    sent = origin.sent if 0 < origin.sent <= taken < origin.sent + OLD else taken
    return origin.arrived if 0 < origin.arrived <= sent < origin.arrived + OLD else sent, sent


def _end(entry: Entry) -> float:
    return entry.end


def _left(stay: Stay) -> float:
    return stay.left


def _look(life: Life, entry: Entry, found: Stretches, waited: dict[Life | int, tuple[float, int]]) -> None:
    """What passes were to a request: its own, or what it waited for."""
    start, end, busy, shares = entry
    found.gap(start)
    part = (end - max(start, found.at)) / (end - start) if end > start else 0.0
    mine = shares.get(life)
    own = 0.0
    if mine is not None:
        own, _, tokens, restoring = mine
        found.add("restore", restoring * part)
        found.add("prefill", (own - restoring) * part, tokens)
    for stay in life.stays:
        if stay.lane in shares and stay.began <= start < stay.left:
            own += shares[stay.lane][0]
            found.add("decode", shares[stay.lane][0] * part)
    lost = (busy - own) * part
    if lost > TINY:
        found.add("wait", lost)
        _blame(lost, life, shares, waited)
    found.gap(end)


def _blame(
    lost: float, life: Life, shares: dict[Life | int, Share], waited: dict[Life | int, tuple[float, int]]
) -> None:
    """Whose passes a time was lost to."""
    total = sum([share[1] for other, share in shares.items() if other is not life])
    if not total:
        return
    for other, (_, part, tokens, _) in shares.items():
        if other is not life and (isinstance(other, Life) or other == NAMELESS):
            seconds, known = waited.get(other, (0.0, 0))
            waited[other] = (seconds + lost * part / total, known + tokens)


def _others(life: Life, waited: dict[Life | int, tuple[float, int]]) -> Iterable[float]:
    """Milliseconds of waiting for prompts, but for those that its own caller sent with it."""
    for other, (seconds, _) in waited.items():
        if not isinstance(other, Life) or other.name != life.name:
            yield 1000 * seconds


def _neighbours(
    waited: dict[Life | int, tuple[float, int]], shared: dict[Life, tuple[float, int]]
) -> tuple[Neighbour, ...]:
    """Those that mattered most, most first."""
    none = (0.0, 0)
    rows = []
    for life in waited.keys() | shared.keys():
        if isinstance(life, Life):
            (seconds, tokens), (ms, steps) = waited.get(life, none), shared.get(life, none)
            rows.append((-1000 * seconds - ms, life.name, 1000 * seconds, ms, steps, tokens))
    return tuple(
        Neighbour(name, round(prefill, 3), round(decode, 3), steps, tokens)
        for _, name, prefill, decode, steps, tokens in nsmallest(NEIGHBOURS, rows)
    )
