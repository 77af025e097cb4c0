"""The hub over HTTP: looking for models, what one of them is, and the token that opens gated ones."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ..errors import InvalidParameter
from ..library import HubQuery
from . import decode as bodies
from .endpoint import Endpoint

NOTHING_MORE = bodies.Vocabulary()


class HubBody(msgspec.Struct, frozen=True):
    """What is to change: the token, whether the hub is asked at all (null: as the settings below say), or both."""

    token: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | msgspec.UnsetType = msgspec.UNSET
    offline: bool | msgspec.UnsetType | None = msgspec.UNSET


class HubSearch(Endpoint):
    """Models for MLX on the hub, a page at a time; those of this machine where the hub cannot be asked."""

    route = "/api/models/search"

    async def answer(self, *path: str) -> None:
        given = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        unknown = bodies.printable(set(given) - set(HubQuery.__struct_fields__))
        if unknown:
            raise InvalidParameter(f"There is no filter '{unknown[0]}'.", field=unknown[0])
        asked = {name: text for name, text in given.items() if text}
        self.reply(await self.house.hub.search(bodies.convert(asked, HubQuery, strict=False)))


class HubModelDetails(Endpoint):
    """One model on the hub with its files, config and README; `revision` names another than main."""

    route = "/api/models/hub/{id}"

    async def answer(self, *path: str) -> None:
        revision = self.get_query_argument("revision", "") or "main"
        self.reply(await self.house.hub.details(path[0], revision))


class HubSettings(Endpoint):
    """How this server stands to the hub. PUT takes `token` and `offline`; DELETE removes the token, which is never told."""

    verbs = ("GET", "PUT", "DELETE")
    route = "/api/settings/huggingface"

    async def answer(self, *path: str) -> None:
        hub = self.house.hub
        if self.request.method == "PUT":
            body, _ = bodies.take(bodies.load(self.body), HubBody, NOTHING_MORE, refuse_unknown=True)
            if body.token is not msgspec.UNSET:
                await hub.set_token(body.token)
            if body.offline is not msgspec.UNSET:
                await self.house.set_hub({"hub_offline": body.offline})
        elif self.request.method == "DELETE":
            await hub.clear_token()
        self.reply(await hub.state())


class HubTest(Endpoint):
    """Whether the hub takes the token, and whose it is."""

    verbs = ("POST",)
    route = "/api/settings/huggingface/test"

    async def answer(self, *path: str) -> None:
        self.reply({"user": await self.house.hub.test()})


routes = [
    (HubSearch.route, HubSearch),
    (r"/api/models/hub/(.+)", HubModelDetails),
    (HubSettings.route, HubSettings),
    (HubTest.route, HubTest),
]
