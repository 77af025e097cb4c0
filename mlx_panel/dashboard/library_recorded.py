"""The library of a recorded source: a shelf, a hub and jobs that obey at once, for trying components and for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from ..errors import Conflict, HubModelNotFound, HubRefused, ModelNotFound, NotFound
from ..library import (
    Capabilities,
    ConvertOrder,
    Download,
    DownloadState,
    HubDetails,
    HubFile,
    HubModel,
    HubPage,
    HubQuery,
    HubState,
    ImportOrder,
    LibraryModel,
    Task,
    TaskKind,
)
from ..snapshot import Snapshot

PAGE = 20


class Stock:
    """What a recorded library holds: models of this machine, models of the hub, what is known of these, and jobs."""

    def __init__(
        self,
        local: Iterable[LibraryModel] = (),
        hub: Iterable[HubModel] = (),
        details: Iterable[HubDetails] = (),
        tasks: Iterable[Task] = (),
        downloads: Iterable[Download] = (),
        state: HubState | None = None,
    ):
        self.local = {model.id: model for model in local}
        self.hub = {model.id: model for model in hub}
        self.details = {one.model.id: one for one in details}
        self.tasks = {task.id: task for task in tasks}
        self.downloads = {one.task: one for one in downloads}
        self.state = state or HubState(cache="/home/me/.cache/huggingface/hub", free_disk=10**11)
        self.token = ""

    def __repr__(self) -> str:
        return f"<Stock of {len(self.local)} models, {len(self.hub)} on the hub, {len(self.downloads)} downloads>"

    def search(self, query: HubQuery) -> list[HubModel]:
        """Hits in order."""
        hits = [model for model in self.hub.values() if _fits(model, query)]
        keys: dict[str, Any] = {
            "size": lambda model: model.bytes,
            "name": lambda model: model.id.lower(),
        }
        key = keys.get(query.sort, lambda model: -getattr(model, query.sort))
        return sorted(hits, key=key)


class RecordedLibrary:
    """The library's part of `Recorded`, which has `calls`, `faults` ("library", "hub", "downloads") and `put`."""

    snapshot: Snapshot
    stock: Stock

    def put(self, snapshot: Snapshot) -> None:
        raise NotImplementedError

    def _ask(self, what: str, *arguments: Any) -> None:
        raise NotImplementedError

    def library_news(self) -> None:
        """Tell everybody who watches that the library changed, with the jobs as they are."""
        changes = self.snapshot.library_changes + 1
        jobs = {"tasks": tuple(self.stock.tasks.values()), "downloads": tuple(self.stock.downloads.values())}
        self.put(msgspec.structs.replace(self.snapshot, library_changes=changes, **jobs))

    def task(self, task: Task) -> Task:
        """News of a job."""
        self.stock.tasks[task.id] = task
        self.library_news()
        return task

    def download(self, download: Download) -> Download:
        """News of a download."""
        self.stock.downloads[download.task] = download
        self.library_news()
        return download

    async def local_models(self) -> list[LibraryModel]:
        self._ask("library")
        return list(self.stock.local.values())

    async def show_model(self, model: str) -> LibraryModel:
        self._ask("library", "show", model)
        return self._model(model)

    async def delete_model(self, model: str, force: bool = False) -> int:
        self._ask("library", "delete", model, force)
        gone = self._model(model)
        if any(one.id == model and one.state != "available" for one in self.snapshot.models):
            raise Conflict(f"{model} is in memory. Unload it first.")
        del self.stock.local[model]
        self.library_news()
        return gone.bytes

    async def verify_model(self, model: str) -> Task:
        return self._begin("verify", model, unit="bytes", total=self._model(model).bytes)

    async def probe_model(self, model: str) -> Task:
        return self._begin("probe", model, total=5)

    async def convert_model(self, order: ConvertOrder) -> Task:
        return self._begin("convert", order.model, order, total=3)

    async def import_gguf(self, order: ImportOrder) -> Task:
        return self._begin("import", order.file, order, total=3)

    async def tasks(self) -> list[Task]:
        self._ask("library", "tasks")
        return list(self.stock.tasks.values())

    async def cancel_task(self, task: str) -> None:
        self._ask("library", "cancel", task)
        if task not in self.stock.tasks:
            raise NotFound("There is no such job.")
        self.task(
            msgspec.structs.replace(self.stock.tasks[task], state="cancelled", ended=self.snapshot.time)
        )

    async def forget_task(self, task: str) -> None:
        self._ask("library", "forget", task)
        del self.stock.tasks[task]
        self.library_news()

    async def capabilities(self, model: str) -> Capabilities:
        self._ask("library", "capabilities", model)
        return self._model(model).capabilities

    async def hub_search(self, query: HubQuery) -> HubPage:
        self._ask("hub", query)
        start = int(query.cursor or 0)
        hits = [] if self.stock.state.offline else self.stock.search(query)
        end = start + min(query.limit, PAGE)
        return HubPage(
            models=tuple(hits[start:end]),
            cursor=str(end) if end < len(hits) else "",
            offline=self.stock.state.offline,
        )

    async def hub_details(self, model: str) -> HubDetails:
        self._ask("hub", "details", model)
        if model not in self.stock.hub:
            raise HubModelNotFound("The hub has no model of this name.")
        known = self.stock.hub[model]
        plain = HubDetails(model=known, commit="0" * 40, files=(HubFile(path="model.safetensors", bytes=known.bytes),),
                           free_disk=self.stock.state.free_disk)  # fmt: skip
        return self.stock.details.get(model, plain)

    async def hub_state(self) -> HubState:
        self._ask("hub", "state")
        return self.stock.state

    async def set_hub_token(self, token: str) -> HubState:
        self._ask("hub", "token")
        self.stock.token = token
        self.stock.state = msgspec.structs.replace(self.stock.state, token=True, user="")
        return self.stock.state

    async def forget_hub_token(self) -> HubState:
        self._ask("hub", "forget")
        self.stock.token = ""
        self.stock.state = msgspec.structs.replace(self.stock.state, token=False, user="")
        return self.stock.state

    async def test_hub_token(self) -> HubState:
        self._ask("hub", "test")
        if not self.stock.token.startswith("hf_"):
            raise HubRefused("The hub does not accept this token.")
        self.stock.state = msgspec.structs.replace(self.stock.state, user="me")
        return self.stock.state

    async def set_hub_offline(self, offline: bool) -> HubState:
        self._ask("hub", "offline", offline)
        self.stock.state = msgspec.structs.replace(self.stock.state, offline=offline)
        return self.stock.state

    async def downloads(self) -> list[Download]:
        self._ask("downloads")
        return list(self.stock.downloads.values())

    async def start_download(self, model: str, revision: str = "main") -> Download:
        self._ask("downloads", "start", model, revision)
        for one in self.stock.downloads.values():
            if one.model == model and one.ended is None:
                return one
        total = self.stock.hub[model].bytes if model in self.stock.hub else 0
        number = len(self.stock.downloads) + 1
        known: dict[str, Any] = {"model": model, "revision": revision, "total": total}
        return self.download(
            Download(task=f"d{number}", state="downloading", created=self.snapshot.time, **known)
        )

    async def pause_download(self, task: str) -> None:
        self._turn("pause", task, "paused")

    async def resume_download(self, task: str) -> None:
        self._turn("resume", task, "downloading")

    async def cancel_download(self, task: str) -> None:
        self._turn("cancel", task, "cancelled", ended=self.snapshot.time)

    async def retry_download(self, task: str) -> None:
        self._turn("retry", task, "downloading", ended=None, error="")

    async def forget_download(self, task: str) -> None:
        self._ask("downloads", "forget", task)
        del self.stock.downloads[task]
        self.library_news()

    def _turn(self, what: str, task: str, state: DownloadState, **changes: Any) -> None:
        self._ask("downloads", what, task)
        if task not in self.stock.downloads:
            raise NotFound("There is no such download.")
        self.download(msgspec.structs.replace(self.stock.downloads[task], state=state, **changes))

    def _begin(self, kind: TaskKind, model: str, *asked: Any, **more: Any) -> Task:
        self._ask("library", kind, model, *asked)
        number = len(self.stock.tasks) + 1
        task = Task(
            id=f"t{number}", kind=kind, model=model, state="running", created=self.snapshot.time, **more
        )
        return self.task(task)

    def _model(self, model: str) -> LibraryModel:
        if model not in self.stock.local:
            raise ModelNotFound(f"There is no model {model!r}.")
        return self.stock.local[model]


def _fits(model: HubModel, query: HubQuery) -> bool:
    return (
        query.text.lower() in model.id.lower()
        and query.author in ("", model.author)
        and query.architecture in ("", model.architecture)
        and query.bits in (0, model.bits)
        and (not query.capability or query.capability in model.capabilities)
        and (not query.max_bytes or model.bytes <= query.max_bytes)
        and (not query.fits or model.verdict in ("fits", "evicts"))
    )
