"""Models in memory, settings and the system: what the dashboard does, over HTTP."""

from __future__ import annotations

import msgspec

from ..messages import Limit
from . import decode as bodies
from .endpoint import Endpoint
from .sse import frame


class ModelsStatus(Endpoint):
    """Every model as it is now, and the pool in numbers."""

    route = "/v1/admin/models/status"

    async def answer(self, *path: str) -> None:
        models = await self.house.models()
        self.reply({"models": models, "pool": self.house.pool.figures()})


class LoadModel(Endpoint):
    verbs = ("POST",)
    route = "/v1/admin/models/load/{id}"
    works = True

    async def answer(self, *path: str) -> None:
        await self.house.pool.load(path[0])
        self.reply({"status": "loaded", "model": path[0]})


class UnloadModel(Endpoint):
    verbs = ("POST",)
    route = "/v1/admin/models/unload/{id}"

    async def answer(self, *path: str) -> None:
        await self.house.pool.unload(path[0])
        self.reply({"status": "unloaded", "model": path[0]})


class Timeouts(Endpoint):
    """The endpoint limits: read, changed (`{name: seconds}`), or reset."""

    verbs = ("GET", "PUT", "DELETE")
    route = "/api/settings/timeouts"

    async def answer(self, *path: str) -> None:
        if self.request.method == "PUT":
            self._say(await self.house.set_timeouts(bodies.load(self.body)))
        elif self.request.method == "DELETE":
            self._say(await self.house.reset_timeouts())
        else:
            self._say(self.house.settings.timeouts())

    def _say(self, limits: list[Limit]) -> None:
        self.reply({"timeouts": limits})


class Options(Endpoint):
    """The engine's settings for every model: read, changed (`{name: value}`, null takes a change back), or reset."""

    verbs = ("GET", "PUT", "DELETE")
    route = "/api/settings/engine"

    async def answer(self, *path: str) -> None:
        model = path[0] if path else ""
        if self.request.method == "PUT":
            await self.house.set_options(bodies.load(self.body), model)
        elif self.request.method == "DELETE":
            await self.house.reset_options(model)
        elif model:
            await self.house.pool.find(model)
        self._say(model)

    def _say(self, model: str) -> None:
        """The options, the models that have some of their own, those whose presets decide some before all settings, and
        what waits for which running model's next load."""
        settings, workers, presets = self.house.settings, self.house.pool.workers, self.house.presets
        models = settings.model_options
        decided = {preset.model: presets.engine_of(preset.model) for preset in presets.all()}
        self.reply(
            {
                "options": settings.options(model),
                "models": {name: own for name, own in models.items() if model in ("", name)},
                "presets": {name: own for name, own in decided.items() if own and model in ("", name)},
                "pending": {
                    worker.model.id: worker.pending
                    for worker in workers
                    if worker.pending and model in ("", worker.model.id)
                },
            }
        )


class ModelOptions(Options):
    """The same for one model, which then has values of its own."""

    route = "/api/settings/engine/{model}"


class System(Endpoint):
    route = "/api/system"

    async def answer(self, *path: str) -> None:
        self.reply(await self.house.system())


class Live(Endpoint):
    """Server-sent events: the history and a snapshot first, then a snapshot a second."""

    route = "/api/live"

    async def answer(self, *path: str) -> None:
        if self.request.method == "HEAD":
            return self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        out = self.open_stream()
        self.ledger.stream = True
        async for snapshot, history in self.house.watch():
            await out.send(frame(msgspec.json.encode({"now": snapshot, "history": history})))


routes = [
    (ModelsStatus.route, ModelsStatus),
    (r"/v1/admin/models/load/(.+)", LoadModel),
    (r"/v1/admin/models/unload/(.+)", UnloadModel),
    (Timeouts.route, Timeouts),
    (Options.route, Options),
    (r"/api/settings/engine/(.+)", ModelOptions),
    (System.route, System),
    (Live.route, Live),
]
