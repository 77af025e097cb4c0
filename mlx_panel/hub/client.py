"""Reading from the hub over HTTP: one client, patient where it helps, and every refusal in words a person can use.

httpx rather than `huggingface_hub.HfApi`: a reader that leaves ends its request at once (a thread could not be stopped),
pages are read as far as they are needed, and no second HTTP library, telemetry or token file comes into play.
"""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec

from ..errors import HubModelNotFound, HubRefused, HubUnavailable, MlxPanelError

Params = Mapping[str, Any] | Sequence[tuple[str, str]]
TIMEOUT = httpx.Timeout(20, connect=5)
ATTEMPTS = 4
CONNECTIONS = 2  # of these where no connection comes about: a person without a network waits for the answer
LONGEST_WAIT = 20.0  # seconds; a hub that asks for more is told of instead
PASSING = frozenset({429, 500, 502, 503, 504})
BODY_LIMIT = 32 << 20
SETTINGS = "on the dashboard, or with PUT /api/settings/huggingface"


class HubClient:
    """GET requests to one hub. `headers` is asked anew for each, so a changed token holds from the next one on.

    A request that fails in passing (429, 5xx, no answer) is made up to `ATTEMPTS` times, after `pause`
    seconds and twice as many each time, or when the hub says (`Retry-After`, RFC 9110 section 10.2.3).
    """

    def __init__(self, endpoint: str, headers: Callable[[], dict[str, str]], *, pause: float = 0.5):
        self.endpoint = endpoint.rstrip("/")
        self._headers, self._pause = headers, pause
        self._client: httpx.AsyncClient | None = None
        self._making = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<HubClient {self.endpoint} {'open' if self._client else 'idle'}>"

    @property
    def connected(self) -> bool:
        """Whether the hub was asked, so that there may be connections to it."""
        return self._client is not None

    async def close(self) -> None:
        """Close what connections there are."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def json(self, path: str, params: Params = (), *, id: str = "") -> tuple[Any, str]:
        """A document, and the query that asks for the page after it ("" at the end). `id` is the model it is about.

        Raises HubRefused, HubModelNotFound, HubUnavailable.
        """
        reply, body = await self._get(path, params, id, BODY_LIMIT)
        try:
            return msgspec.json.decode(body), _next_query(reply)
        except (msgspec.DecodeError, RecursionError) as error:
            raise HubUnavailable(f"What answers at {self.endpoint} is not a model hub.") from error

    async def text(self, path: str, *, limit: int, id: str = "") -> str:
        """A file's first `limit` bytes as text; what is not UTF-8 is replaced. Raises like `json`."""
        _, body = await self._get(path, (), id, limit)
        return body.decode("utf-8", "replace")

    async def _get(self, path: str, params: Params, id: str, limit: int) -> tuple[httpx.Response, bytes]:
        """A response of status 200 and the first `limit` bytes of its body."""
        for attempt in range(ATTEMPTS):
            headers = self._headers()
            try:
                async with (await self._open()).stream(
                    "GET", self.endpoint + path, params=_query(params), headers=headers
                ) as reply:
                    if reply.status_code == 200:
                        return reply, await _read(reply, limit)
                    wait = self._wait(reply, attempt, id)
            except httpx.TransportError as error:
                wait = self._wait_for(error, attempt)
            await asyncio.sleep(wait)
        raise AssertionError  # the last attempt returned or raised

    def _wait(self, reply: httpx.Response, attempt: int, id: str) -> float:
        """Seconds before the next try. Raises what the refusal means where there is none."""
        if reply.status_code not in PASSING:
            raise refusal(reply, self.endpoint, id, bool(self._headers()))
        asked = retry_after(reply.headers.get("Retry-After", ""))
        wait = self._backoff(attempt) if asked is None else asked
        if attempt + 1 == ATTEMPTS or wait > LONGEST_WAIT:
            raise _busy(reply.status_code, self.endpoint, asked)
        return wait

    def _wait_for(self, error: httpx.TransportError, attempt: int) -> float:
        unconnected = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        if attempt + 1 == (CONNECTIONS if unconnected else ATTEMPTS):
            raise HubUnavailable(
                f"The hub at {self.endpoint} does not answer ({type(error).__name__}). Is this machine online?"
            ) from error
        return self._backoff(attempt)

    def _backoff(self, attempt: int) -> float:
        return self._pause * 2**attempt * random.uniform(0.75, 1.25)

    async def _open(self) -> httpx.AsyncClient:
        async with self._making:
            if self._client is None:
                # Reading the system's certificates takes some ten milliseconds of disk and CPU.
                context = await asyncio.to_thread(httpx.create_ssl_context)
                self._client = httpx.AsyncClient(timeout=TIMEOUT, verify=context, follow_redirects=True)
            return self._client


def refusal(reply: httpx.Response, endpoint: str, id: str, token: bool) -> MlxPanelError:
    """What a status that no repetition mends means, and what to do. The body is not quoted."""
    status, code = reply.status_code, reply.headers.get("X-Error-Code", "")
    if code == "GatedRepo" or (status == 403 and id):
        return HubRefused(gated(endpoint, id, token), field="model")
    if code == "RevisionNotFound":
        return HubModelNotFound(f"The model {id} has no such revision on the hub.", field="revision")
    if status == 401 and token and code != "RepoNotFound":
        return HubRefused(f"The hub does not accept the token. Enter another one {SETTINGS}.")
    if status in (401, 404) and id:
        way = (
            "and the token does not open it"
            if token
            else f"which takes a token with access to it: enter one {SETTINGS}"
        )
        return HubModelNotFound(
            f"The hub has no model {id}. Check the spelling (owner/name); or it is private, {way}.",
            field="model",
        )
    if status in (401, 403):
        return HubRefused(f"The hub at {endpoint} wants a token: enter one {SETTINGS}.")
    return HubUnavailable(f"The hub at {endpoint} refused the request ({status}).")


def gated(endpoint: str, id: str, token: bool) -> str:
    """How to get at a gated model."""
    page = f"{endpoint}/{id}"
    if token:
        return f"{id} is given only to those who accepted its terms: accept them at {page} with the account the token belongs to."
    return f"{id} is given only to those who accepted its terms: accept them at {page}, then enter a token of that account {SETTINGS}."


def _busy(status: int, endpoint: str, asked: float | None) -> HubUnavailable:
    after = f"; it asks to wait {asked:.0f} s" if asked else ""
    if status == 429:
        return HubUnavailable(
            f"The hub at {endpoint} has had too many requests from here{after}. A token raises the limit."
        )
    return HubUnavailable(f"The hub at {endpoint} has trouble ({status}){after}.")


def retry_after(text: str) -> float | None:
    """Seconds, of a number or a date; None for anything else."""
    if text.strip().isdecimal():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.fromtimestamp(time.time(), UTC)).total_seconds())


async def _read(reply: httpx.Response, limit: int) -> bytes:
    """At most `limit` bytes of a body."""
    pieces, size = [], 0
    async for piece in reply.aiter_bytes():
        pieces.append(piece)
        size += len(piece)
        if size >= limit:
            break
    return b"".join(pieces)[:limit]


def _query(params: Params) -> httpx.QueryParams:
    return httpx.QueryParams(params if isinstance(params, Mapping) else list(params))


def _next_query(reply: httpx.Response) -> str:
    """The query of the link to the next page (RFC 8288); its host and path are not followed."""
    url = reply.links.get("next", {}).get("url", "")
    return httpx.URL(url).query.decode("ascii", "replace") if url else ""
