"""The audit log's own affairs over HTTP: its settings, and what its file takes."""

from __future__ import annotations

from . import decode as bodies
from .endpoint import Endpoint


class AuditOptions(Endpoint):
    """The audit log's settings: read, changed (`{name: value}`, null takes a change back), or reset."""

    verbs = ("GET", "PUT", "DELETE")
    route = "/api/settings/audit"

    async def answer(self, *path: str) -> None:
        if self.request.method == "PUT":
            await self.house.set_audit_options(bodies.load(self.body))
        elif self.request.method == "DELETE":
            await self.house.reset_audit_options()
        self.reply({"options": self.house.settings.audit_options()})


class AuditStorage(Endpoint):
    """What the log's file holds and takes, what waits to be written, and what retention did last."""

    route = "/api/audit/storage"

    async def answer(self, *path: str) -> None:
        self.reply(await self.house.audit_storage())


routes = [(AuditOptions.route, AuditOptions), (AuditStorage.route, AuditStorage)]
