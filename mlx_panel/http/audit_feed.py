"""New rows of the audit log as they come, over WebSocket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from ..analytics import AuditFilter, Row, read
from ..audit.feed import Dropped, Follower, Item
from ..audit.flat import flat
from . import decode as bodies
from .audit_query import AuditQuery
from .socket import Socket

PING = b'{"type":"ping"}'


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """What a client may say: the filter that is to hold from now on, names as in the address, one value or several."""

    filter: dict[str, str | list[str]]


class AuditFeedSocket(Socket):
    """The last 100 rows that match, or all behind `after`; then each new one. Frames are `{"type": …}`.

    `log` with `id` and `data`, a row; `dropped` and `gap` with the `count` of rows that are left out; `filter`, once a
    filter that was sent holds; `ping`; `error` with a `problem`.
    """

    route = "/v1/admin/ws/audit-logs"

    def agree(self) -> None:
        query = AuditQuery(self)
        self._after = query.number("after", 0, 2**62)
        self._filter = query.filter()
        query.done()
        self._follower: Follower | None = None
        self._changed = False

    def said(self, message: bytes) -> None:
        """Another filter: rows begin anew, with the last 100 that match."""
        wish = bodies.convert(bodies.load(message), Wish)
        self._filter = read(
            {name: [one] if isinstance(one, str) else one for name, one in wish.filter.items()}
        )
        self._after, self._changed = None, True
        if self._follower is not None:
            self._follower.close()

    async def frames(self) -> AsyncIterator[bytes]:
        while True:
            if self._changed:
                self._changed = False
                yield msgspec.json.encode({"type": "filter", "filter": _told(self._filter)})
            self._follower = self.house.feed.subscribe(self._filter, self._after)
            try:
                async for frame in _with_pings(self._follower, self.house.settings.websocket_ping_seconds):
                    yield frame
            finally:
                self._follower.close()
            if not self._changed:
                return


async def _with_pings(follower: Follower, seconds: float) -> AsyncIterator[bytes]:
    """Frames of what is new, and a ping every so many seconds."""
    coming: asyncio.Future[Item | None] | None = None
    due = time.monotonic() + seconds
    try:
        while True:
            if time.monotonic() >= due:
                due = time.monotonic() + seconds
                yield PING
            elif coming is None and (item := follower.take()) is not None:
                yield _frame(item)
            else:
                coming = coming or asyncio.ensure_future(_next(follower))
                await asyncio.wait((coming,), timeout=max(0.0, due - time.monotonic()))
                if coming.done():
                    item, coming = coming.result(), None
                    if item is None:
                        return
                    yield _frame(item)
    finally:
        if coming is not None:
            coming.cancel()


async def _next(follower: Follower) -> Item | None:
    return await anext(follower, None)


def _frame(item: Item) -> bytes:
    if isinstance(item, Row):
        return b'{"type":"log","id":%d,"data":%b}' % (item.id, flat(item.id, item.record))
    kind = "dropped" if isinstance(item, Dropped) else "gap"
    return msgspec.json.encode({"type": kind, "count": item.count})


def _told(filter: AuditFilter) -> dict[str, Any]:
    """The filter by the names of the address."""
    told: dict[str, Any] = {}
    for name, value in filter.query():
        told.setdefault(name, []).append(value)
    return told


routes = [(AuditFeedSocket.route, AuditFeedSocket)]
