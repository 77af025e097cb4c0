"""The base of routes that speak WebSocket (RFC 6455): admitted like every request, and one audit row at their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from ..errors import BadRequest, ClientGone, Draining, MlxPanelError, UpgradeRequired
from . import problem
from .endpoint import Endpoint

GOING_AWAY, UNEXPECTED = 1001, 1011  # RFC 6455, section 7.4.1
VERSION = "13"
FAREWELL_SECONDS = 1.0
MESSAGE_BYTES = 1 << 16


class Socket(Endpoint, WebSocketHandler):
    """A route whose subclass tells `frames` and takes what the client has `said`.

    What is not admitted is refused with a problem document before the upgrade. A frame is sent when the one before has
    left, so whatever a slow client does not take waits in `frames`. A client that answers no ping for
    `websocket_ping_seconds` is gone. The audit row has the status 101 and the time of the whole conversation.
    """

    upgraded = False
    _talk: asyncio.Task[None] | None = None

    # --- for subclasses --------------------------------------------------------------------------------------

    def agree(self) -> None:
        """Check what the request asks for; raise what is wrong with it."""

    def frames(self) -> AsyncIterator[bytes]:
        """What the client is told, JSON a frame. Where it ends the server hangs up."""
        raise NotImplementedError

    def said(self, message: bytes) -> None:
        """Take a message of the client's. What it raises is told to the client, and ends nothing."""

    # --- the conversation ------------------------------------------------------------------------------------

    async def answer(self, *path: str) -> None:
        self._check_upgrade()
        self.agree()
        if self.house.draining:
            raise Draining
        connection = self.get_websocket_protocol()
        assert connection is not None, "the version was checked"
        self.ws_connection, self.open_args, self.open_kwargs = connection, path, {}
        self.ledger.stream = self.upgraded = True
        await connection.accept_connection(self)  # until it is closed
        if self._talk is not None:
            self._talk.cancel()
            await asyncio.wait((self._talk,))
            if not self._talk.cancelled():
                self._talk.result()

    def _check_upgrade(self) -> None:
        headers = self.request.headers
        wanted = [word.strip().lower() for word in headers.get("Connection", "").split(",")]
        if (
            self.request.method != "GET"
            or headers.get("Upgrade", "").lower() != "websocket"
            or "upgrade" not in wanted
            or headers.get("Sec-WebSocket-Version") != VERSION
        ):
            raise UpgradeRequired(f"{self.route} speaks WebSocket, version {VERSION}.")
        if not headers.get("Sec-WebSocket-Key"):
            raise BadRequest("The header Sec-WebSocket-Key is missing.")

    def open(self, *path: str) -> None:
        self.set_nodelay(True)
        self._talk = asyncio.ensure_future(self._tell())

    async def _tell(self) -> None:
        code = UNEXPECTED
        try:
            async for frame in self.frames():
                await self.write_message(frame)
            code = GOING_AWAY
        except WebSocketClosedError:
            return
        except MlxPanelError as error:
            await self._complain(error)
            raise
        finally:
            self.close(code)

    async def on_message(self, message: str | bytes) -> None:
        """The next message is read when the answer to this one has left: a client cannot make answers pile up."""
        try:
            self.said(message.encode() if isinstance(message, str) else message)
        except MlxPanelError as error:
            await self._complain(error)

    async def _complain(self, error: MlxPanelError) -> None:
        told = {"type": "error", "problem": problem.problem(error, request_id=self.request_id)}
        try:
            await self.write_message(msgspec.json.encode(told))
        except WebSocketClosedError:
            return

    def interrupt(self, error: MlxPanelError) -> None:
        """Say goodbye, and hang up on a client that does not answer to that."""
        if not self.upgraded:
            return super().interrupt(error)
        self.close(GOING_AWAY, str(error))
        if self._work is not None:
            asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self._work.cancel)

    # --- Tornado's half --------------------------------------------------------------------------------------

    @property
    def ping_interval(self) -> float:
        return self.house.settings.websocket_ping_seconds

    @property
    def ping_timeout(self) -> float:
        return self.house.settings.websocket_ping_seconds

    @property
    def max_message_size(self) -> int:
        return MESSAGE_BYTES

    def check_origin(self, origin: str) -> bool:
        return True  # the wrapper has checked it, by the rules of every route

    def on_connection_close(self) -> None:
        if self.upgraded:
            WebSocketHandler.on_connection_close(self)
        else:
            super().on_connection_close()

    def _conclude(self, error: MlxPanelError | None) -> None:
        if not self.upgraded:
            super()._conclude(error)
        elif not self._recorded:  # to leave, or to be sent away, is how every such conversation ends
            self._record(None if isinstance(error, ClientGone | Draining) else error)
