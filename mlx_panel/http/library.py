"""The models on this machine over HTTP: what there is, what it can do, and the jobs on it."""

from __future__ import annotations

import msgspec

from ..errors import InvalidParameter
from ..library import ConvertOrder, ImportOrder, ModelOrder, Task
from . import decode as bodies
from .endpoint import Endpoint
from .sse import followed, frame

NOTHING_MORE = bodies.Vocabulary()
TRUTH = {"true": True, "1": True, "false": False, "0": False}


class LocalModels(Endpoint):
    """Every model on this machine, those too of which files are missing."""

    route = "/api/models/local"

    async def answer(self, *path: str) -> None:
        self.reply({"models": await self.house.library.local()})


class LocalOne(Endpoint):
    """One of them, and its end: `?force=true` also where a preset, an alias or a setting names it."""

    verbs = ("GET", "DELETE")
    route = "/api/models/local/{id}"

    async def answer(self, *path: str) -> None:
        if self.request.method != "DELETE":
            return self.reply(await self.house.library.show(path[0]))
        freed = await self.house.library.delete(path[0], force=self._force())
        self.reply({"status": "deleted", "model": path[0], "freed": freed})

    def _force(self) -> bool:
        given = self.get_query_argument("force", "false")
        if given not in TRUTH:
            raise InvalidParameter("'force' must be true or false.", field="force")
        return TRUTH[given]


class ModelCapabilities(Endpoint):
    """What a model can do, by its files, or by its probe once it had one."""

    route = "/api/models/capabilities/{id}"

    async def answer(self, *path: str) -> None:
        self.reply(await self.house.library.capabilities(path[0]))


class NewTask(Endpoint):
    """A job begins; the answer comes at once."""

    verbs = ("POST",)
    works = True

    async def answer(self, *path: str) -> None:
        self.reply(await self.begin(), status=202)

    async def begin(self) -> Task:
        raise NotImplementedError

    def model(self) -> str:
        """The model that the body names."""
        order, _ = bodies.take(bodies.load(self.body), ModelOrder, NOTHING_MORE, refuse_unknown=True)
        return order.model


class Verify(NewTask):
    route = "/api/models/verify"

    async def begin(self) -> Task:
        return await self.house.library.verify(self.model())


class Probe(NewTask):
    route = "/api/models/probe"

    async def begin(self) -> Task:
        return await self.house.library.probe(self.model())


class Convert(NewTask):
    route = "/api/models/convert"

    async def begin(self) -> Task:
        order, _ = bodies.take(bodies.load(self.body), ConvertOrder, NOTHING_MORE, refuse_unknown=True)
        return await self.house.library.convert(order)


class Import(NewTask):
    route = "/api/models/import"

    async def begin(self) -> Task:
        order, _ = bodies.take(bodies.load(self.body), ImportOrder, NOTHING_MORE, refuse_unknown=True)
        return await self.house.library.import_gguf(order)


class AllTasks(Endpoint):
    """The jobs of this run of the server, oldest first."""

    route = "/api/models/tasks"

    async def answer(self, *path: str) -> None:
        self.reply({"tasks": self.house.library.tasks()})


class OneTask(Endpoint):
    """A job; DELETE ends it, and strikes one that is over from the list."""

    verbs = ("GET", "DELETE")
    route = "/api/models/tasks/{id}"

    async def answer(self, *path: str) -> None:
        jobs = self.house.library.jobs
        task = jobs.get(path[0])
        if self.request.method == "DELETE":
            task = await (jobs.cancel(task.id) if task.ended is None else jobs.forget(task.id))
        self.reply(task)


class TaskProgress(Endpoint):
    """Server-sent events: the job as it is, then at each change; the stream ends with its last state."""

    route = "/api/models/tasks/{id}/progress"

    async def answer(self, *path: str) -> None:
        task = self.house.library.jobs.get(path[0])
        if self.request.method == "HEAD":
            return self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        out = self.open_stream()
        self.ledger.stream = True
        async for news in followed(self.house.library.watch(task.id), out):
            await out.send(frame(msgspec.json.encode(news)))


routes = [
    (LocalModels.route, LocalModels),
    (r"/api/models/local/(.+)", LocalOne),
    (r"/api/models/capabilities/(.+)", ModelCapabilities),
    (Verify.route, Verify),
    (Probe.route, Probe),
    (Convert.route, Convert),
    (Import.route, Import),
    (AllTasks.route, AllTasks),
    (r"/api/models/tasks/([^/]+)/progress", TaskProgress),
    (r"/api/models/tasks/([^/]+)", OneTask),
]
