"""The source of components that live in the server's own process."""

from __future__ import annotations

from typing import Any, Protocol

from ..audit.reader import AuditReader
from ..audit.sql import SqlConsole
from ..bench import Result
from ..benches import Benches
from ..cache_log import CacheLog
from ..hub.api import Hub
from ..hub.downloads import Downloads
from ..hub.library import Library
from ..job import Job, Order, Shelved
from ..messages import Limit
from ..parse.volatile import RULES
from ..pool.pool import ModelPool
from ..prove.prover import Prover
from ..sampler import Sampler
from ..settings import Settings
from ..tuning import CacheRecord
from .audit_settings_source import AuditKeeper, LocalAuditSettings
from .audit_source import LocalAudit
from .library_source import LocalLibrary
from .pool_source import LocalPool
from .preset_source import LocalPresets
from .proof_source import LocalProof
from .request_source import LocalRequests
from .source import EngineState, RuleState, Unsubscribe, Watcher
from .sql_source import LocalSql


class Server(AuditKeeper, Protocol):
    """The Runtime, as far as a dashboard needs it."""

    settings: Settings
    pool: ModelPool
    reader: AuditReader
    sampler: Sampler
    cache_log: CacheLog
    benches: Benches
    prover: Prover
    console: SqlConsole
    hub: Hub
    downloads: Downloads
    library: Library

    async def set_timeouts(self, values: dict[str, Any]) -> list[Limit]: ...
    async def reset_timeouts(self) -> list[Limit]: ...
    async def set_options(self, values: dict[str, Any], model: str = "") -> None: ...
    async def reset_options(self, model: str = "") -> None: ...
    async def set_pool_options(self, values: dict[str, Any]) -> None: ...
    async def reset_pool_options(self) -> None: ...
    async def set_hub(self, values: dict[str, Any]) -> None: ...
    async def forget(self, model: str) -> None: ...
    async def system(self) -> dict[str, Any]: ...


class Local(
    LocalAudit, LocalAuditSettings, LocalLibrary, LocalPool, LocalPresets, LocalProof, LocalRequests, LocalSql
):
    """A `Source` on the server's loop."""

    _server: Server

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

    async def system(self) -> dict[str, Any]:
        return await self._server.system()

    async def engine(self, model: str = "") -> EngineState:
        if model:
            await self._server.pool.find(model)
        settings = self._server.settings
        return EngineState(settings.options(model), settings.model_options)

    async def set_engine(self, values: dict[str, Any], model: str = "") -> EngineState:
        await self._server.set_options(values, model)
        return await self.engine(model)

    async def reset_engine(self, model: str = "") -> EngineState:
        await self._server.reset_options(model)
        return await self.engine(model)

    async def cache_records(self) -> list[CacheRecord]:
        return self._server.cache_log.latest()

    async def cache_rules(self) -> list[RuleState]:
        enabled, counts = self._server.settings.strip_rules, self._server.cache_log.stripped
        return [
            RuleState(rule.name, rule.description, rule.name in enabled, counts[rule.name]) for rule in RULES
        ]

    async def clear_cache(self, model: str) -> None:
        await self._server.forget(model)

    async def benchmark_job(self) -> Job | None:
        return self._server.benches.job

    async def start_benchmark(self, order: Order) -> Job:
        return await self._server.benches.start(order)

    async def cancel_benchmark(self) -> Job:
        return await self._server.benches.cancel()

    async def benchmarks(self) -> Shelved:
        return await self._server.benches.stored()

    async def benchmark(self, id: str) -> Result:
        return await self._server.benches.result(id)

    async def delete_benchmark(self, id: str) -> None:
        await self._server.benches.delete(id)
