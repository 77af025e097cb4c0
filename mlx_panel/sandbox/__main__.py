"""The process: it waits for orders on its input, copies a database or answers one query, and ends after that."""

from __future__ import annotations

import os
import threading

import duckdb
import msgspec

from . import wire
from .copying import copy
from .question import Question, warm
from .wire import Answer, Copied, Copy, Failed, Order, Query, Ready


def main() -> None:
    out = os.dup(1)
    os.dup2(2, 1)  # what a library prints must not look like an answer
    connection = warm()
    _send(out, Ready())
    while True:
        order = _next()
        if isinstance(order, Query):
            threading.Thread(target=_end_with_parent, daemon=True).start()
            _send(out, *_answered(Question(order, connection)))
            os._exit(0)
        _send(out, _copied(order))


def _next() -> Order:
    try:
        head, _ = wire.head_of(_exactly)
    except EOFError:
        os._exit(0)
    return msgspec.json.decode(head, type=Order)


def _exactly(count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = os.read(0, count - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found


def _end_with_parent() -> None:
    """Nothing more comes; the input ends when the parent does, or when it no longer wants the answer."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def _copied(order: Copy) -> Answer:
    try:
        size, same = copy(order.source, order.target)
    except OSError as error:
        return Failed("file", os.strerror(error.errno or 0))
    return Copied(size, same)


def _answered(question: Question) -> tuple[Answer, bytes | bytearray]:
    try:
        return question.answer()
    except MemoryError:
        return Failed("memory"), b""
    except duckdb.Error as error:
        return question.failure(str(error)), b""
    except RecursionError:
        return Failed("sql", "A value of the result is nested too deeply."), b""


def _send(out: int, answer: Answer, body: bytes | bytearray = b"") -> None:
    for part in (wire.pack(answer, body), body):
        view = memoryview(part)
        while view:
            view = view[os.write(out, view) :]


if __name__ == "__main__":
    main()
