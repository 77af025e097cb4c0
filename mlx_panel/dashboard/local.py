"""The source of components that live in the server's own process."""

from __future__ import annotations

from typing import Any, Protocol

from ..audit.reader import AuditReader
from ..messages import AuditPage, Limit
from ..pool.pool import ModelPool
from ..sampler import Sampler
from ..settings import Settings
from .source import Unsubscribe, Watcher


class Server(Protocol):
    """The Runtime, as far as a dashboard needs it."""

    settings: Settings
    pool: ModelPool
    reader: AuditReader
    sampler: Sampler

    async def set_timeouts(self, values: dict[str, Any]) -> list[Limit]: ...
    async def reset_timeouts(self) -> list[Limit]: ...
    async def system(self) -> dict[str, Any]: ...


class Local:
    """A `Source` on the server's loop."""

    def __init__(self, server: Server):
        self._server = server

    def __repr__(self) -> str:
        return f"<Local {self._server!r}>"

    def subscribe(self, watcher: Watcher) -> Unsubscribe:
        return self._server.sampler.subscribe(watcher)

    async def load(self, model: str) -> None:
        await self._server.pool.load(model)

    async def unload(self, model: str) -> None:
        await self._server.pool.unload(model)

    async def timeouts(self) -> list[Limit]:
        return self._server.settings.timeouts()

    async def set_timeouts(self, values: dict[str, float]) -> list[Limit]:
        return await self._server.set_timeouts(values)

    async def reset_timeouts(self) -> list[Limit]:
        return await self._server.reset_timeouts()

    async def audit_page(
        self,
        *,
        limit: int = 50,
        offset: int = 0,
        status: str | None = None,
        model: str | None = None,
        scope: str = "model",
    ) -> AuditPage:
        return await self._server.reader.page(
            limit=limit, offset=offset, status=status, model=model, scope=scope
        )

    async def system(self) -> dict[str, Any]:
        return await self._server.system()
