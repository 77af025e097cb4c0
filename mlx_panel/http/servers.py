"""Presets as servers: what runs, started, stopped and asked for its health by the preset's name."""

from __future__ import annotations

from ..errors import InvalidParameter
from ..preset import PresetServer
from .decode import printable
from .endpoint import Endpoint

WORDS = {"true": True, "false": False}


class ServerList(Endpoint):
    route = "/api/servers"

    async def answer(self, *path: str) -> None:
        self.reply({"servers": await self.house.servers.all()})


class Switched(Endpoint):
    """An endpoint with one switch in its query."""

    switch = ""

    def on(self, default: bool) -> bool:
        """Raises InvalidParameter for anything but true and false, and for any other switch."""
        unknown = printable(set(self.request.query_arguments) - {self.switch})
        if unknown:
            raise InvalidParameter(f"There is no switch '{unknown[0]}'.", field=unknown[0])
        given = self.get_query_argument(self.switch, str(default).lower())
        if given not in WORDS:
            raise InvalidParameter(f"'{self.switch}' is true or false.", field=self.switch)
        return WORDS[given]


class StartServer(Switched):
    """Load: answers when the model is ready, or at once with `?wait=false`."""

    verbs = ("POST",)
    route = "/api/servers/{preset}/start"
    works = True
    switch = "wait"

    async def answer(self, *path: str) -> None:
        server = await self.house.servers.start(path[0], wait=self.on(True))
        self.reply(server, status=200 if server.state == "ready" else 202)


class StopServer(Switched):
    """Unload; with `?force=true` also while requests run that came by another name."""

    verbs = ("POST",)
    route = "/api/servers/{preset}/stop"
    switch = "force"

    async def answer(self, *path: str) -> None:
        self.reply(await self.house.servers.stop(path[0], force=self.on(False)))


class RestartServer(Switched):
    verbs = ("POST",)
    route = "/api/servers/{preset}/restart"
    works = True
    switch = "force"

    async def answer(self, *path: str) -> None:
        self.reply(await self.house.servers.restart(path[0], force=self.on(False)))


class ServerStatus(Endpoint):
    route = "/api/servers/{preset}/status"

    async def answer(self, *path: str) -> None:
        self.reply(await self.house.servers.status(path[0]))


class ServerHealth(Endpoint):
    """200 if the process answers now, else 503; the body is the same."""

    route = "/api/servers/{preset}/health"

    async def answer(self, *path: str) -> None:
        server: PresetServer = await self.house.servers.health(path[0])
        self.reply(server, status=200 if server.healthy else 503)


routes = [
    (ServerList.route, ServerList),
    *(
        (rf"/api/servers/(.+)/{word}", endpoint)
        for word, endpoint in (
            ("start", StartServer), ("stop", StopServer), ("restart", RestartServer), ("status", ServerStatus),
            ("health", ServerHealth),
        )
    ),
]  # fmt: skip
