"""`python -m mlx_panel.prove.process`: one order on standard input, its news as lines on standard output.

A process of its own: its sockets are not the server's, its work does not hold up the loop, and what it knows is gone
with it. It is the least important on the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

from .orders import News, SearchOrder, SendOrder, encode, order
from .search import Search
from .send import Sender

NICE = 10


def main() -> None:
    with contextlib.suppress(OSError):
        os.nice(NICE)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what it has planted goes with it
    asked = order(sys.stdin.buffer.read())
    if isinstance(asked, SearchOrder):
        for found in Search(asked).run():
            _tell(found)
    else:
        asyncio.run(_send(asked))


async def _send(asked: SendOrder) -> None:
    async for answered in Sender(asked).run():
        _tell(answered)


def _tell(news: News) -> None:
    sys.stdout.buffer.write(encode(news) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
