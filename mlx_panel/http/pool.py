"""The pool over HTTP: pins, how far a load is, and the settings that decide who is in memory."""

from __future__ import annotations

from typing import Annotated

import msgspec

from . import decode as bodies
from .endpoint import Endpoint
from .sse import followed, frame

NOTHING_MORE = bodies.Vocabulary()


class Pinned(msgspec.Struct, frozen=True):
    pinned: Annotated[bool, msgspec.Meta(description="whether it stays in memory")]


class PinModel(Endpoint):
    """Keep a model in memory once it is there, or let it go again."""

    verbs = ("POST",)
    route = "/v1/admin/models/pin/{id}"

    async def answer(self, *path: str) -> None:
        wanted, _ = bodies.take(bodies.load(self.body), Pinned, NOTHING_MORE, refuse_unknown=True)
        await self.house.pool.pin(path[0], wanted.pinned)
        self.reply({"status": "pinned" if wanted.pinned else "unpinned", "model": path[0]})


class LoadingProgress(Endpoint):
    """Server-sent events: how far a model's load is, each time that changes; ends with "ready" or "failed".

    Where nobody has asked for the model yet, it waits for that.
    """

    route = "/v1/admin/models/{id}/loading-progress"

    async def answer(self, *path: str) -> None:
        await self.house.pool.find(path[0])
        if self.request.method == "HEAD":
            return self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        self.ledger.stream = True
        out = self.open_stream()
        await out.send(b": watching\n\n")
        async for progress in followed(self.house.pool.watch_load(path[0]), out):
            await out.send(
                b"event: " + progress.stage.encode() + b"\n" + frame(msgspec.json.encode(progress))
            )


class PoolOptions(Endpoint):
    """The pool's settings: read, changed (`{name: value}`, null takes a change back), or reset."""

    verbs = ("GET", "PUT", "DELETE")
    route = "/api/settings/pool"

    async def answer(self, *path: str) -> None:
        if self.request.method == "PUT":
            await self.house.set_pool_options(bodies.load(self.body))
        elif self.request.method == "DELETE":
            await self.house.reset_pool_options()
        self.reply({"options": self.house.settings.pool_options()})


routes = [
    (r"/v1/admin/models/pin/(.+)", PinModel),
    (r"/v1/admin/models/(.+)/loading-progress", LoadingProgress),
    (PoolOptions.route, PoolOptions),
]
