"""The source of components anywhere else: a notebook, another program, another machine."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from ..bench import Result
from ..errors import BY_CODE, MlxPanelError, ServerUnreachable
from ..job import Job, Order, Shelved, Stored
from ..messages import Limit
from ..tuning import CacheRecord
from .audit_settings_source import RemoteAuditSettings
from .audit_source import RemoteAudit
from .feed import Feed
from .library_source import RemoteLibrary
from .pool_source import RemotePool
from .preset_source import RemotePresets
from .proof_source import RemoteProof
from .request_source import RemoteRequests
from .source import EngineState, RuleState, Unsubscribe, Watcher
from .sql_source import RemoteSql

Answer = TypeVar("Answer")
QUICK = httpx.Timeout(30, connect=5)
PATIENT = httpx.Timeout(5, read=None)  # the server knows how long a load or an unload may take
LIMITS = "/api/settings/timeouts"
ENGINE = "/api/settings/engine"
CACHE = "/v1/admin/cache"
BENCHMARKS = "/v1/admin/benchmarks"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Limits(msgspec.Struct, frozen=True):
    """What the server answers about its limits."""

    timeouts: list[Limit]


class Caches(msgspec.Struct, frozen=True):
    """What the server answers about its prefix caches; the figures come with the snapshots."""

    requests: list[CacheRecord]


class Current(msgspec.Struct, frozen=True):
    """What the server answers about the benchmark that runs."""

    current: Job | None


class Listed(msgspec.Struct, frozen=True):
    """What the server answers about its stored benchmarks."""

    benchmarks: list[Stored]
    skipped: list[str]


class Remote(
    RemoteAudit,
    RemoteAuditSettings,
    RemoteLibrary,
    RemotePool,
    RemotePresets,
    RemoteProof,
    RemoteRequests,
    RemoteSql,
):
    """A `Source` over HTTP. Its coroutines run on any loop; watchers are called from one thread for all of them.

    Every method raises ServerUnreachable where nothing of ours answers, else the error the server names. While the
    server is away watchers hear nothing; when it is back they are told with the history, as at first.
    """

    def __init__(self, url: str, key: str | None = None):
        self.url = url.rstrip("/")
        self.key = key
        self._options: dict[str, Any] = {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "verify": httpx.create_ssl_context(),
            # A proxy of the environment does not see this machine's loopback.
            "trust_env": urlsplit(self.url).hostname not in LOOPBACK,
        }
        self._feed = Feed(self._options)

    def __repr__(self) -> str:
        return f"<Remote {self.url} {self._feed!r}>"

    def subscribe(self, watcher: Watcher) -> Unsubscribe:
        return self._feed.subscribe(watcher)

    def check(self) -> None:
        """Return if a server of ours answers. Blocks for some seconds at most."""
        try:
            with httpx.Client(**self._options, timeout=QUICK) as client:
                _struct(self.url, client.get("/api/system"), dict[str, Any])
        except httpx.TransportError as error:
            raise self._unreachable() from error

    async def load(self, model: str) -> None:
        await self._ask("POST", f"/v1/admin/models/load/{quote(model, safe='')}", timeout=PATIENT)

    async def unload(self, model: str) -> None:
        await self._ask("POST", f"/v1/admin/models/unload/{quote(model, safe='')}", timeout=PATIENT)

    async def timeouts(self) -> list[Limit]:
        return await self._limits("GET")

    async def set_timeouts(self, values: dict[str, float]) -> list[Limit]:
        return await self._limits("PUT", json=values)

    async def reset_timeouts(self) -> list[Limit]:
        return await self._limits("DELETE")

    async def system(self) -> dict[str, Any]:
        return _struct(self.url, await self._ask("GET", "/api/system"), dict[str, Any])

    async def engine(self, model: str = "") -> EngineState:
        return await self._engine("GET", model)

    async def set_engine(self, values: dict[str, Any], model: str = "") -> EngineState:
        return await self._engine("PUT", model, json=values)

    async def reset_engine(self, model: str = "") -> EngineState:
        return await self._engine("DELETE", model)

    async def cache_records(self) -> list[CacheRecord]:
        return _struct(self.url, await self._ask("GET", CACHE), Caches).requests

    async def cache_rules(self) -> list[RuleState]:
        return _struct(self.url, await self._ask("GET", f"{CACHE}/rules"), dict[str, list[RuleState]])[
            "rules"
        ]

    async def clear_cache(self, model: str) -> None:
        await self._ask("DELETE", f"{CACHE}/{quote(model, safe='')}")

    async def benchmark_job(self) -> Job | None:
        return _struct(self.url, await self._ask("GET", f"{BENCHMARKS}/current"), Current).current

    async def start_benchmark(self, order: Order) -> Job:
        content = msgspec.to_builtins(order)
        return _struct(self.url, await self._ask("POST", BENCHMARKS, json=content), Job)

    async def cancel_benchmark(self) -> Job:
        answer = await self._ask("DELETE", f"{BENCHMARKS}/current")
        return _struct(self.url, answer, dict[str, Job])["current"]

    async def benchmarks(self) -> Shelved:
        listed = _struct(self.url, await self._ask("GET", BENCHMARKS), Listed)
        return Shelved(listed.benchmarks, listed.skipped)

    async def benchmark(self, id: str) -> Result:
        return _struct(self.url, await self._ask("GET", f"{BENCHMARKS}/{quote(id, safe='')}"), Result)

    async def delete_benchmark(self, id: str) -> None:
        await self._ask("DELETE", f"{BENCHMARKS}/{quote(id, safe='')}")

    async def _engine(self, method: str, model: str, **content: Any) -> EngineState:
        path = f"{ENGINE}/{quote(model, safe='')}" if model else ENGINE
        return _struct(self.url, await self._ask(method, path, **content), EngineState)

    async def _limits(self, method: str, **content: Any) -> list[Limit]:
        return _struct(self.url, await self._ask(method, LIMITS, **content), Limits).timeouts

    async def answer(
        self, kind: type[Answer], method: str, path: str, *, timeout: httpx.Timeout = QUICK, **content: Any
    ) -> Answer:
        """What the server answers to a request, as `kind`; `content` is httpx's (`json`, `params`)."""
        return _struct(self.url, await self._ask(method, path, timeout=timeout, **content), kind)

    async def _ask(
        self, method: str, path: str, *, timeout: httpx.Timeout = QUICK, **content: Any
    ) -> httpx.Response:
        # A client of its own for each request: one that is kept belongs to the loop that first used it.
        try:
            async with httpx.AsyncClient(**self._options, timeout=timeout) as client:
                return _granted(self.url, await client.request(method, path, **content))
        except httpx.TransportError as error:
            raise self._unreachable() from error

    def _unreachable(self) -> ServerUnreachable:
        return ServerUnreachable(f"No answer from {self.url}. Is the server running?")


def _granted(url: str, response: httpx.Response) -> httpx.Response:
    """The response, if it is a success. Raises what the server's problem document says otherwise."""
    if response.is_success:
        return response
    raise refusal(response.content) or _stranger(url)


def _struct(url: str, response: httpx.Response, kind: type[Answer]) -> Answer:
    """What a successful response holds. Raises like `_granted`."""
    try:
        return msgspec.json.decode(_granted(url, response).content, type=kind)
    except msgspec.MsgspecError as error:
        raise _stranger(url) from error


def _stranger(url: str) -> ServerUnreachable:
    return ServerUnreachable(f"What answers at {url} is not an mlx-panel server, or one of another version.")


def refusal(body: bytes) -> MlxPanelError | None:
    """The error of a problem document, with its message, field and figures; None where it is no such document."""
    try:
        problem = msgspec.json.decode(body, type=dict[str, Any])
        reason = msgspec.convert(problem.get("error"), Reason)
    except msgspec.MsgspecError:
        return None
    numbers = {
        name: value for name, value in problem.items() if name != "status" and type(value) in (int, float)
    }
    kind = BY_CODE.get(reason.code, MlxPanelError)
    return kind(reason.message, field=reason.param, **numbers)


class Reason(msgspec.Struct, frozen=True):
    """The member `error` of a problem document."""

    message: str
    code: str
    param: str | None = None
