"""Makes the requests of a proof. It runs in a process of its own: see `process.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx

from .bodies import Texts
from .orders import Answered, SendOrder
from .plan import Sending, around, plan

TOGETHER = 4  # requests to models at once
ENOUGH = 64 << 10  # bytes that are read of an answer
TIMEOUT = httpx.Timeout(60, connect=5)
SOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "bWx4LXBhbmVsLXByb29mIQ==",
}


class Sender:
    """Makes an order's requests: those to models a few at a time, the others one after the other."""

    def __init__(self, order: SendOrder):
        self._order = order
        self._texts = Texts(order.canaries)
        self.sendings = plan(order)

    def __repr__(self) -> str:
        return f"<Sender of {len(self.sendings)} requests to {self._order.url}>"

    async def run(self) -> AsyncIterator[Answered]:
        """What came back, in the order in which it came."""
        done, total = 0, sum(map(_weight, self.sendings))
        # No proxy, no logging of ours, and one client: the machine's settings shall not come into it.
        async with httpx.AsyncClient(base_url=self._order.url, timeout=TIMEOUT, trust_env=False) as client:
            for batch in self._batches():
                for task in asyncio.as_completed([self._one(client, *one) for one in batch]):
                    sending, status = await task
                    done += _weight(sending)
                    yield Answered(sending.group, sending.route, sending.method, status, done, total)

    def _batches(self) -> list[list[tuple[int, Sending]]]:
        batches: list[list[tuple[int, Sending]]] = []
        for number, sending in enumerate(self.sendings):
            if batches and sending.slow and batches[-1][0][1].slow and len(batches[-1]) < TOGETHER:
                batches[-1].append((number, sending))
            else:
                batches.append([(number, sending)])
        return batches

    async def _one(self, client: httpx.AsyncClient, number: int, sending: Sending) -> tuple[Sending, int]:
        """The status, 0 where none came."""
        headers = around(self._texts, f"proof-{self._order.run}-{number}") | dict(sending.headers)
        if sending.how == "socket":
            headers |= SOCKET
        status = 0
        with suppress(httpx.TransportError, TimeoutError):
            if sending.how == "leave":
                await asyncio.wait_for(self._read(client, sending, headers), 0.2)
            else:
                status = await self._read(client, sending, headers)
        return sending, status

    async def _read(self, client: httpx.AsyncClient, sending: Sending, headers: dict[str, str]) -> int:
        request = client.build_request(
            sending.method, sending.path, headers=headers, content=sending.body or None
        )
        response = await client.send(request, stream=True)
        try:
            size = 0
            with suppress(httpx.TransportError):
                async for piece in response.aiter_raw():
                    size += len(piece)
                    if size > ENOUGH or sending.how != "read":
                        break
            return response.status_code
        finally:
            await response.aclose()


def _weight(sending: Sending) -> int:
    """How long a request takes, roughly, by the shortest ones."""
    return 15 if sending.slow else 1
