"""A small HTTP/1.1 client: one request at a time on a connection, its body handed on as it arrives (RFC 9112).

A load generator shares its cores with what it measures, and a general client spends more time on a streamed token than
the server does. This one knows what a benchmark needs: keep-alive, chunked bodies, bodies of a length or until the end.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from collections.abc import Callable
from urllib.parse import unquote, urlsplit

LONGEST_HEAD = 1 << 16
NO_BODY = (204, 304)


class NotHttp(ConnectionError):
    """The other side does not speak HTTP/1.1."""


class Cut(ConnectionError):
    """The connection ended before the answer did."""


class Response:
    """An answer, read piece by piece: `feed()` returns what the bytes hold of its body.

    `headers` have lower-case names. `reusable` says whether the connection can take another request.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.complete = False
        self.reusable = False
        self._buffer = b""
        self._left = 0
        self._part: Callable[[], bytes | None] = self._head

    def __repr__(self) -> str:
        return f"<Response {self.status} {'complete' if self.complete else 'open'}>"

    @property
    def heard(self) -> bool:
        """Whether anything has come at all."""
        return bool(self.status or self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Pieces of the body. Raises NotHttp."""
        self._buffer += data
        pieces = []
        while not self.complete and (piece := self._part()) is not None:
            if piece:
                pieces.append(piece)
        return pieces

    def end(self) -> None:
        """No more bytes will come. Raises Cut where more should have."""
        self.reusable = False
        if self._part == self._until_end:
            self.complete = True
        if not self.complete:
            raise Cut("The connection ended in the middle of an answer.")

    # Each part takes what it can from the buffer; None means that it needs more bytes.

    def _head(self) -> bytes | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > LONGEST_HEAD or not b"HTTP/1.".startswith(self._buffer[:7]):
                raise NotHttp("The answer is not HTTP/1.1.")
            return None
        head, self._buffer = self._buffer[:end].decode("latin-1"), self._buffer[end + 4 :]
        first, *lines = head.split("\r\n")
        version, self.status = _status_line(first)
        if 100 <= self.status < 200:
            return b""
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self._body(version)
        return b""

    def _body(self, version: str) -> None:
        """Which kind of body follows (RFC 9112, section 6.3)."""
        wish = self.headers.get("connection", "").lower()
        self.reusable = "close" not in wish if version == "HTTP/1.1" else "keep-alive" in wish
        length = self.headers.get("content-length")
        if self.status in NO_BODY:
            self.complete = True
        elif "chunked" in self.headers.get("transfer-encoding", "").lower():
            self._part = self._size
        elif length is None:
            self._part = self._until_end
        elif not length.isdecimal():
            raise NotHttp("The answer's length is not a number.")
        else:
            self._left, self._part = int(length), self._known
            self.complete = not self._left

    def _known(self) -> bytes | None:
        piece = self._some()
        self.complete = not self._left
        return piece

    def _until_end(self) -> bytes | None:
        piece, self._buffer = self._buffer, b""
        return piece or None

    def _size(self) -> bytes | None:
        line = self._line()
        if line is None:
            return None
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError:
            raise NotHttp("A chunk's size is not a number.") from None
        self._part = self._chunk if self._left else self._trailer
        return b""

    def _chunk(self) -> bytes | None:
        piece = self._some()
        if not self._left:
            self._part = self._chunk_end
        return piece

    def _chunk_end(self) -> bytes | None:
        line = self._line()
        if line is None:
            return None
        if line:
            raise NotHttp("A chunk is longer than it said.")
        self._part = self._size
        return b""

    def _trailer(self) -> bytes | None:
        line = self._line()
        self.complete = line == b""
        return None if line is None else b""

    def _some(self) -> bytes | None:
        """What is there of the `_left` bytes."""
        if not self._buffer:
            return None
        piece, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(piece)
        return piece

    def _line(self) -> bytes | None:
        line, found, rest = self._buffer.partition(b"\r\n")
        if not found:
            if len(self._buffer) > LONGEST_HEAD:
                raise NotHttp("A line of the answer has no end.")
            return None
        self._buffer = rest
        return line


def _status_line(line: str) -> tuple[str, int]:
    version, _, rest = line.partition(" ")
    number = rest[:3]
    if not version.startswith("HTTP/1.") or not number.isdecimal():
        raise NotHttp("The answer is not HTTP/1.1.")
    return version, int(number)


Sink = Callable[[float, list[bytes], Response], bool]
"""Called with the time (`time.perf_counter`), new pieces of the body and the answer; True leaves the connection."""


class Connection(asyncio.Protocol):
    """One connection. The time of an arrival is taken where the loop hands over the bytes."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._response = Response()
        self._sink: Sink = lambda now, pieces, response: False
        self._done: asyncio.Future[Response] | None = None

    def __repr__(self) -> str:
        return f"<Connection {'open' if self.usable else 'closed'}>"

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def heard(self) -> bool:
        """Whether the last request was answered at all."""
        return self._response.heard

    async def ask(self, request: bytes, sink: Sink) -> Response:
        """Send a request and wait for its answer's end, or until `sink` has enough. Raises Cut, NotHttp."""
        assert self._transport is not None
        self._response, self._sink = Response(), sink
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._done
        finally:
            done, self._done = self._done, None
            if not (done.done() and self._response.complete and self._response.reusable):
                self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._done is None or self._done.done():
            self.close()  # bytes nobody asked for
            return
        try:
            pieces = self._response.feed(data)
        except NotHttp as error:
            self._done.set_exception(error)
            return
        enough = bool(pieces) and self._sink(now, pieces, self._response)
        if self._response.complete or enough:
            self._done.set_result(self._response)

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is None or self._done.done():
            return
        try:
            self._response.end()
        except Cut as cut:
            self._done.set_exception(cut)
        else:
            self._done.set_result(self._response)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Client:
    """Requests to one server; connections that are free are used again.

    `key` goes along as a bearer token; a user and password in the URL do as basic authentication.
    """

    def __init__(self, url: str, key: str = ""):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NotHttp("Only http:// and https:// URLs can be asked.")
        self.url = shown(url)
        self._host, self._path = parts.hostname, parts.path.rstrip("/")
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        bracketed = f"[{self._host}]" if ":" in self._host else self._host
        self._head = f"Host: {bracketed}:{self._port}\r\nUser-Agent: mlx-benchmark\r\n"
        if key or parts.username:
            basic = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
            word = f"Bearer {key}" if key else f"Basic {base64.b64encode(basic).decode()}"
            self._head += f"Authorization: {word}\r\n"
        self._free: list[Connection] = []

    def __repr__(self) -> str:
        return f"<Client of {self._host}:{self._port}, {len(self._free)} free connections>"

    async def ask(self, verb: str, path: str, sink: Sink, body: bytes = b"") -> Response:
        """One request; `path` is below the URL's own. Raises OSError, of which Cut and NotHttp are two kinds."""
        request = self._request(verb, path, body)
        while self._free:
            connection = self._free.pop()
            if not connection.usable:
                continue
            try:
                return await self._on(connection, request, sink)
            except Cut:
                # The server closed an idle connection while we wrote: it has not seen the request.
                if connection.heard:
                    raise
        return await self._on(await self._connect(), request, sink)

    async def read(self, verb: str, path: str, body: bytes = b"") -> tuple[Response, bytes]:
        """A request with its whole body."""
        pieces: list[bytes] = []

        def keep(now: float, found: list[bytes], response: Response) -> bool:
            pieces.extend(found)
            return False

        response = await self.ask(verb, path, keep, body)
        return response, b"".join(pieces)

    def close(self) -> None:
        for connection in self._free:
            connection.close()
        self._free.clear()

    def _request(self, verb: str, path: str, body: bytes) -> bytes:
        more = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        return f"{verb} {self._path}{path} HTTP/1.1\r\n{self._head}{more}\r\n".encode("latin-1") + body

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, self._host, self._port, ssl=self._ssl)
        return connection

    async def _on(self, connection: Connection, request: bytes, sink: Sink) -> Response:
        response = await connection.ask(request, sink)
        if connection.usable:
            self._free.append(connection)
        return response


def shown(url: str) -> str:
    """A URL without user and password, fit for a table and a file."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
