"""The connection behind a response, written without Tornado's futures where that makes no difference.

This is the one place that knows what Tornado does with a response's bytes. It uses nothing private of `IOStream`: what
the socket does not take at once goes into that buffer, and while bytes wait there nothing is sent around it.
"""

from __future__ import annotations

from socket import socket as Socket

from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream
from tornado.web import RequestHandler


class Wire:
    """Sends pieces of a response whose headers are out, framed as Tornado frames them (RFC 9112, section 7.1)."""

    @classmethod
    def of(cls, handler: RequestHandler) -> Wire | None:
        """The wire of a handler, or None where only Tornado knows the way: a body that it compresses or leaves out."""
        connection = handler.request.connection
        if type(connection) is not HTTP1Connection or handler.request.method == "HEAD" or handler._transforms:
            return None
        return cls(connection.stream, chunked=handler._headers.get("Transfer-Encoding") == "chunked")

    def __init__(self, stream: IOStream, *, chunked: bool):
        self._stream = stream
        self._chunked = chunked
        self._direct = type(stream) is IOStream  # past the buffer, which TLS (its subclass) encrypts from

    def __repr__(self) -> str:
        state = "closed" if self._stream.closed() else "full" if self._stream.writing() else "free"
        return f"<Wire {state}{', chunked' if self._chunked else ''}>"

    def send(self, data: bytes) -> bool:
        """Send bytes, at least one, now. False, and nothing is sent, while others wait or when the client is gone."""
        socket: Socket | None = self._stream.socket  # None once it is closed
        if socket is None or self._stream.writing():
            return False
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        try:
            sent = socket.send(data) if self._direct else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            return False  # Tornado's own write meets it too, and closes the connection
        if sent < len(data):
            self._stream.write(data[sent:])
        return True


def holds_back(handler: RequestHandler) -> bool:
    """Whether bytes of a response wait for the client to take others."""
    connection = handler.request.connection
    return type(connection) is HTTP1Connection and connection.stream.writing()
