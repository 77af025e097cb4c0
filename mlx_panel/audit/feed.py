"""New requests as they are stored, for all who follow the log: nothing twice, nothing missing, no memory for the slow."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import msgspec

from ..analytics import AuditFilter, Row
from ..record import AuditRecord
from . import walk
from .matching import Match, matcher
from .reader import AuditReader
from .store import AuditStore

RECENT = 1000  # rows in memory; older ones come from the file
SHOWN = 100  # rows that a new follower is told first
MOST_RESUMED = 10_000  # rows that a resumed follower is told; the older ones it hears a count of
ROOM = 1000  # rows that wait for a slow follower
PIECE = 500  # rows of one question to the file


class Dropped(msgspec.Struct, frozen=True):
    """So many rows that match came and went while the follower was too slow to take them."""

    count: int


class Gap(msgspec.Struct, frozen=True):
    """So many rows that match lie between where a follower resumed and the first row it is told."""

    count: int


Item = Row | Dropped | Gap


class AuditFeed:
    """Knows the last rows and tells them on. `fill()` when the store has started, `start()` on the loop that follows.

    All but `fill` belongs to that loop.
    """

    def __init__(self, store: AuditStore, reader: AuditReader):
        self._store, self.reader = store, reader
        self._recent: deque[Row] = deque(maxlen=RECENT)
        self._followers: set[Follower] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.last = 0

    def __repr__(self) -> str:
        return f"<AuditFeed at {self.last}, {len(self._followers)} follow>"

    def fill(self) -> None:
        """Read the last rows from the file, before any is put. Blocks. Raises AuditError."""
        with contextlib.closing(self._store.cursor()) as cursor:
            _, self.last = walk.first_and_last(cursor)
            everything = AuditFilter(scope="all")
            self._recent.extend(walk.ascending(cursor, everything, self.last - RECENT, self.last, RECENT))

    def start(self) -> None:
        """From now on every commit reaches the followers."""
        self._loop = asyncio.get_running_loop()
        self._store.committed.append(self._committed)

    def stop(self) -> None:
        """Tell nobody any more; every follower's iteration ends."""
        with contextlib.suppress(ValueError):
            self._store.committed.remove(self._committed)
        for follower in list(self._followers):
            follower.close()

    def subscribe(self, filter: AuditFilter, after: int | None = None) -> Follower:
        """The last 100 rows that match, or all behind the id `after`, oldest first; then each new one."""
        return Follower(self, filter, after)

    def behind(self, at: int) -> list[Row] | None:
        """All rows with greater ids, oldest first; None where not all of them are in memory."""
        if at >= self.last:
            return []
        if not self._recent or self._recent[0].id > at + 1:
            return None
        return [row for row in self._recent if row.id > at]

    def shown(self, match: Match) -> list[Row] | None:
        """The last 100 that match, oldest first; None where not so many of them are in memory."""
        found = list(islice((row for row in reversed(self._recent) if match(row.record)), SHOWN))
        return found[::-1] if len(found) == SHOWN else None

    def join(self, follower: Follower) -> None:
        self._followers.add(follower)

    def leave(self, follower: Follower) -> None:
        self._followers.discard(follower)

    def _committed(self, first: int, records: Sequence[AuditRecord]) -> None:
        """In the writer's thread."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended before the store
            self._loop.call_soon_threadsafe(self._take, first, records)

    def _take(self, first: int, records: Sequence[AuditRecord]) -> None:
        if first != self.last + 1:
            self._recent.clear()  # the file is another one
        rows = [Row(first + number, record) for number, record in _ending(records, RECENT)]
        self._recent.extend(rows)
        self.last = first + len(records) - 1
        for follower in list(self._followers):
            follower.hear(first, records)


def _ending(records: Sequence[AuditRecord], count: int) -> list[tuple[int, AuditRecord]]:
    """The last of the records, each with its number."""
    start = max(0, len(records) - count)
    return list(enumerate(records[start:], start))


class Follower:
    """An iterator over `Item`s for one reader, until `close()`.

    Until it has caught up it reads what is behind it, from memory or from the file, piece by piece; it takes the last of
    that and joins the feed in one turn of the loop, so the next row is the first that it hears. Where more than `ROOM`
    rows wait the oldest are dropped and counted; a commit of more than that sends it back to the file.
    """

    def __init__(self, feed: AuditFeed, filter: AuditFilter, after: int | None):
        self._feed, self._filter, self._match = feed, filter, matcher(filter)
        self._at = after
        self._resumed = after is not None
        self._ready: deque[Item] = deque()
        self._waiting: deque[Row] = deque()
        self._dropped = 0
        self._live = self._closed = False
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "live" if self._live else f"at {self._at}"
        return f"<Follower {state}, {len(self._waiting)} wait, {self._dropped} dropped>"

    def __aiter__(self) -> Follower:
        return self

    async def __anext__(self) -> Item:
        while not self._closed:
            if (item := self.take()) is not None:
                return item
            if self._live:
                self._news.clear()
                await self._news.wait()
            else:
                await self._catch_up()
        raise StopAsyncIteration

    def take(self) -> Item | None:
        """The next item if there is one without waiting."""
        if self._ready:
            return self._ready.popleft()
        if self._dropped:
            count, self._dropped = self._dropped, 0
            return Dropped(count)
        return self._waiting.popleft() if self._waiting else None

    def close(self) -> None:
        """End the iteration. May be repeated."""
        self._closed = True
        self._feed.leave(self)
        self._news.set()

    def hear(self, first: int, records: Sequence[AuditRecord]) -> None:
        """Rows that are new, with ids from `first` on."""
        if len(records) > ROOM:
            self._feed.leave(self)
            self._live, self._at, self._resumed = False, first - 1, True
            self._news.set()
            return
        found = [Row(first + number, record) for number, record in enumerate(records) if self._match(record)]
        self._waiting.extend(found)
        while len(self._waiting) > ROOM:
            self._waiting.popleft()
            self._dropped += 1
        if found:
            self._news.set()

    async def _catch_up(self) -> None:
        """A step nearer to the present."""
        if self._at is None:
            self._at = self._feed.last
            shown = self._feed.shown(self._match)
            self._ready.extend(await self._ask(walk.latest, self._at, SHOWN) if shown is None else shown)
        elif (rows := self._feed.behind(self._at)) is not None:
            self._ready.extend(row for row in rows if self._match(row.record))
            self._live = True
            self._feed.join(self)
        elif self._resumed:
            self._resumed = False
            gap, self._at = await self._ask(walk.missing, self._at, self._feed.last, MOST_RESUMED)
            if gap:
                self._ready.append(Gap(gap))
        else:
            upto = self._feed.last
            found = await self._ask(walk.ascending, self._at, upto, PIECE)
            self._ready.extend(found)
            self._at = found[-1].id if len(found) == PIECE else upto

    async def _ask(self, question: Callable[..., Any], *more: int) -> Any:
        return await self._feed.reader.ask(lambda cursor: question(cursor, self._filter, *more))
