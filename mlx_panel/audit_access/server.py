"""A running server as the place where its log is asked, over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from ..analytics import AuditFilter, Chart, ChartInfo, RequestView, Rows, Stats
from ..audit.flat import unflat_page
from ..errors import BY_CODE, MlxPanelError, ServerUnreachable
from ..inquiry import SqlOrder, SqlResult
from .place import Format, Progress

T = TypeVar("T")
LOGS = "/v1/admin/audit-logs"
# A question over a large log may take seconds, and an export's file is made before its first byte leaves.
PATIENT = httpx.Timeout(300, connect=5)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Charts(msgspec.Struct):
    """What the server answers about its charts."""

    charts: list[ChartInfo]


class AuditServer:
    """The log of the server at `url`; `key` goes along as a bearer token.

    Raises ServerUnreachable where nothing of ours answers, else the error that the server names.
    """

    def __init__(self, url: str, key: str | None = None):
        self.url = url.rstrip("/").removesuffix("/v1")
        self.name = f"the server at {self.url}"
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        parts = urlsplit(self.url)
        self._client = httpx.Client(
            base_url=self.url, headers=self.headers, timeout=PATIENT,
            verify=parts.scheme != "http",  # certificates take a while to read, and are for https alone
            limits=httpx.Limits(max_keepalive_connections=0),  # a log that a notebook forgets holds nothing open
            trust_env=parts.hostname not in LOOPBACK,  # a proxy does not see this machine's loopback
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<AuditServer {self.url}>"

    def close(self) -> None:
        self._client.close()

    def rows(self, filter: AuditFilter, *, limit: int = 50, before: str = "", count: bool = False) -> Rows:
        """A page, newest first; `before` is the `next` of the page above it."""
        more = [("limit", str(limit)), ("count", str(count).lower()), ("match", "exact")]
        reply = self._ask(
            "GET", LOGS, params=[*filter.query(), *more, *([("before", before)] if before else [])]
        )
        return self._read(unflat_page, reply)

    def request(self, id: str) -> RequestView:
        """One request with where its time went; `id` is its number or its request id."""
        return self.answer(RequestView, "GET", f"{LOGS}/{quote(id, safe='')}")

    def stats(self, filter: AuditFilter) -> Stats:
        return self.answer(Stats, "GET", f"{LOGS}/stats", params=filter.query())

    def charts(self) -> list[ChartInfo]:
        return self.answer(Charts, "GET", f"{LOGS}/charts").charts

    def chart(
        self, name: str, filter: AuditFilter, options: Mapping[str, str] = {}, *, buckets: int = 120
    ) -> Chart:
        return self.answer(Chart, "GET", *self._chart(name, filter, options, "json", buckets))

    def chart_file(
        self, name: str, filter: AuditFilter, options: Mapping[str, str], format: str, *, buckets: int = 120
    ) -> bytes:
        path, params = self._chart(name, filter, options, format, buckets)
        return self._ask("GET", path, params=params).content

    def export(self, path: Path, filter: AuditFilter, format: Format, progress: Progress) -> int:
        """Write the rows into a file; the number of bytes. A file that is not complete is not left behind."""
        params = [*filter.query(), ("format", format)]
        part = path.with_name(f"{path.name}.part")
        try:
            written = self._save(part, params, progress)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return written

    def sql(self, order: SqlOrder) -> SqlResult:
        content = {name: value for name, value in msgspec.to_builtins(order).items() if value is not None}
        return self.answer(SqlResult, "POST", f"{LOGS}/sql", json=content)

    def answer(self, kind: type[T], method: str, path: str, params: Any = None, **content: Any) -> T:
        """What the server answers to a request, as `kind`; `content` is httpx's (`json`)."""
        reply = self._ask(method, path, params=params, **content)
        return self._read(lambda body: msgspec.json.decode(body, type=kind), reply)

    def _chart(
        self, name: str, filter: AuditFilter, options: Mapping[str, str], format: str, buckets: int
    ) -> tuple[str, list[tuple[str, str]]]:
        more = [("format", format), ("buckets", str(buckets))]
        return f"{LOGS}/charts/{quote(name, safe='')}", [*filter.query(), *options.items(), *more]

    def _save(self, part: Path, params: Any, progress: Progress) -> int:
        written = 0
        try:
            with self._client.stream("GET", f"{LOGS}/export", params=params) as reply:
                if reply.is_error:
                    raise refused(reply.read())
                with part.open("wb") as file:
                    for piece in reply.iter_bytes():
                        written += file.write(piece)
                        progress(written)
        except httpx.RemoteProtocolError as error:
            raise ServerUnreachable(f"The export from {self.url} broke off.") from error
        except httpx.TransportError as error:
            raise self._away() from error
        return written

    def _ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            reply = self._client.request(method, path, **content)
        except httpx.TransportError as error:
            raise self._away() from error
        if reply.is_error:
            raise refused(reply.content)
        return reply

    def _read(self, read: Any, reply: httpx.Response) -> Any:
        try:
            return read(reply.content)
        except msgspec.MsgspecError as error:
            raise MlxPanelError(
                f"What answers at {self.url} is not an mlx-panel server of this version."
            ) from error

    def _away(self) -> ServerUnreachable:
        return ServerUnreachable(f"No answer from {self.url}. Start the server with: mlx-panel serve")


def refused(body: bytes) -> MlxPanelError:
    """The error that a problem document names, with its field."""
    try:
        told = msgspec.json.decode(body, type=dict[str, Any])
        reason = told.get("error") or {}
        kind = BY_CODE.get(str(reason.get("code")), MlxPanelError)
        text = told.get("detail") or reason.get("message") or "The server refused the request."
        return kind(str(text), field=reason.get("param"))
    except (msgspec.MsgspecError, AttributeError):
        return MlxPanelError("That address does not answer like an mlx-panel server.")
