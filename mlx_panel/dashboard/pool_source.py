"""A source's model pool: which models stay in memory, and the limits they share."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from ..errors import InvalidParameter
from ..pool.pool import ModelPool
from ..settings import Settings
from ..snapshot import Snapshot
from ..tuning import Option

Answer = TypeVar("Answer")
SETTINGS = "/api/settings/pool"


class PoolSource(Protocol):
    """The part of a `Source` that is about the pool. What the pool holds is in the snapshots."""

    async def pin(self, model: str, pinned: bool) -> None:
        """Keep a model in memory whatever else is asked for, or no longer."""
        ...

    async def pool_options(self) -> list[Option]:
        """The pool's settings."""
        ...

    async def set_pool_options(self, values: dict[str, Any]) -> list[Option]:
        """Set and persist some of them; None takes a live value back. They hold at once."""
        ...

    async def reset_pool_options(self) -> list[Option]:
        """Forget the live values; what file, environment or command line say holds again."""
        ...


# --- on the server's loop ---------------------------------------------------------------------------------


class PoolServer(Protocol):
    """The Runtime, as far as the pool goes."""

    settings: Settings
    pool: ModelPool

    async def set_pool_options(self, values: dict[str, Any]) -> None: ...
    async def reset_pool_options(self) -> None: ...


class LocalPool:
    """`PoolSource` on the server's loop."""

    _server: PoolServer

    async def pin(self, model: str, pinned: bool) -> None:
        await self._server.pool.pin(model, pinned)

    async def pool_options(self) -> list[Option]:
        return self._server.settings.pool_options()

    async def set_pool_options(self, values: dict[str, Any]) -> list[Option]:
        await self._server.set_pool_options(values)
        return self._server.settings.pool_options()

    async def reset_pool_options(self) -> list[Option]:
        await self._server.reset_pool_options()
        return self._server.settings.pool_options()


# --- over HTTP --------------------------------------------------------------------------------------------


class Asks(Protocol):
    """What asks the server: see `Remote.answer`."""

    async def answer(self, kind: type[Answer], method: str, path: str, **content: Any) -> Answer: ...


class PoolOptions(msgspec.Struct, frozen=True):
    """What the server answers about the pool's settings."""

    options: list[Option]


class RemotePool:
    """`PoolSource` over HTTP."""

    async def pin(self: Asks, model: str, pinned: bool) -> None:
        path = f"/v1/admin/models/pin/{quote(model, safe='')}"
        await self.answer(dict[str, Any], "POST", path, json={"pinned": pinned})

    async def pool_options(self: Asks) -> list[Option]:
        return (await self.answer(PoolOptions, "GET", SETTINGS)).options

    async def set_pool_options(self: Asks, values: dict[str, Any]) -> list[Option]:
        return (await self.answer(PoolOptions, "PUT", SETTINGS, json=values)).options

    async def reset_pool_options(self: Asks) -> list[Option]:
        return (await self.answer(PoolOptions, "DELETE", SETTINGS)).options


# --- without a server -------------------------------------------------------------------------------------


class Tape(Protocol):
    """What a part of `Recorded` uses of the whole."""

    snapshot: Snapshot

    def put(self, snapshot: Snapshot) -> None: ...
    def _ask(self, what: str, *arguments: Any) -> None: ...


class PoolTape(Tape, Protocol):
    """`Tape` with the pool's settings; "pool" in its `faults` is raised instead of an answer."""

    pool_settings: list[Option]


class RecordedPool:
    """`PoolSource` without a server."""

    async def pin(self: Tape, model: str, pinned: bool) -> None:
        self._ask("pin", model, pinned)
        models = tuple(
            msgspec.structs.replace(one, pinned=pinned) if one.id == model else one
            for one in self.snapshot.models
        )
        self.put(msgspec.structs.replace(self.snapshot, models=models))

    async def pool_options(self: PoolTape) -> list[Option]:
        self._ask("pool")
        return list(self.pool_settings)

    async def set_pool_options(self: PoolTape, values: dict[str, Any]) -> list[Option]:
        self._ask("pool", values)
        for option in self.pool_settings:
            check(option, values.get(option.name))
        self.pool_settings = [changed(option, values) for option in self.pool_settings]
        return list(self.pool_settings)

    async def reset_pool_options(self: PoolTape) -> list[Option]:
        self._ask("pool", {})
        nothing = {option.name: None for option in self.pool_settings}
        self.pool_settings = [changed(option, nothing) for option in self.pool_settings]
        return list(self.pool_settings)


def check(option: Option, value: Any) -> None:
    """Raises InvalidParameter where a number is out of an option's bounds."""
    low, high = option.minimum, option.maximum
    bounded = low is not None and high is not None and isinstance(value, int | float)
    if bounded and not low <= value <= high:
        raise InvalidParameter(f"{option.name} must be from {low:g} to {high:g}.", field=option.name)


def changed(option: Option, values: dict[str, Any]) -> Option:
    """An option after some were set live; None takes a live value back."""
    if option.name not in values:
        return option
    value = values[option.name]
    if value is None:
        return msgspec.structs.replace(option, value=option.default, source="default")
    return msgspec.structs.replace(option, value=value, source="live")
