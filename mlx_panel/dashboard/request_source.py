"""A source's single requests: one row of the audit log, where its time went, and who was there."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol
from urllib.parse import quote

from ..analytics import RequestView
from ..audit import requests
from ..audit.reader import AuditReader
from ..audit.shares import sentence, shares
from ..errors import NotFound
from ..record import AuditRecord
from .pool_source import Asks, Tape

REQUESTS = "/v1/admin/audit-logs"


class RequestSource(Protocol):
    """The part of a `Source` that is about one request."""

    async def audit_request(self, id: int | str) -> RequestView:
        """The request of a number in the log, or the newest of a request id. Raises NotFound."""
        ...


class RequestServer(Protocol):
    """The Runtime, as far as single requests go."""

    reader: AuditReader


class LocalRequests:
    """`RequestSource` on the server's loop; the log is read in the reader's threads."""

    _server: RequestServer

    async def audit_request(self, id: int | str) -> RequestView:
        return await self._server.reader.ask(partial(requests.named, name=str(id)))


class RemoteRequests:
    """`RequestSource` over HTTP."""

    async def audit_request(self: Asks, id: int | str) -> RequestView:
        return await self.answer(RequestView, "GET", f"{REQUESTS}/{quote(str(id), safe='')}")


class RequestTape(Tape, Protocol):
    """`Tape` with rows, oldest first, and what is known of some, by their numbers."""

    records: list[AuditRecord]
    requests: dict[int, RequestView]


class RecordedRequests:
    """`RequestSource` without a server: a row's number is its place, from 1."""

    async def audit_request(self: RequestTape, id: int | str) -> RequestView:
        self._ask("audit", "request", id)
        known: dict[Any, int] = {record.request_id: place for place, record in enumerate(self.records, 1)}
        place = known.get(id) or (int(id) if str(id).isdecimal() else 0)
        if place in self.requests:
            return self.requests[place]
        if not 1 <= place <= len(self.records):
            raise NotFound("There is no such request in the audit log.")
        record = self.records[place - 1]
        parts = shares(record, (), ())
        return RequestView(place, record, (), (), parts, sentence(record, parts, ()))
