"""What the handlers need of the server: given to them, never fetched."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar, Protocol

from ..audit.export import Exports
from ..audit.feed import AuditFeed
from ..audit.reader import AuditReader
from ..audit.sql import SqlConsole
from ..audit.storage import Storage
from ..audit.store import AuditStore
from ..benches import Benches
from ..cache_log import CacheLog
from ..errors import MlxPanelError
from ..hub.api import Hub
from ..hub.downloads import Downloads
from ..hub.library import Library
from ..messages import Limit
from ..meter import Meter
from ..pool.names import Names
from ..pool.pool import ModelPool
from ..pool.servers import Servers
from ..presets import Presets
from ..prove.prover import Prover
from ..settings import Settings
from ..snapshot import ModelState, Sample, Snapshot


class House(Protocol):
    """The Runtime as the HTTP side sees it."""

    settings: Settings
    pool: ModelPool
    presets: Presets
    names: Names
    servers: Servers
    audit: AuditStore
    reader: AuditReader
    feed: AuditFeed
    exports: Exports
    console: SqlConsole
    prover: Prover
    meter: Meter
    cache_log: CacheLog
    benches: Benches
    hub: Hub
    downloads: Downloads
    library: Library
    draining: bool

    @property
    def block_key(self) -> bytes: ...
    def watch(self) -> AsyncIterator[tuple[Snapshot, list[Sample] | None]]: ...
    async def models(self) -> list[ModelState]: ...
    async def system(self) -> dict[str, Any]: ...
    async def set_timeouts(self, values: dict[str, Any]) -> list[Limit]: ...
    async def reset_timeouts(self) -> list[Limit]: ...
    async def set_options(self, values: dict[str, Any], model: str = "") -> None: ...
    async def reset_options(self, model: str = "") -> None: ...
    async def set_hub(self, values: dict[str, Any]) -> None: ...
    async def set_pool_options(self, values: dict[str, Any]) -> None: ...
    async def reset_pool_options(self) -> None: ...
    async def set_audit_options(self, values: dict[str, Any]) -> None: ...
    async def reset_audit_options(self) -> None: ...
    async def audit_storage(self) -> Storage: ...
    async def forget(self, model: str) -> None: ...
    def enter(self, visitor: Visitor) -> None: ...
    def leave(self, visitor: Visitor) -> None: ...


class Visitor(Protocol):
    """A request under way; `works` says whether a drain waits for it."""

    works: ClassVar[bool]

    def interrupt(self, error: MlxPanelError) -> None: ...


FindHouse = Callable[[], Awaitable[Any]]  # of a House
