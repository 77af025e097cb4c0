"""The server's end of the socket to a worker, read on the loop without a task of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

import zmq

MOST = 256  # frames taken in one turn of the loop, so that other work gets its turn too


class Line:
    """A ZeroMQ PAIR socket bound to `address`; `take` gets all frames that wait, oldest first, in one list.

    Its descriptor is readable once when something arrives, and sending may use that signal up (zmq_getsockopt(3),
    ZMQ_FD): so each look goes on until nothing waits, and each send is followed by a look. What is sent before the
    other side is there waits for its first frame. Raises OSError where the address cannot be bound.
    """

    def __init__(self, address: str, take: Callable[[list[bytes]], None]):
        self._take = take
        self._unsent: deque[bytes] = deque()
        self._loop = asyncio.get_running_loop()
        self._socket = _bound(address)
        self._descriptor = int(self._socket.get(zmq.FD))
        self._loop.add_reader(self._descriptor, self.look)

    def __repr__(self) -> str:
        return f"<Line {'closed' if self._socket.closed else 'open'}, {len(self._unsent)} unsent>"

    def send(self, data: bytes) -> None:
        """Never waits. What a process that has ended does not take is lost with it."""
        self._unsent.append(data)
        self._send_all()
        self._loop.call_soon(self.look)

    def look(self) -> bool:
        """Take what is there; True if more may be."""
        frames: list[bytes] = []
        with contextlib.suppress(zmq.Again):
            while len(frames) < MOST and not self._socket.closed:
                frames.append(self._socket.recv(zmq.NOBLOCK))
        more = len(frames) == MOST
        if more:
            self._loop.call_soon(self.look)
        if frames:
            self._send_all()
            self._take(frames)
        return more

    def close(self) -> None:
        """Close the socket; what was not taken is dropped."""
        if not self._socket.closed:
            self._loop.remove_reader(self._descriptor)
            self._socket.close(linger=0)

    def _send_all(self) -> None:
        with contextlib.suppress(zmq.Again):
            while self._unsent and not self._socket.closed:
                self._socket.send(self._unsent[0], zmq.NOBLOCK)
                self._unsent.popleft()


def _bound(address: str) -> zmq.Socket:
    """Raises OSError: what ZeroMQ raises is none."""
    try:
        socket: zmq.Socket = zmq.Context.instance().socket(zmq.PAIR)
        for option in (zmq.SNDHWM, zmq.RCVHWM, zmq.LINGER):
            socket.set(option, 0)
    except zmq.ZMQError as error:
        raise OSError(error.errno, error.strerror) from error
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise OSError(error.errno, error.strerror) from error
    return socket
