"""Benchmarks of this server over HTTP: the one that runs, and the results that are stored."""

from __future__ import annotations

from ..job import Order
from . import decode as bodies
from .endpoint import Endpoint

NOTHING_MORE = bodies.Vocabulary()


class Benchmarks(Endpoint):
    """The stored results in one line each, newest first, and a start; a second one is refused while the first runs."""

    verbs = ("GET", "POST")
    route = "/v1/admin/benchmarks"

    async def answer(self, *path: str) -> None:
        if self.request.method == "POST":
            order, _ = bodies.take(bodies.load(self.body), Order, NOTHING_MORE, refuse_unknown=True)
            return self.reply(await self.house.benches.start(order), status=202)
        found = await self.house.benches.stored()
        self.reply({"benchmarks": found.benchmarks, "skipped": found.skipped})


class CurrentBenchmark(Endpoint):
    """The one that runs, or the last one that did, null before the first; its end."""

    verbs = ("GET", "DELETE")
    route = "/v1/admin/benchmarks/current"

    async def answer(self, *path: str) -> None:
        if self.request.method == "DELETE":
            self.reply({"current": await self.house.benches.cancel()})
        else:
            self.reply({"current": self.house.benches.job})


class Benchmark(Endpoint):
    """A stored result with every request, and its end."""

    verbs = ("GET", "DELETE")
    route = "/v1/admin/benchmarks/{id}"

    async def answer(self, *path: str) -> None:
        if self.request.method == "DELETE":
            await self.house.benches.delete(path[0])
            self.reply({"status": "deleted", "id": path[0]})
        else:
            self.reply(await self.house.benches.result(path[0]))


routes = [
    (Benchmarks.route, Benchmarks),
    (CurrentBenchmark.route, CurrentBenchmark),
    (r"/v1/admin/benchmarks/([^/]+)", Benchmark),
]
