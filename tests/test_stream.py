"""From a worker's frame to a client's socket: nothing lost, nothing twice, nothing piled up, the same bytes either way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from mlx_panel.errors import ClientGone
from mlx_panel.http.sse import EventStream
from mlx_panel.messages import Done, Event, Failed, Text, Usage
from mlx_panel.pool.line import MOST, Line
from mlx_panel.pool.stream import FINAL, ROOM, Stream, Streams

from .server import WORDS, Running, scripted
from .test_doors import GENERATE, body, raw_request, wait_for

DONE = Done("a", "stop", Usage(1, 0, 1))


# --- a stream and its sink -----------------------------------------------------------------------------------------


async def read(stream: Stream, heard: list[Event], turns: int) -> None:
    """Read to the end, busy with something else for so many turns of the loop after each piece of news."""
    while not any(isinstance(event, FINAL) for event in heard):
        heard += await stream.take()
        for _ in range(turns):
            await asyncio.sleep(0)


def told(events: list[Event]) -> list[Event]:
    """Events as one text and what else there was: several pieces may come as one."""
    return [
        "".join(one.text for one in events if isinstance(one, Text)),
        *(one for one in events if type(one) is not Text),
    ]  # type: ignore[list-item]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), max_size=30), st.integers(0, 3)
)
def test_every_event_comes_once_and_in_order(frames: list[tuple[int, bool, int]], turns: int) -> None:
    """Whether the sink takes a frame, refuses it, or is not asked because the reader is busy."""

    async def run() -> tuple[list[Event], list[Event]]:
        streams, sent, heard, willing = Streams(), [], [], True

        def sink(events: list[Event]) -> bool:
            if willing:
                heard.extend(events)
            return willing

        stream = streams.open("a")
        stream.sink = sink
        reader = asyncio.create_task(read(stream, heard, turns))
        for number, (count, willing, pause) in enumerate(frames):  # noqa: B007
            frame = [Text("a", f"{number}.{place} ") for place in range(count)]
            sent += frame
            streams.deliver([*frame, Text("nobody", "x")])
            for _ in range(pause):
                await asyncio.sleep(0)
        willing = False
        streams.deliver([DONE, Text("a", "too late")])
        await asyncio.wait_for(reader, 10)
        assert len(streams) == 0
        return [*sent, DONE], heard

    sent, heard = asyncio.run(run())
    assert heard == sent


async def test_one_stream_follows_several_requests() -> None:
    """It ends when all have ended, choices included, or when one fails; what others say then is dropped."""
    streams = Streams()
    both = streams.open("a", "b")
    streams.deliver(
        [Text("b", "x"), Done("a", "stop", Usage(), 0, last=False), Done("a", "stop", Usage(), 1)]
    )
    assert len(await both.take()) == 3
    assert (both.ended, both.over, len(streams)) == (False, False, 1)
    streams.deliver([Text("a", "too late"), Done("b", "stop", Usage())])
    assert both.ended
    assert not both.over
    assert [type(event) for event in await both.take()] == [Done]
    assert (both.over, len(streams)) == (True, 0)
    other = streams.open("c", "d")
    streams.deliver([Failed("c", "generation_failed"), Text("d", "dropped"), Done("d", "stop", Usage())])
    assert [type(event) for event in await other.take()] == [Failed]
    assert other.over
    assert (streams.close("c"), streams.close("d")) == (False, True), "the other's work is to be cancelled"


async def test_a_sink_that_fails_harms_its_own_stream_only() -> None:
    streams, heard = Streams(), {"a": [], "b": [], "c": []}  # type: ignore[var-annotated]

    def broken(events: list[Event]) -> bool:
        raise ZeroDivisionError

    readers = []
    for id, events in heard.items():
        stream = streams.open(id)
        stream.sink = broken if id == "b" else None
        readers.append(asyncio.create_task(read(stream, events, 0)))
    await asyncio.sleep(0)
    with pytest.raises(ZeroDivisionError):
        streams.deliver([Text(id, "x") for id in heard])
    await asyncio.sleep(0)
    streams.deliver([Done(id, "stop", Usage()) for id in heard])
    await asyncio.gather(*readers)
    assert [[type(event) for event in events] for events in heard.values()] == [[Text, Done]] * 3


async def test_what_waits_for_a_busy_reader_is_bounded() -> None:
    streams = Streams()
    stream = streams.open("a")
    for _ in range(100):
        streams.deliver([Text("a", "x" * (ROOM // 10))])
    assert "1 waiting" in repr(stream)
    assert await stream.take() == [Failed("a", ClientGone.code)]
    assert await stream.take(0.01) == []
    assert streams.close("a"), "its request still runs and must be cancelled"


async def test_a_reader_who_waits_gets_any_amount() -> None:
    streams, heard = Streams(), []  # type: ignore[var-annotated]
    reader = asyncio.create_task(read(streams.open("a"), heard, 0))
    await asyncio.sleep(0)
    streams.deliver([*[Text("a", "x" * ROOM)] * 3, DONE])
    await reader
    assert len(heard) == 4


# --- the line to a worker ------------------------------------------------------------------------------------------


class Far(threading.Thread):
    """The other end of a line: sends numbered frames in bursts, and keeps what it receives."""

    def __init__(self, address: str, bursts: list[int]):
        super().__init__(daemon=True)
        self.received: list[bytes] = []
        self._address, self._bursts = address, bursts

    def run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.PAIR) as near:
            near.connect(self._address)
            number = 0
            for burst in self._bursts:
                for _ in range(burst):
                    near.send(b"%d" % number)
                    number += 1
                # A frame that is never answered would be one that was never looked at.
                self.received.append(near.recv())
                while near.poll(0):
                    self.received.append(near.recv())
            while self.received[-1] != b"end":
                self.received.append(near.recv())


async def test_no_frame_is_left_lying(tmp_path: Path) -> None:
    """Bursts small and large, and sends in between, which use the descriptor's signal up."""
    bursts = [1, 2, 3 * MOST, 1, 1, 5, MOST, 1] * 10
    lists: list[list[bytes]] = []
    due = [sum(bursts[: place + 1]) for place in range(len(bursts))]
    answered = 0

    def take(frames: list[bytes]) -> None:
        nonlocal answered
        lists.append(frames)
        count = sum(map(len, lists))
        while answered < len(due) and count >= due[answered]:
            answered += 1
            line.send(b"next")

    line = Line(f"ipc://{tmp_path}/s", take)
    far = Far(f"ipc://{tmp_path}/s", bursts)
    line.send(b"before it is there")
    far.start()
    try:
        async with asyncio.timeout(30):
            while answered < len(bursts):
                line.send(b"and again")
                await asyncio.sleep(0.001)
        line.send(b"end")
        await asyncio.to_thread(far.join, 10)
    finally:
        line.close()
    assert [frame for frames in lists for frame in frames] == [
        b"%d" % number for number in range(sum(bursts))
    ]
    assert max(map(len, lists)) <= MOST
    assert far.received[0] == b"before it is there"
    assert far.received.count(b"next") == len(bursts)
    line.send(b"nobody")  # harmless, like a look that was due
    assert line.look() is False


# --- bytes on the wire -----------------------------------------------------------------------------------------------

PIECES = [b"first", b"x", b"y" * 300, *(bytes([65 + place % 26]) * 60_000 for place in range(100)), b"z" * 17]


class Speaking(RequestHandler):
    """Says `PIECES`, by offers where they are taken or by sends alone; `taken` counts the offers that were."""

    taken = 0

    async def get(self, how: str) -> None:
        out = EventStream(self, write_timeout=20, keep_alive=15)
        await out.send(PIECES[0])
        for piece in PIECES[1:]:
            if how == "sends" or not self.offered(out, piece):
                await out.send(piece)

    head = get

    def offered(self, out: EventStream, piece: bytes) -> bool:
        taken = out.offer(piece, time.monotonic())
        Speaking.taken += taken
        time.sleep(0.001)  # the client goes on reading while this loop stands still
        return taken


@contextlib.asynccontextmanager
async def speaking(context: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[int]:
    """A Tornado server of its own; its port."""
    sockets = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(Application([("/(.*)", Speaking)], **options), ssl_options=context)
    server.add_sockets(sockets)
    yield sockets[0].getsockname()[1]
    server.stop()
    await server.close_all_connections()


async def asked(port: int, request: bytes, end: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """All bytes of a reply but its date, up to `end` or the end of the connection; at first nothing is read."""
    return re.sub(rb"Date: [^\r]*\r\n", b"", await asyncio.to_thread(_asked, port, request, end, context))


def _asked(port: int, request: bytes, end: bytes, context: ssl.SSLContext | None) -> bytes:
    plain = socket.create_connection(("127.0.0.1", port), timeout=20)
    with context.wrap_socket(plain) if context else plain as client:
        client.sendall(request)
        time.sleep(0.1)
        data = bytearray()
        while more := client.recv(1 << 16):
            data += more
            if end and data.endswith(end):
                break
        return bytes(data)


ASKED: dict[str, tuple[bytes, bytes]] = {
    "chunked, the connection goes on": (
        b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n"
        + b"HEAD /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"",
    ),
    "chunked and closed": (b"GET /%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b""),
    "chunked and left open": (b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n0\r\n\r\n"),
    "an old client": (b"GET /%b HTTP/1.0\r\n\r\n", b""),
    "an old client that would stay": (b"GET /%b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", PIECES[-1]),
}


@pytest.mark.parametrize("kind", ASKED)
async def test_both_ways_write_the_same_bytes(kind: str) -> None:
    request, end = ASKED[kind]
    async with speaking() as port:
        Speaking.taken = 0
        sent = await asked(port, request.replace(b"%b", b"sends"), end)
        assert Speaking.taken == 0
        offered = await asked(port, request.replace(b"%b", b"offers"), end)
    assert Speaking.taken > 3
    assert offered == sent
    assert sent.count(b"HTTP/1.1 200 OK") == request.count(b"HTTP/1")
    if b"HTTP/1.0" in request:
        assert sent.partition(b"\r\n\r\n")[2] == b"".join(PIECES)


async def test_a_body_that_tornado_compresses_or_leaves_out_is_left_to_it() -> None:
    Speaking.taken = 0
    async with speaking(compress_response=True) as port, httpx.AsyncClient() as client:
        plain = await client.get(f"http://127.0.0.1:{port}/offers")
        assert plain.headers.get("content-encoding") == "gzip"
        assert plain.content == b"".join(PIECES)
    async with speaking() as port, httpx.AsyncClient() as client:
        assert (await client.head(f"http://127.0.0.1:{port}/offers")).content == b""
    assert Speaking.taken == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_tls_goes_the_short_way_too(tmp_path: Path) -> None:
    mine, theirs = certified(tmp_path)
    request, end = ASKED["chunked and closed"]
    async with speaking(mine) as port:
        sent = await asked(port, request.replace(b"%b", b"sends"), end, theirs)
        Speaking.taken = 0
        offered = await asked(port, request.replace(b"%b", b"offers"), end, theirs)
    assert Speaking.taken > 3
    assert offered == sent


def certified(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's side of a certificate made for the occasion."""
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    key, certificate = folder / "key", folder / "certificate"
    command = [*made.split(), "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    mine, theirs = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.create_default_context(cafile=str(certificate)),
    )
    mine.load_cert_chain(certificate, key)
    theirs.check_hostname = False
    return mine, theirs


# --- through the door --------------------------------------------------------------------------------------------------

AWKWARD = (
    'Say "so" \\ or\nnot: \t{}[]~ naïve 日本語 \u2028 \U0001f600 e\u0301 </script>\x7f \x01 data: x\n\nend.'
)


def words(line: str) -> str:
    """The text in one line of a stream."""
    choice = json.loads(line.removeprefix("data: "))["choices"]
    return (choice[0].get("delta", {}).get("content") or choice[0].get("text") or "") if choice else ""


def events(reply: httpx.Response) -> list[str]:
    return [event for event in reply.text.split("\n\n") if event]


@pytest.mark.parametrize("route", GENERATE)
@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_says_what_a_whole_answer_says(serving: Running, route: str, usage: bool) -> None:
    scripted(serving.folder, "awkward", text=AWKWARD, repeat=20)
    wait_for(lambda: "awkward" in serving.client.get("/v1/models").text)
    more = {"stream": True} | ({"stream_options": {"include_usage": True}} if usage else {})
    whole = serving.client.post(route, json=body(route, "awkward")).json()
    said = whole["choices"][0].get("text") or whole["choices"][0]["message"]["content"]
    assert said == " ".join([AWKWARD] * 20)
    lines = events(serving.client.post(route, json=body(route, "awkward", **more)))
    assert lines.pop() == "data: [DONE]"
    assert "".join(map(words, lines)) == said
    objects = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert len({json.dumps([one["id"], one["model"], one["created"]]) for one in objects}) == 1
    assert [one.get("usage", "none") for one in objects[:-1]] == [None if usage else "none"] * (
        len(objects) - 1
    )
    if usage:
        assert objects[-1]["usage"] == whole["usage"]


async def test_many_streams_at_once(serving: Running) -> None:
    """Each hears all of its answer, in order; the whole ones among them too."""
    scripted(serving.folder, "brisk", text=WORDS, repeat=30, step_seconds=0.002)
    wait_for(lambda: "brisk" in serving.client.get("/v1/models").text)
    async with httpx.AsyncClient(base_url=serving.url, timeout=60) as client:
        asked = [client.post(GENERATE[0], json=body("chat", "brisk", stream=at % 4 > 0)) for at in range(48)]
        replies = await asyncio.gather(*asked)
    for at, reply in enumerate(replies):
        said = (
            "".join(map(words, events(reply)[:-1]))
            if at % 4
            else reply.json()["choices"][0]["message"]["content"]
        )
        assert said == " ".join([WORDS] * 30)
    row = serving.row(replies[1].headers["x-request-id"])
    assert (row["completion_tokens"], row["status"]) == (30 * 9 + 1, "success")


def test_a_server_that_lagged_writes_once(serve: Any) -> None:
    server: Running = serve()
    with server.client.stream(
        "POST", GENERATE[0], json=body("chat", "slow", stream=True, max_tokens=200)
    ) as stream:
        lines = (line for line in stream.iter_lines() if line)
        said = [words(next(lines)) for _ in range(4)]
        os.kill(server.process.pid, signal.SIGSTOP)
        time.sleep(1)
        os.kill(server.process.pid, signal.SIGCONT)
        said += [words(line) for line in lines if line != "data: [DONE]"]
    assert "".join(said).split() == (WORDS.split() * 400)[:200]
    assert max(len(piece.split()) for piece in said) > 3


def test_a_client_that_does_not_read_grows_nothing_and_delays_nobody(serve: Any) -> None:
    """A flood of 5 MB a second, of which the server may keep what fits the socket and `ROOM`.

    No faster: what comes within one turn of a busy loop must fit `ROOM`, or the stream is lost at once.
    """
    server: Running = serve(timeout_write_seconds=12)
    scripted(
        server.folder, "flood", text="x" * 20_000, repeat=8000, step_seconds=0.004, context_length=100_000
    )
    wait_for(lambda: "flood" in server.client.get("/v1/models").text)
    for model in ("flood", "slow"):
        assert server.chat(model, max_tokens=3).status_code == 200
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    asked = raw_request(GENERATE[0], json.dumps(body("chat", "flood", stream=True)), "standing")
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        client.sendall(asked)
        reply = server.client.post(GENERATE[0], json=body("chat", "slow", stream=True, max_tokens=50))
        assert events(reply)[-1] == "data: [DONE]"
        assert server.client.get("/health").json()["requests"] == 1, "the flood was to last longer than that"
        row = server.row("standing", timeout=40)
        grown = process.memory_info().rss - before
    assert (row["status"], row["error_type"]) == ("cancelled", "client_gone")
    assert grown < 40 << 20, f"{grown >> 20} MB"


def test_a_client_that_pauses_hears_everything(serving: Running) -> None:
    """What the socket does not hold meanwhile waits as text, and leaves in fewer and larger pieces."""
    scripted(serving.folder, "wordy", text="word", repeat=40_000, context_length=100_000)
    wait_for(lambda: "wordy" in serving.client.get("/v1/models").text)
    asked = raw_request(
        GENERATE[0], json.dumps(body("chat", "wordy", stream=True)), f"slow-{time.monotonic_ns()}"
    )
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        client.settimeout(30)
        client.connect(("127.0.0.1", int(serving.url.rpartition(":")[2])))
        client.sendall(asked)
        wait_for(lambda: running(serving, "wordy"))
        wait_for(lambda: not running(serving, "wordy"), 30)  # all of it has left the worker
        data = bytearray()
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data += client.recv(1 << 16)
    head, _, chunked = bytes(data).partition(b"\r\n\r\n")
    assert b"200 OK" in head
    lines = unchunked(chunked).decode().split("\n\n")[:-2]
    said = [words(line) for line in lines]
    assert "".join(said).split() == ["word"] * 40_000
    assert max(map(len, said)) > 1000


def running(server: Running, name: str) -> int:
    """How many requests a model's worker has."""
    models = server.client.get("/v1/admin/models/status").json()["models"]
    return sum(model["running"] for model in models if model["id"] == name)


def unchunked(data: bytes) -> bytes:
    """The body inside a chunked transfer coding, checked."""
    body, place, count = bytearray(), 0, 1
    while count:
        line = data.index(b"\r\n", place)
        count = int(data[place:line], 16)
        body += data[line + 2 : line + 2 + count]
        place = line + 4 + count
        assert data[place - 2 : place] == b"\r\n"
    assert place == len(data)
    return bytes(body)


def test_a_connection_that_breaks_ends_its_work(serving: Running) -> None:
    """A reset, which the next write meets, rather than a close, which the loop hears of."""
    given = f"reset-{time.monotonic_ns()}"
    with socket.create_connection(("127.0.0.1", int(serving.url.rpartition(":")[2]))) as client:
        client.sendall(raw_request(GENERATE[0], json.dumps(body("chat", "slow", stream=True)), given))
        while b"fox" not in client.recv(1 << 16):
            pass
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    row = serving.row(given)
    assert row["status"] == "cancelled"
    assert 0 < row["completion_tokens"] < 1000
    wait_for(lambda: not serving.client.get("/health").json()["requests"])


def test_a_second_request_may_already_be_there(serving: Running) -> None:
    port = int(serving.url.rpartition(":")[2])
    asked = [
        raw_request(route, json.dumps(body(route, stream=True)), f"one-{time.monotonic_ns()}")
        for route in GENERATE
    ]
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(20)
        client.sendall(b"".join(asked))
        data = b""
        while data.count(b"data: [DONE]") < 2 or not data.endswith(b"\r\n0\r\n\r\n"):
            data += client.recv(1 << 16)
    first, second = data.split(b"\r\n0\r\n\r\n")[:2]
    for reply in (first, second):
        assert reply.startswith(b"HTTP/1.1 200 OK")
        said = unchunked(reply.partition(b"\r\n\r\n")[2] + b"\r\n0\r\n\r\n").decode().split("\n\n")
        assert "".join(map(words, said[:-2])) == WORDS


def test_a_stream_that_speaks_does_not_stall(serve: Any) -> None:
    """The clock of a pause is wound by every piece, also by those that go past the request's own code."""
    server: Running = serve(timeout_stall_seconds=1, sse_keepalive_seconds=0.3)
    steady = server.client.post(GENERATE[0], json=body("chat", "slow", stream=True, max_tokens=120))
    assert events(steady)[-1] == "data: [DONE]"
    assert ": keep-alive" not in events(steady)
    halted = events(server.client.post(GENERATE[0], json=body("chat", "stalled", stream=True)))
    assert ": keep-alive" in halted
    assert "paused" in json.loads(halted[-1].removeprefix("data: "))["detail"]
    assert server.chat("slow", max_tokens=120).status_code == 200


def test_news_of_the_cache_is_no_token(serve: Any) -> None:
    """It reaches the audit, but neither ends the wait for the first token nor starts the clock of a pause."""
    server: Running = serve(timeout_first_token_seconds=2, timeout_stall_seconds=1)
    scripted(server.folder, "known", text=WORDS, stall_after=0, cached=2)
    wait_for(lambda: "known" in server.client.get("/v1/models").text)
    for cached in (0, 2):
        problem = server.chat("known", "one two three four").json()
        assert problem["timeout_seconds"] == 2, problem
        row = server.row(problem["request_id"])
        assert (row["cached_tokens"], row["ttft_ms"], row["completion_tokens"]) == (cached, None, 0)
