"""The one wrapper around every API request: admission, errors, cancellation, the audit row.

A subclass states its `verbs`, `route` and `dialect` and implements `answer`: the happy path, which may raise any
`MlxPanelError`. No subclass defines a verb or catches an exception; `tests/test_doors.py` sees to it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from typing import Any, ClassVar

import msgspec
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from .. import __version__
from ..errors import (
    BadRequest,
    ClientGone,
    Draining,
    InternalError,
    InvalidBody,
    MethodNotAllowed,
    MlxPanelError,
    PayloadTooLarge,
    UnsupportedMediaType,
    status_of,
)
from ..site import site
from . import problem
from .admission import caller_of, check_caller, check_host, check_origin
from .house import FindHouse, House
from .ledger import Ledger
from .sse import EventStream, frame

log = logging.getLogger(__name__)
REQUEST_ID = re.compile(r"[A-Za-z0-9_.:\-]{1,64}")
DISCARD_LIMIT = 256 << 20
EXPOSED = (
    "X-Request-ID, X-Ignored-Fields, X-Sampling, X-Deterministic, X-Cached-Tokens, X-Stripped-Lines, "
    "X-Unparsed-Tool-Calls, X-Truncated-Inputs, X-Preset, X-Alias, Retry-After"
)
NAMED = 20  # ignored fields a header names; clients read only so many bytes of headers


@stream_request_body
class Endpoint(RequestHandler):
    """A route. Its request id is the client's `X-Request-ID` if well-formed, else a new one."""

    verbs: ClassVar[tuple[str, ...]] = ("GET",)
    route: ClassVar[str] = ""
    dialect: ClassVar[str] = "management"
    works: ClassVar[bool] = False  # whether a draining server refuses it
    house: House

    def initialize(self, house: FindHouse) -> None:
        self._find_house = house
        self._chunks: list[bytes] = []
        self._size = 0
        self._work: asyncio.Task[None] | None = None
        self._cause: MlxPanelError | None = None
        self._recorded = False
        self.out: EventStream | None = None
        preflight = self.request.method == "OPTIONS"
        self.ledger = Ledger(
            request_id=self.request_id,
            endpoint=self.route,
            dialect="management" if preflight else self.dialect,
            caller=caller_of(self.request.remote_ip),
        )

    def set_default_headers(self) -> None:
        asked = self.request.headers.get("X-Request-ID", "")
        if not hasattr(self, "request_id"):
            self.request_id = asked if REQUEST_ID.fullmatch(asked) else f"req_{uuid.uuid4().hex}"
        self.set_header("X-Request-ID", self.request_id)
        self.set_header("Server", f"mlx-panel/{__version__}")

    # --- the body, read as it comes --------------------------------------------------------------------------

    async def prepare(self) -> None:
        self.house = await self._find_house()
        connection: Any = self.request.connection
        # Tornado would answer a long body itself, and not as a problem.
        connection.set_max_body_size(1 << 50)
        announced = self.request.headers.get("Content-Length") or "0"
        if not announced.isdecimal():
            self._conclude(BadRequest("The Content-Length is not a number."))
        elif int(announced) > self._limit + DISCARD_LIMIT:
            self._conclude(self._too_large())

    def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= self._limit:
            self._chunks.append(chunk)

    @property
    def _limit(self) -> int:
        return int(self.house.settings.max_body_mb * 1_000_000)

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"The body is larger than {self._limit} bytes.", limit_bytes=self._limit)

    @property
    def body(self) -> bytes:
        """The request's body. Raises InvalidBody when there is none."""
        if not self._size:
            raise InvalidBody("The request has no body.")
        return b"".join(self._chunks)

    # --- the wrapper -----------------------------------------------------------------------------------------

    async def _run(self, *path: str) -> None:
        error: MlxPanelError | None = None
        self.house.enter(self)
        try:
            self._work = asyncio.ensure_future(self._admitted(*path))
            await self._work
        except MlxPanelError as known:
            error = known
        except StreamClosedError:
            error = ClientGone()
        except asyncio.CancelledError:
            error = self._cause or Draining()
        except Exception as unknown:
            error = self._unexpected(unknown)
        finally:
            self.house.leave(self)
        self._conclude(error)

    get = head = post = put = patch = delete = options = _run

    async def _admitted(self, *path: str) -> None:
        self._check_sender()
        if self.request.method == "OPTIONS":
            return self._preflight()
        self._check_method()
        if self._size > self._limit:
            raise self._too_large()
        if self.works and self.house.draining:
            raise Draining
        await self.answer(*path)

    async def answer(self, *path: str) -> None:
        """Answer the request, or raise."""
        raise NotImplementedError

    def _unexpected(self, error: BaseException) -> MlxPanelError:
        """A defect: its class and place go to the log, its text may quote a request and goes nowhere."""
        if isinstance(error, HTTPError) and error.status_code < 500:
            return BadRequest()  # Tornado's own word on a path or a query it cannot read
        log.error("%s: %s", self.request_id, site(error))
        return InternalError()

    def _conclude(self, error: MlxPanelError | None) -> None:
        """Record and finish, once."""
        if self._recorded:
            return
        self._record(error)
        if isinstance(error, ClientGone):
            self._drop()
            return
        if error is not None:
            self._write_problem(error)
        self.finish()

    def _record(self, error: MlxPanelError | None) -> None:
        self._recorded = True
        sent = self.get_status() if error is None or self._headers_written else status_of(error)
        record = self.ledger.record(error, sent)
        self.house.audit.put(record, self.ledger.detail())
        self.house.meter.saw(record)

    def _write_problem(self, error: MlxPanelError) -> None:
        body = problem.encode(error, request_id=self.request_id, instance=self.request.path)
        if self._headers_written:
            self.write(frame(body))  # the dialects' error event: an object with the member `error`
            return
        allowed = {
            name: value
            for name, value in self._headers.get_all()
            if name.startswith(("Access-Control", "Vary", "Allow"))
        }
        self.clear()
        for name, value in {**allowed, **problem.headers(error)}.items():
            self.set_header(name, value)
        self.set_status(status_of(error))
        self.set_header("Content-Type", problem.CONTENT_TYPE)
        self.write(body)

    def _drop(self) -> None:
        """Nobody reads any more: close without pretending that the answer is complete."""
        self._finished = True
        if self.request.connection is not None:
            self.request.connection.stream.close()  # type: ignore[attr-defined]
        self.on_finish()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """What Tornado refuses by itself, before a verb of ours runs."""
        error: MlxPanelError = InternalError() if status_code >= 500 else BadRequest()
        if status_code == 405:
            error = MethodNotAllowed(f"{self.route} does not know this method.")
            self.set_header("Allow", ", ".join((*self.verbs, "OPTIONS")))
        if hasattr(self, "house"):
            self._conclude(error)
        else:
            self._write_problem(error)
            self.finish()

    def log_exception(self, *info: Any) -> None:
        """Tornado would log the exception with its text and the request."""
        if not isinstance(info[1], HTTPError):
            self._unexpected(info[1])

    def _log(self) -> None:
        """The route's pattern rather than its path: a path may hold anything."""
        log.debug("%s: %d %s %s", self.request_id, self.get_status(), self.request.method, self.route)

    def interrupt(self, error: MlxPanelError) -> None:
        """End the request from outside with an error."""
        self._cause = self._cause or error
        if self._work is not None:
            self._work.cancel()

    def on_connection_close(self) -> None:
        self.interrupt(ClientGone())
        if self._work is None and hasattr(self, "house") and not self._recorded:
            self._record(ClientGone())

    # --- admission -------------------------------------------------------------------------------------------

    def _check_method(self) -> None:
        known = (*self.verbs, "HEAD") if "GET" in self.verbs else self.verbs
        if self.request.method not in known:
            self.set_header("Allow", ", ".join((*known, "OPTIONS")))
            raise MethodNotAllowed(f"{self.route} takes {' or '.join(self.verbs)}.")
        kind = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if self._size and kind != "application/json":
            raise UnsupportedMediaType

    def _check_sender(self) -> None:
        settings = self.house.settings
        check_caller(self.request.remote_ip)
        check_host(self.request.host, settings.allowed_hosts)
        origin = self.request.headers.get("Origin")
        if origin is not None:
            check_origin(origin, f"{self.request.protocol}://{self.request.host}", settings.cors_origins)
            self.set_header("Access-Control-Allow-Origin", origin)
            self.set_header("Access-Control-Expose-Headers", EXPOSED)
            self.set_header("Vary", "Origin")

    def _preflight(self) -> None:
        self.set_status(204)
        self.set_header("Access-Control-Allow-Methods", ", ".join((*self.verbs, "OPTIONS")))
        self.set_header(
            "Access-Control-Allow-Headers",
            self.request.headers.get("Access-Control-Request-Headers", "content-type, authorization"),
        )
        self.set_header("Access-Control-Max-Age", "600")

    # --- for subclasses --------------------------------------------------------------------------------------

    def compute_etag(self) -> None:
        return None

    def reply(self, body: Any, status: int = 200) -> None:
        """Answer with JSON; structs and dicts alike."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.write(body if isinstance(body, bytes) else msgspec.json.encode(body))

    def open_stream(self) -> EventStream:
        """Answer with server-sent events from now on."""
        settings = self.house.settings
        self.out = EventStream(
            self, write_timeout=settings.timeout_write_seconds, keep_alive=settings.sse_keepalive_seconds,
            waited=self.ledger.passage.waited,
        )  # fmt: skip
        return self.out

    def ignore(self, names: list[str]) -> None:
        """Say which fields of the body had no effect."""
        if names:
            more = [f"and-{len(names) - NAMED}-more"] if len(names) > NAMED else []
            self.set_header("X-Ignored-Fields", ", ".join(names[:NAMED] + more))
            self.house.meter.ignored_fields += len(names)
