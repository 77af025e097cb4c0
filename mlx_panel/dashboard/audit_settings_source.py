"""A source's audit log as a thing to look after: what its file takes, and the settings that decide it."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import msgspec

from ..audit.storage import Contents, Storage
from ..settings import Settings
from ..tuning import Option
from .pool_source import Asks, changed, check

SETTINGS = "/api/settings/audit"
STORAGE = "/api/audit/storage"
Answer = TypeVar("Answer")


class AuditSettingsSource(Protocol):
    """The part of a `Source` that is about the log's file and settings."""

    async def audit_storage(self) -> Storage:
        """What the log's file holds and takes, what waits to be written, and what retention did last."""
        ...

    async def audit_options(self) -> list[Option]:
        """The audit log's settings."""
        ...

    async def set_audit_options(self, values: dict[str, Any]) -> list[Option]:
        """Set and persist some of them; None takes a live value back. They hold at once."""
        ...

    async def reset_audit_options(self) -> list[Option]:
        """Forget the live values; what file, environment or command line say holds again."""
        ...


class AuditKeeper(Protocol):
    """The Runtime, as far as the log's file goes."""

    settings: Settings

    async def audit_storage(self) -> Storage: ...
    async def set_audit_options(self, values: dict[str, Any]) -> None: ...
    async def reset_audit_options(self) -> None: ...


class LocalAuditSettings:
    """`AuditSettingsSource` on the server's loop."""

    _server: AuditKeeper

    async def audit_storage(self) -> Storage:
        return await self._server.audit_storage()

    async def audit_options(self) -> list[Option]:
        return self._server.settings.audit_options()

    async def set_audit_options(self, values: dict[str, Any]) -> list[Option]:
        await self._server.set_audit_options(values)
        return self._server.settings.audit_options()

    async def reset_audit_options(self) -> list[Option]:
        await self._server.reset_audit_options()
        return self._server.settings.audit_options()


class AuditOptions(msgspec.Struct, frozen=True):
    """What the server answers about the log's settings."""

    options: list[Option]


class RemoteAuditSettings:
    """`AuditSettingsSource` over HTTP."""

    async def audit_storage(self: Asks) -> Storage:
        return await self.answer(Storage, "GET", STORAGE)

    async def audit_options(self: Asks) -> list[Option]:
        return (await self.answer(AuditOptions, "GET", SETTINGS)).options

    async def set_audit_options(self: Asks, values: dict[str, Any]) -> list[Option]:
        return (await self.answer(AuditOptions, "PUT", SETTINGS, json=values)).options

    async def reset_audit_options(self: Asks) -> list[Option]:
        return (await self.answer(AuditOptions, "DELETE", SETTINGS)).options


class AuditTape(Protocol):
    """What `RecordedAuditSettings` uses of the whole; "audit settings" in its `faults` is raised instead of an answer."""

    audit_settings: list[Option]
    storage: Storage

    def _ask(self, what: str, *arguments: Any) -> None: ...


class RecordedAuditSettings:
    """`AuditSettingsSource` without a server; whoever tries components puts `audit_settings` and `storage` there."""

    audit_settings: list[Option] = []
    storage = Storage("audit.duckdb", Contents())

    async def audit_storage(self: AuditTape) -> Storage:
        self._ask("audit settings")
        return self.storage

    async def audit_options(self: AuditTape) -> list[Option]:
        self._ask("audit settings")
        return list(self.audit_settings)

    async def set_audit_options(self: AuditTape, values: dict[str, Any]) -> list[Option]:
        self._ask("audit settings", values)
        for option in self.audit_settings:
            check(option, values.get(option.name))
        self.audit_settings = [changed(option, values) for option in self.audit_settings]
        return list(self.audit_settings)

    async def reset_audit_options(self: AuditTape) -> list[Option]:
        self._ask("audit settings", {})
        nothing = {option.name: None for option in self.audit_settings}
        self.audit_settings = [changed(option, nothing) for option in self.audit_settings]
        return list(self.audit_settings)
