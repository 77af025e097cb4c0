"""`GET /v1/models` and `GET /v1/models/{id}`: every model on this machine; each loads when it is asked for."""

from __future__ import annotations

from typing import Any

from ..messages import LocalModel
from ..pool.names import Named
from .endpoint import Endpoint


def model(local: LocalModel) -> dict[str, Any]:
    """OpenAI's `Model`; `owned_by` is the hub author where the name has one."""
    author, _, _ = local.id.rpartition("/")
    return {"id": local.id, "object": "model", "created": local.created, "owned_by": author or "local"}


def named(name: str, found: Named) -> dict[str, Any]:
    """The same for any name that requests may use; a preset and a rule are owned by what they are."""
    owner = "alias" if found.alias is not None else "preset" if found.preset is not None else None
    said = model(found.model) | {"id": name}
    return said if owner is None else said | {"owned_by": owner}


class Models(Endpoint):
    """The models, then the presets that have one."""

    route = "/v1/models"

    async def answer(self, *path: str) -> None:
        models = await self.house.pool.catalog()
        presets = await self.house.names.there()
        data = [model(local) for local in models]
        data += [named(preset.name, Named(local, preset)) for preset, local in presets]
        self.reply({"object": "list", "data": data})


class Model(Endpoint):
    route = "/v1/models/{id}"

    async def answer(self, *path: str) -> None:
        self.reply(named(path[0], await self.house.names.find(path[0])))


routes = [(Models.route, Models), (r"/v1/models/(.+)", Model)]
