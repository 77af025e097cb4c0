"""A Hugging Face hub for one machine: enough of its API to search and to fetch models, with faults on demand.

    hub = FakeHub([made_up("org/tiny", 1_000_000)])
    hub.listen()          # on a running loop; hub.url is its address
    hub.faults.drop_every = 100_000

or `python -m mlx_panel.hub.fake --generate org/tiny:1000000`, whose first line is its address. `POST /_fake` sets
faults (`fake_faults.Faults`) and changes a repository; `GET /_fake/served` tells which bytes left.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import msgspec
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from .fake_api import TOKEN, Handler, Info, Search, State, Tree, WhoAmI
from .fake_faults import Faults, Served
from .fake_files import File, Mirror
from .fake_repository import Content, Generated, Stored, from_folder, made_up


class FakeHub(State):
    """A hub of these repositories, or of those below a folder (`org/name/files`).

    `token` is the one it knows, of the user `user`; `accepted` are the gated models that user may have.
    """

    _server: HTTPServer | None = None

    def listen(self, port: int = 0) -> int:
        """Answer on a loopback port from now on, 0 takes a free one; the port."""
        id, given = r"([^/]+/[^/]+)", {"hub": self}
        places: list[tuple[str, type[RequestHandler]]] = [
            (r"/_fake", Control), (r"/_fake/served", Log), (r"/_cdn/(\w+)", Mirror), (r"/api/whoami-v2", WhoAmI),
            (r"/api/models", Search), (rf"/api/models/{id}/tree/([^/]+)/?(.*)", Tree),
            (rf"/api/models/{id}/revision/([^/]+)", Info), (rf"/api/models/{id}", Info),
            (rf"/{id}/(?:resolve|raw)/([^/]+)/(.+)", File),
        ]  # fmt: skip
        application = Application(
            [(pattern, handler, given) for pattern, handler in places], log_function=lambda handler: None
        )
        self._server = HTTPServer(application)
        sockets = bind_sockets(port, "127.0.0.1")
        self._server.add_sockets(sockets)
        self.port = sockets[0].getsockname()[1]
        return self.port

    def stop(self) -> None:
        """Answer no longer."""
        if self._server is not None:
            self._server.stop()


class Change(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What becomes of a repository. `move` maps paths to new content: text, or a number of made-up bytes."""

    id: str
    gated: str | None = None
    private: bool | None = None
    accepted: bool | None = None
    move: dict[str, str | int] | None = None


class Control(Handler):
    """Faults, set one by one (`reset` takes all back first), and changes of a `repository`. Answers the faults."""

    logged = False

    def post(self) -> None:
        try:
            raw = msgspec.json.decode(self.request.body or b"{}", type=dict[str, Any])
            change = raw.pop("repository", None)
            old = Faults() if raw.pop("reset", False) else self.hub.faults
            self.hub.faults = msgspec.convert({**msgspec.to_builtins(old), **raw}, Faults)
            if change is not None:
                self._change(msgspec.convert(change, Change))
        except (msgspec.MsgspecError, KeyError) as error:
            return self.refuse(400, "", str(error))
        self.json(self.hub.faults)

    get = post

    def _change(self, change: Change) -> None:
        one = self.hub.repositories[change.id]
        for name in ("gated", "private"):
            if getattr(change, name) is not None:
                one.meta[name] = getattr(change, name)
        if change.accepted is not None:
            (self.hub.accepted.add if change.accepted else self.hub.accepted.discard)(one.id)
        if change.move is not None:
            one.move({path: _content(told, len(one.commits)) for path, told in change.move.items()})


def _content(told: str | int, seed: int) -> Content:
    return Stored(told.encode()) if isinstance(told, str) else Generated.weights(told, seed)


class Log(Handler):
    """What left since the start or the last DELETE."""

    logged = False

    def get(self) -> None:
        self.json(self.hub.served)

    def delete(self) -> None:
        self.hub.served = Served()
        self.json(self.hub.served)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m mlx_panel.hub.fake", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--folder", type=Path, help="repositories as org/name/files")
    parser.add_argument("--generate", action="append", default=[], metavar="ORG/NAME:BYTES[:SHARDS]")
    parser.add_argument("--token", default=TOKEN)
    asyncio.run(_serve(parser.parse_args()))


async def _serve(given: argparse.Namespace) -> None:
    repositories = from_folder(given.folder) if given.folder else []
    for seed, spec in enumerate(given.generate):
        id, size, *shards = spec.split(":")
        repositories.append(made_up(id, int(size), int(shards[0]) if shards else 1, 1000 * seed))
    hub = FakeHub(repositories, token=given.token)
    hub.listen(given.port)
    print(hub.url, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
