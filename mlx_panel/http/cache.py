"""The prefix cache over HTTP: its figures, what it did for a request, and how to empty it. Nothing here holds text."""

from __future__ import annotations

from ..errors import NotFound
from ..parse.volatile import RULES
from .endpoint import Endpoint


class Caches(Endpoint):
    """Each running model's figures, and the latest requests' reports, newest first."""

    route = "/v1/admin/cache"

    async def answer(self, *path: str) -> None:
        figures = {worker.model.id: worker.beat.cache for worker in self.house.pool.workers}
        self.reply({"models": figures, "requests": self.house.cache_log.latest()})


class CachedRequest(Endpoint):
    """What the cache did for one request, by its `X-Request-ID`, with a sentence about it."""

    route = "/v1/admin/cache/requests/{request_id}"

    async def answer(self, *path: str) -> None:
        record = self.house.cache_log.find(path[0])
        if record is None:
            raise NotFound("No report is kept of a request with that id; the last 256 are.")
        self.reply(record)


class Rules(Endpoint):
    """The rules for lines that change at each turn; the setting `strip_rules` names those that are on."""

    route = "/v1/admin/cache/rules"

    async def answer(self, *path: str) -> None:
        enabled, counts = self.house.settings.strip_rules, self.house.cache_log.stripped
        rules = [
            {
                "name": rule.name, "description": rule.description, "roles": sorted(rule.roles),
                "enabled": rule.name in enabled, "stripped": counts[rule.name],
            }
            for rule in RULES
        ]  # fmt: skip
        self.reply({"rules": rules})


class ModelCache(Endpoint):
    """Emptying it, memory and disk, whether the model is loaded or not."""

    verbs = ("DELETE",)
    route = "/v1/admin/cache/{model}"

    async def answer(self, *path: str) -> None:
        await self.house.forget(path[0])
        self.reply({"status": "emptied", "model": path[0]})


routes = [
    (Caches.route, Caches),
    (r"/v1/admin/cache/requests/([^/]+)", CachedRequest),
    (Rules.route, Rules),
    (r"/v1/admin/cache/(.+)", ModelCache),
]
