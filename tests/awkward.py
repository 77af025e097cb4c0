"""A server that speaks OpenAI's streaming dialect as badly as real ones do; the model's name says how."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Iterator

WORDS = ("Ein", " Ring", ", œuvre", " 日本語", " 😀")
USAGE = {"prompt_tokens": 7, "completion_tokens": len(WORDS), "prompt_tokens_details": {"cached_tokens": 3}}
HANG = 60


class Awkward:
    """Counts the connections it got and keeps the bodies it was sent."""

    def __init__(self) -> None:
        self.connections = 0
        self.bodies: list[dict] = []
        self.url = ""
        self.tasks: set[asyncio.Task] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.tasks.add(asyncio.current_task())
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("Content-Length")), 0)
        body = json.loads(await reader.readexactly(length) or "{}")
        if head.startswith("GET"):
            writer.write(_whole(200, {"data": [{"id": "split"}, {"id": "busy"}]}))
            return True
        self.bodies.append(body)
        return await self._answer(body, writer)

    async def _answer(self, body: dict, writer: asyncio.StreamWriter) -> bool:
        # The first request only asks what the server takes; that one is answered.
        name = body["model"] if len(self.bodies) > 1 or body["model"] == "old" else "coalesced"
        if name in REFUSALS:
            writer.write(_whole(*REFUSALS[name](body)))
            return True
        if name == "old" and {"stream_options", "ignore_eos"} & body.keys():
            writer.write(_whole(400, {"error": {"message": "extra fields", "code": "invalid"}}))
            return True
        if name == "hangs":
            await asyncio.sleep(HANG)
        return await _stream(name, body, writer)


async def _stream(name: str, body: dict, writer: asyncio.StreamWriter) -> bool:
    chunked = name != "http10"
    first = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" if chunked else "HTTP/1.0 200 OK\r\n"
    writer.write(f"{first}Content-Type: text/event-stream; charset=utf-8\r\n\r\n".encode())
    for piece in _pieces(name, b"".join(_events(name, body))):
        writer.write(b"%x;x=y\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        await writer.drain()
        if name in ("split", "crlf"):
            await asyncio.sleep(0.001)
    if name == "cut":
        writer.write(b"ff\r\nhalf a chunk")
        writer.transport.abort()
        return False
    if chunked:
        writer.write(b"0\r\nX-Trailer: 1\r\n\r\n")
    return chunked


def _events(name: str, body: dict) -> Iterator[bytes]:
    """The events of an answer; `crlf` has every other liberty the format allows."""
    end = b"\r\n\r\n" if name == "crlf" else b"\n\n"
    if name == "crlf":
        yield b"\xef\xbb\xbf: a comment\r\nid: 1\r\nretry: 10\r\n\r\n"
    yield b"data: " + _chunk({"role": "assistant", "content": ""}) + end
    for word in WORDS[: 2 if name in ("midway", "cut") else None]:
        yield b"data:" + _chunk({"content": word}) + end
    if name == "midway":
        fault = {"error": {"message": f"no: {body['messages'][0]['content']}", "code": "worker_died"}}
        yield b"event: error\ndata: " + json.dumps(fault).encode() + b"\n\n"
        return
    if name in ("cut", "unfinished"):
        return
    yield b"data: " + _chunk({}, "stop") + end
    if "stream_options" in body:
        yield b"data: " + json.dumps({"choices": [], "usage": USAGE}).encode() + end
    yield b"data: [DONE]" + end


def _pieces(name: str, data: bytes) -> Iterator[bytes]:
    if name not in ("split", "crlf"):
        yield data
        return
    place = random.Random(1)
    while data:
        size = place.randint(1, 60)
        yield data[:size]
        data = data[size:]


def _chunk(delta: dict, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": None}, ensure_ascii=False).encode()


def _whole(status: int, body: dict) -> bytes:
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} Some Words\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


REFUSALS = {
    "busy": lambda body: (429, {"error": {"message": "Too many requests.", "code": "rate limit/x"}}),
    "parrot": lambda body: (400, {"error": {"message": f"Bad: {body['messages'][0]['content']}"}}),
    "problem": lambda body: (503, {"detail": "The server is shutting down.", "code": "draining"}),
    "whole": lambda body: (200, {"choices": [{"message": {"content": "All at once."}}]}),
}


@contextlib.asynccontextmanager
async def awkward() -> AsyncIterator[Awkward]:
    """The server, on this loop, for the length of a block."""
    one = Awkward()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield one
    finally:
        server.close()
        for task in one.tasks:
            task.cancel()
        await asyncio.gather(*one.tasks)
