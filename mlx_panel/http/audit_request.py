"""One request of the audit log: its row, its timeline, and what it shared with others."""

from __future__ import annotations

from functools import partial

from ..audit import requests
from .audit_query import AuditQuery
from .endpoint import Endpoint


class AuditRequest(Endpoint):
    """The request of a number in the log, or of a request id: the newest where a caller used one more than once."""

    route = "/v1/admin/audit-logs/{id}"

    async def answer(self, *path: str) -> None:
        AuditQuery(self).done()
        self.reply(await self.house.reader.ask(partial(requests.named, name=path[0])))


routes = [(r"/v1/admin/audit-logs/([A-Za-z0-9_.:\-]{1,64})", AuditRequest)]
