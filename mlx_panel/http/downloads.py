"""Models on their way from the hub: started, watched by any number, halted, and taken up again."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ..library import ModelId
from . import decode as bodies
from .endpoint import Endpoint
from .sse import followed, frame

NOTHING_MORE = bodies.Vocabulary()


class DownloadOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to fetch: a model's name on the hub, and the branch, tag or commit."""

    model: ModelId
    revision: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] = "main"


class StartDownload(Endpoint):
    """Begin one, or go on with the one there is; the answer comes before the first byte."""

    verbs = ("POST",)
    route = "/api/models/download"
    works = True

    async def answer(self, *path: str) -> None:
        order, _ = bodies.take(bodies.load(self.body), DownloadOrder, NOTHING_MORE, refuse_unknown=True)
        self.reply(await self.house.downloads.get(order.model, order.revision), status=202)


class AllDownloads(Endpoint):
    """All that the server knows of, oldest first."""

    route = "/api/models/downloads"

    async def answer(self, *path: str) -> None:
        self.reply({"downloads": self.house.downloads.all()})


class DownloadStatus(Endpoint):
    route = "/api/models/download/{task}/status"

    async def answer(self, *path: str) -> None:
        self.reply(self.house.downloads.find(path[0]))


class DownloadProgress(Endpoint):
    """Server-sent events: the download as it is, then whenever that changes; the stream ends with the last state."""

    route = "/api/models/download/{task}/progress"

    async def answer(self, *path: str) -> None:
        watching = self.house.downloads.watch(path[0])
        if self.request.method == "HEAD":
            return self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        out = self.open_stream()
        self.ledger.stream = True
        async for download in followed(watching, out):
            await out.send(frame(msgspec.json.encode(download)))


class PauseDownload(Endpoint):
    """Halt one; what has come is kept."""

    verbs = ("POST",)
    route = "/api/models/download/{task}/pause"

    async def answer(self, *path: str) -> None:
        self.reply(await self.house.downloads.pause(path[0]))


class ResumeDownload(Endpoint):
    verbs = ("POST",)
    route = "/api/models/download/{task}/resume"
    works = True

    async def answer(self, *path: str) -> None:
        self.reply(await self.house.downloads.resume(path[0]))


class CancelDownload(Endpoint):
    """End one; what has come of it is deleted."""

    verbs = ("POST",)
    route = "/api/models/download/{task}/cancel"

    async def answer(self, *path: str) -> None:
        self.reply(await self.house.downloads.cancel(path[0]))


class RetryDownload(Endpoint):
    verbs = ("POST",)
    route = "/api/models/download/{task}/retry"
    works = True

    async def answer(self, *path: str) -> None:
        self.reply(await self.house.downloads.retry(path[0]))


class ForgetDownload(Endpoint):
    """Strike one that is over from the list."""

    verbs = ("DELETE",)
    route = "/api/models/download/{task}"

    async def answer(self, *path: str) -> None:
        self.reply(await self.house.downloads.forget(path[0]))


routes = [
    (StartDownload.route, StartDownload),
    (AllDownloads.route, AllDownloads),
    (r"/api/models/download/([^/]+)/status", DownloadStatus),
    (r"/api/models/download/([^/]+)/progress", DownloadProgress),
    (r"/api/models/download/([^/]+)/pause", PauseDownload),
    (r"/api/models/download/([^/]+)/resume", ResumeDownload),
    (r"/api/models/download/([^/]+)/cancel", CancelDownload),
    (r"/api/models/download/([^/]+)/retry", RetryDownload),
    (r"/api/models/download/([^/]+)", ForgetDownload),
]
