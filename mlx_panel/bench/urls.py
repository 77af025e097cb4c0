"""A server behind a URL: what it says of itself, which fields it takes, and one streamed request."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import msgspec

from . import openai
from .events import EventParser
from .http1 import Client, NotHttp, Response, shown
from .identity import fingerprint
from .prompts import Ask, Like
from .records import BenchmarkError, Target, TargetInfo, Workload
from .trace import Trace

USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}
IGNORE_EOS: dict[str, Any] = {"ignore_eos": True}
REFUSALS = (400, 422)
LARGEST_REFUSAL = 1 << 16
NAMED_AT_MOST = 10
LIST_SECONDS = 30.0
SHORTEST_QUOTE = 24


class ServerSide:
    """Asks one server. `open()` first; it finds out what is there."""

    def __init__(self, target: Target, key: str = ""):
        self._target = target
        self.url = base_url(target.url)
        self._client = client(self.url, key)
        self.model = target.model
        self._more: dict[str, dict[str, Any]] = {}
        self._ids: list[str] = []
        self.ignore_eos = "not sent"

    def __repr__(self) -> str:
        return f"<ServerSide {shown(self.url)} {self.model}>"

    def close(self) -> None:
        self._client.close()

    async def open(self, first: Workload) -> TargetInfo:
        """What is measured, after it has answered once.

        Raises BenchmarkError where nobody answers, the model is not clear, or the server refuses it.
        """
        try:
            async with asyncio.timeout(LIST_SECONDS):
                response, content = await self._client.read("GET", "/models")
        except OSError as error:
            raise BenchmarkError(f"No answer from {shown(self.url)}: {_reason(error)}") from error
        if response.status != 200 and not self.model:
            _, message = openai.refusal(response.status, content)
            raise BenchmarkError(f"{shown(self.url)}/models answers {response.status}. {message}".rstrip())
        self._ids = _ids(content)
        self.model = self.model or self._only(self._ids)
        server = response.headers.get("server", "")[:100]
        await self.prepare(first)
        system = await self._system() if server.startswith("mlx-panel") else {}
        return self._info(server, system)

    async def prepare(self, workload: Workload) -> None:
        """Ask once and see which fields the server takes; it also loads the model. Raises BenchmarkError."""
        if workload.endpoint not in self._more:
            await self._look(workload)
        for model in workload.replay.models if workload.replay is not None else ():
            if model not in (self.model, *self._ids):
                await self._reach(workload, model)

    async def _look(self, workload: Workload) -> None:
        wish = [USAGE | IGNORE_EOS] if workload.ignore_eos else []
        short = msgspec.structs.replace(workload, output_tokens=2)
        for more in (*wish, USAGE, {}):
            trace = Trace(0, time.perf_counter())
            response = await self._probe(short, trace, more)
            if trace.http_status not in REFUSALS:
                break
        self._demand(trace, workload, self.model)
        self._settle(workload, more, response)

    async def _reach(self, workload: Workload, model: str) -> None:
        """Ask a model that the server does not list, by an alias perhaps, whether it is there. Raises BenchmarkError."""
        trace = Trace(0, time.perf_counter())
        await self._probe(workload, trace, self._more[workload.endpoint], Like(output_tokens=2, model=model))
        self._demand(trace, workload, model)

    def _demand(self, trace: Trace, workload: Workload, model: str) -> None:
        if trace.status == "error":
            hint = " Say whom to ask instead with --model or --map." if workload.replay is not None else ""
            said = f"{trace.error}. {trace.message}".rstrip()
            raise BenchmarkError(f"{shown(self.url)} refuses {model!r}: {said}{hint}")

    async def ask(self, ask: Ask, trace: Trace, workload: Workload) -> None:
        """One request, its trace filled in. Raises OSError."""
        await self._stream(workload, ask, trace, self._more[workload.endpoint])

    async def _probe(
        self, workload: Workload, trace: Trace, more: dict[str, Any], like: Like | None = None
    ) -> Response | None:
        try:
            async with asyncio.timeout(workload.timeout or None):
                return await self._stream(workload, Ask(0, "Once upon a time", like=like), trace, more)
        except OSError as error:
            raise BenchmarkError(f"{shown(self.url)} broke off: {_reason(error)}") from error

    def _settle(self, workload: Workload, more: dict[str, Any], response: Response | None) -> None:
        ignored = response.headers.get("x-ignored-fields", "") if response else ""
        if workload.ignore_eos:
            self.ignore_eos = "refused" if "ignore_eos" not in more else "taken"
        if "ignore_eos" in ignored:
            more, self.ignore_eos = USAGE, "ignored"
        self._more[workload.endpoint] = more

    async def _stream(
        self, workload: Workload, ask: Ask, trace: Trace, more: dict[str, Any]
    ) -> Response | None:
        path = openai.PATHS[workload.endpoint]
        content = openai.body(workload, self.model, ask, more)
        listener = Listener(trace, ask)
        trace.sent = time.perf_counter()
        try:
            response = await self._client.ask("POST", path, listener.hear, content)
        finally:
            trace.ended = time.perf_counter()
        listener.conclude(response)
        return response

    def _only(self, ids: list[str]) -> str:
        if len(ids) == 1:
            return ids[0]
        there = f"There are: {', '.join(ids[:NAMED_AT_MOST])}." if ids else "It lists none."
        raise BenchmarkError(f"Name a model of {shown(self.url)} with --model. {there}")

    async def _system(self) -> dict[str, Any]:
        """An mlx-panel server says what it runs on, at its root."""
        root = Client(self.url.removesuffix("/v1"))
        try:
            response, content = await root.read("GET", "/api/system")
            found = msgspec.json.decode(content) if response.status == 200 else {}
        except (OSError, msgspec.DecodeError):
            found = {}
        finally:
            root.close()
        return found if isinstance(found, dict) else {}

    def _info(self, server: str, system: dict[str, Any]) -> TargetInfo:
        folder = self._target.tokenizer
        what = fingerprint(folder)
        versions = system.get("versions") or {}
        blas = system.get("blas") or {}
        return TargetInfo(
            name=self._target.name
            or server.partition("/")[0]
            or urlsplit(self.url).netloc.rpartition("@")[2],
            kind="url",
            url=shown(self.url),
            model=self.model,
            model_hash=what.hash,
            architecture=what.architecture,
            dtype=what.dtype,
            device=str(system.get("device") or ""),
            blas=str(blas.get("name", "")),
            server=server,
            versions={str(name): str(version) for name, version in versions.items()},
        )


class Listener:
    """Follows the body of one answer."""

    def __init__(self, trace: Trace, ask: Ask):
        self._trace, self._ask = trace, ask
        self._parser = EventParser()
        self._other = b""
        self._ended = False
        self._whole = ask.like is not None and not ask.like.stream

    def hear(self, now: float, pieces: list[bytes], response: Response) -> bool:
        """Bytes of the body; True when no more of them are wanted."""
        if self._whole and response.status == 200:
            self._other += b"".join(pieces)
            return False
        if response.status != 200 or "event-stream" not in response.headers.get("content-type", ""):
            self._other = (self._other + b"".join(pieces))[:LARGEST_REFUSAL]
            return False
        trace = self._trace
        trace.http_status = response.status
        for piece in pieces:
            for data in self._parser.feed(piece):
                # What follows an error or the end says nothing more.
                self._ended = self._ended or openai.take(trace, data, now)
        leave = self._ask.leave_after
        if leave is None or trace.chunks < leave or self._ended:
            return False
        trace.status = "cancelled"
        return True

    def conclude(self, response: Response) -> None:
        """The answer is over: was it whole? What a server says of a failure is not passed on where it quotes the prompt."""
        trace = self._trace
        trace.http_status = response.status
        if trace.status == "success":
            self._judge(response)
        if self._ask.prompt[:SHORTEST_QUOTE] in trace.message:
            trace.message = ""

    def _judge(self, response: Response) -> None:
        trace = self._trace
        if response.status != 200:
            trace.fail(*openai.refusal(response.status, self._other))
        elif self._whole:
            openai.take_whole(trace, self._other)
        elif self._other:
            trace.fail("not_a_stream", "The answer is no stream of events.")
        elif not trace.finish_reason:
            trace.fail("stream_cut", "The stream ended without a finish reason.")


def client(url: str, key: str = "") -> Client:
    """A client. Raises BenchmarkError where the URL is none."""
    try:
        return Client(url, key)
    except (NotHttp, ValueError) as error:
        raise BenchmarkError(f"{url!r} is not an http:// or https:// URL.") from error


def base_url(url: str) -> str:
    """Where the API is: a URL without a path gets OpenAI's `/v1`."""
    url = url.rstrip("/")
    return url if urlsplit(url).path else f"{url}/v1"


def _ids(content: bytes) -> list[str]:
    try:
        listed = msgspec.json.decode(content)
        return [str(model["id"]) for model in listed["data"]]
    except (msgspec.DecodeError, LookupError, TypeError):
        return []


def _reason(error: OSError) -> str:
    late = "it took too long" if isinstance(error, TimeoutError) else type(error).__name__
    return str(error.strerror or error) or late
