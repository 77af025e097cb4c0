"""Server-sent events over one Tornado response (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from tornado.iostream import StreamClosedError
from tornado.web import RequestHandler

from ..errors import ClientGone
from .wire import Wire, holds_back

T = TypeVar("T")
SLICE = 1 << 16  # bytes
KEEP_ALIVE = b": keep-alive\n\n"


def frame(data: bytes) -> bytes:
    """One event. JSON holds no raw line break, so one data line is enough."""
    return b"data: " + data + b"\n\n"


class EventStream:
    """The writing side of a stream. Headers go out with the first bytes, so an early failure keeps its status code.

    A send waits until its bytes have left, each `SLICE` of them for at most `write_timeout` seconds: a reader that
    stands still neither grows this process nor holds a place in the batch. An offer does not wait, and is refused while
    other bytes do. `waited(began, ended)` is told of each time in which the client took no bytes, by `time.monotonic`.
    """

    def __init__(
        self,
        handler: RequestHandler,
        *,
        write_timeout: float,
        keep_alive: float,
        waited: Callable[[float, float], None] = lambda began, ended: None,
    ):
        self._handler = handler
        self._waited = waited
        self._write_timeout = write_timeout
        self._keep_alive = keep_alive
        self._last = time.monotonic()
        self._wire: Wire | None = None
        self.opened = False
        self.started = False

    def __repr__(self) -> str:
        return f"<EventStream {'open' if self.opened else 'not opened'}>"

    async def begin(self, opening: bytes, data: bytes) -> None:
        """Send data, the first time behind the dialect's opening event."""
        await self.send(data if self.started else opening + data)
        self.started = True

    def silence_left(self) -> float:
        """Seconds until the client should hear something."""
        return max(0.0, self._last + self._keep_alive - time.monotonic())

    def offer(self, data: bytes, now: float) -> bool:
        """Write bytes at once, at the monotonic time `now`; False if that cannot be: then nothing is written."""
        if self._wire is None or not self._wire.send(data):
            return False
        self._last = now
        return True

    async def send(self, data: bytes) -> None:
        """Write bytes. Raises ClientGone when the client left or does not read."""
        if not self.opened:
            self._open()
        for start in range(0, len(data), SLICE):
            await self._flush(data[start : start + SLICE])
        if self._wire is None:
            self._wire = Wire.of(self._handler)

    async def _flush(self, data: bytes) -> None:
        self._handler.write(data)
        began = 0.0
        try:
            sent = asyncio.ensure_future(self._handler.flush())
            began = time.monotonic() if holds_back(self._handler) else 0.0
            if not sent.done():
                await asyncio.wait((sent,), timeout=self._write_timeout)
            if not sent.done():
                raise ClientGone("The client stopped reading.")
            sent.result()
        except StreamClosedError as error:
            raise ClientGone from error
        finally:
            self._last = time.monotonic()
            if began:
                self._waited(began, self._last)

    async def keep_alive(self) -> None:
        """Send a comment if the client has heard nothing for long enough."""
        if not self.silence_left():
            await self.send(KEEP_ALIVE)

    def _open(self) -> None:
        self.opened = True
        self._handler.set_header("Content-Type", "text/event-stream; charset=utf-8")
        self._handler.set_header("Cache-Control", "no-cache")
        self._handler.set_header("X-Accel-Buffering", "no")
        # A token must not wait until the client's machine has confirmed the one before (Nagle's algorithm).
        stream = getattr(self._handler.request.connection, "stream", None)
        if stream is not None:
            stream.set_nodelay(True)


async def followed(items: AsyncIterator[T], out: EventStream) -> AsyncIterator[T]:
    """Items as they come; while none does the client hears a comment now and then. Raises ClientGone."""
    coming: asyncio.Future[T | None] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(_next(items))
            await asyncio.wait((coming,), timeout=out.silence_left())
            if not coming.done():
                await out.keep_alive()
            elif (item := coming.result()) is None:
                return
            else:
                coming = None
                yield item
    finally:
        if coming is not None:
            coming.cancel()


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)
