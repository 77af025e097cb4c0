"""Requests of a running server as they come, over its WebSocket; what a tear loses is asked for again."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, WebSocketClosedError, websocket_connect

from ..analytics import AuditFilter, Row
from ..audit.flat import unflat
from ..errors import MlxPanelError, ServerUnreachable
from .server import refused

PATH = "/v1/admin/ws/audit-logs"
ROOM = 1000  # items that wait for a slow reader of ours; the server holds back the rest, and says what it dropped
CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 90.0  # the server says something at least every 30
RETRY_SECONDS = (0.2, 1.0, 2.0, 5.0)


class Notice(msgspec.Struct, frozen=True):
    """Rows that the feed leaves out: `kind` "dropped" (this reader was too slow) or "gap" (resumed too late)."""

    kind: str
    count: int


class Frame(msgspec.Struct):
    """What the server says."""

    type: str
    id: int = 0
    data: msgspec.Raw = msgspec.Raw(b"null")
    count: int = 0
    detail: str = ""


Item = Row | Notice


def follow(
    url: str, filter: AuditFilter, after: int | None = None, *, headers: Mapping[str, str] = {}
) -> Iterator[Item]:
    """The last 100 requests that match, or all behind the id `after`, oldest first, then each new one, until closed.

    A connection that tears is made again and goes on behind the last row. Raises ServerUnreachable where no server
    answers at first, and what the server names.
    """
    line = _Line(url, filter, after, headers)
    line.start()
    try:
        while True:
            item = line.items.get()
            if isinstance(item, MlxPanelError):
                raise item
            yield item
    finally:
        line.stop()


class _Line:
    """A connection kept by a loop in a thread of its own: whoever follows may have a loop that runs already."""

    def __init__(self, url: str, filter: AuditFilter, after: int | None, headers: Mapping[str, str]):
        self.items: queue.Queue[Item | MlxPanelError] = queue.Queue(ROOM)
        self._url, self._filter, self._after, self._headers = url, filter, after, dict(headers)
        self._loop = asyncio.new_event_loop()
        self._heard = False
        self._task = self._loop.create_task(self._keep())
        self._thread = threading.Thread(target=self._run, name="audit-follow", daemon=True)

    def __repr__(self) -> str:
        return f"<_Line {self._url} after {self._after}>"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            pass
        except MlxPanelError as error:
            self.items.put(error)
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    async def _keep(self) -> None:
        tries = 0
        while True:
            heard, self._heard = self._heard, False
            tries = 0 if heard else tries + 1
            try:
                await self._listen(await self._connect())
            except (OSError, WebSocketClosedError, TimeoutError) as error:
                if self._after is None and not heard:
                    raise ServerUnreachable(
                        f"No answer from {self._url}. Start the server with: mlx-panel serve"
                    ) from error
            await asyncio.sleep(RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)])

    async def _connect(self) -> WebSocketClientConnection:
        pairs = self._filter.query()
        if self._after is not None:
            pairs.append(("after", str(self._after)))
        address = f"ws{self._url.removeprefix('http')}{PATH}?{urlencode(pairs)}"
        request = HTTPRequest(address, headers=self._headers, connect_timeout=CONNECT_SECONDS)
        try:
            return await websocket_connect(request, ping_interval=30)
        except HTTPClientError as error:
            if error.response is None:
                raise OSError(str(error)) from error
            raise refused(error.response.body) from error

    async def _listen(self, connection: WebSocketClientConnection) -> None:
        try:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    message = await connection.read_message()
                if message is None:
                    return
                await self._take(msgspec.json.decode(message, type=Frame))
        finally:
            connection.close()

    async def _take(self, frame: Frame) -> None:
        self._heard = True
        if frame.type == "log":
            self._after = frame.id
            await self._hand(unflat(frame.data))
        elif frame.type in ("dropped", "gap"):
            await self._hand(Notice(frame.type, frame.count))
        elif frame.type == "error":
            raise MlxPanelError(frame.detail)

    async def _hand(self, item: Any) -> None:
        """Wait for room without stopping this loop, which answers the server's pings."""
        while True:
            with contextlib.suppress(queue.Full):
                return self.items.put_nowait(item)
            await asyncio.sleep(0.02)
