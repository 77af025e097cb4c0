"""`GET /v1/models` and `GET /v1/models/{id}`: every model on this machine; each loads when it is asked for."""

from __future__ import annotations

from typing import Any

from ..messages import LocalModel
from .endpoint import Endpoint


def model(local: LocalModel) -> dict[str, Any]:
    """OpenAI's `Model`; `owned_by` is the hub author where the name has one."""
    author, _, _ = local.id.rpartition("/")
    return {"id": local.id, "object": "model", "created": local.created, "owned_by": author or "local"}


class Models(Endpoint):
    route = "/v1/models"

    async def answer(self, *path: str) -> None:
        models = await self.house.pool.catalog()
        self.reply({"object": "list", "data": [model(local) for local in models]})


class Model(Endpoint):
    route = "/v1/models/{id}"

    async def answer(self, *path: str) -> None:
        self.reply(model(await self.house.pool.find(path[0])))


routes = [(Models.route, Models), (r"/v1/models/(.+)", Model)]
