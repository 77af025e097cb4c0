"""A source's models on disk, on the hub and on their way: what the library and the downloads ask and do."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from ..hub.api import Hub
from ..hub.downloads import Downloads
from ..hub.library import Library
from ..library import (
    Capabilities,
    ConvertOrder,
    Download,
    HubDetails,
    HubPage,
    HubQuery,
    HubState,
    ImportOrder,
    LibraryModel,
    Task,
)

Answer = TypeVar("Answer")
SLOW = httpx.Timeout(90, connect=5)  # the server asks the hub before it answers
MODELS = "/api/models"
TOKEN = "/api/settings/huggingface"


class LibrarySource(Protocol):
    """The part of a `Source` that is about the library. Jobs go on whoever looks; their news come with the snapshots."""

    async def local_models(self) -> list[LibraryModel]:
        """The models on the server's machine."""
        ...

    async def show_model(self, model: str) -> LibraryModel: ...

    async def delete_model(self, model: str, force: bool = False) -> int:
        """Delete a model's files; returns the bytes this freed. Conflict while it is in use, and where presets or aliases
        name it unless `force` is set."""
        ...

    async def verify_model(self, model: str) -> Task: ...

    async def probe_model(self, model: str) -> Task: ...

    async def convert_model(self, order: ConvertOrder) -> Task: ...

    async def import_gguf(self, order: ImportOrder) -> Task:
        """Make a model of a GGUF file that lies on the server's machine."""
        ...

    async def tasks(self) -> list[Task]:
        """Jobs on local models, also those that ended since the server's start."""
        ...

    async def cancel_task(self, task: str) -> None: ...

    async def forget_task(self, task: str) -> None:
        """Take one that is over off the list."""
        ...

    async def capabilities(self, model: str) -> Capabilities: ...

    async def hub_search(self, query: HubQuery) -> HubPage: ...

    async def hub_details(self, model: str) -> HubDetails: ...

    async def hub_state(self) -> HubState: ...

    async def set_hub_token(self, token: str) -> HubState: ...

    async def forget_hub_token(self) -> HubState: ...

    async def test_hub_token(self) -> HubState:
        """Ask the hub whose token it is."""
        ...

    async def set_hub_offline(self, offline: bool) -> HubState:
        """Whether the hub is not to be asked; kept like any setting."""
        ...

    async def downloads(self) -> list[Download]:
        """Every download the server knows, those that are over included."""
        ...

    async def start_download(self, model: str, revision: str = "main") -> Download:
        """Fetch a model; one that is on its way already is not fetched twice."""
        ...

    async def pause_download(self, task: str) -> None: ...

    async def resume_download(self, task: str) -> None: ...

    async def cancel_download(self, task: str) -> None: ...

    async def retry_download(self, task: str) -> None: ...

    async def forget_download(self, task: str) -> None:
        """Take one that is over off the list."""
        ...


# --- on the server's loop ---------------------------------------------------------------------------------


class LibraryServer(Protocol):
    """The Runtime, as far as the library goes."""

    hub: Hub
    downloads: Downloads
    library: Library

    async def set_hub(self, values: dict[str, Any]) -> None: ...


class LocalLibrary:
    """`LibrarySource` on the server's loop."""

    _server: LibraryServer

    async def local_models(self) -> list[LibraryModel]:
        return await self._server.library.local()

    async def show_model(self, model: str) -> LibraryModel:
        return await self._server.library.show(model)

    async def delete_model(self, model: str, force: bool = False) -> int:
        return await self._server.library.delete(model, force=force)

    async def verify_model(self, model: str) -> Task:
        return await self._server.library.verify(model)

    async def probe_model(self, model: str) -> Task:
        return await self._server.library.probe(model)

    async def convert_model(self, order: ConvertOrder) -> Task:
        return await self._server.library.convert(order)

    async def import_gguf(self, order: ImportOrder) -> Task:
        return await self._server.library.import_gguf(order)

    async def tasks(self) -> list[Task]:
        return list(self._server.library.tasks())

    async def cancel_task(self, task: str) -> None:
        await self._server.library.cancel(task)

    async def forget_task(self, task: str) -> None:
        await self._server.library.jobs.forget(task)

    async def capabilities(self, model: str) -> Capabilities:
        return await self._server.library.capabilities(model)

    async def hub_search(self, query: HubQuery) -> HubPage:
        return await self._server.hub.search(query)

    async def hub_details(self, model: str) -> HubDetails:
        return await self._server.hub.details(model)

    async def hub_state(self) -> HubState:
        return await self._server.hub.state()

    async def set_hub_token(self, token: str) -> HubState:
        await self._server.hub.set_token(token)
        return await self.hub_state()

    async def forget_hub_token(self) -> HubState:
        await self._server.hub.clear_token()
        return await self.hub_state()

    async def test_hub_token(self) -> HubState:
        await self._server.hub.test()
        return await self.hub_state()

    async def set_hub_offline(self, offline: bool) -> HubState:
        await self._server.set_hub({"hub_offline": offline})
        return await self.hub_state()

    async def downloads(self) -> list[Download]:
        return list(self._server.downloads.all())

    async def start_download(self, model: str, revision: str = "main") -> Download:
        return await self._server.downloads.get(model, revision)

    async def pause_download(self, task: str) -> None:
        await self._server.downloads.pause(task)

    async def resume_download(self, task: str) -> None:
        await self._server.downloads.resume(task)

    async def cancel_download(self, task: str) -> None:
        await self._server.downloads.cancel(task)

    async def retry_download(self, task: str) -> None:
        await self._server.downloads.retry(task)

    async def forget_download(self, task: str) -> None:
        await self._server.downloads.forget(task)


# --- over HTTP --------------------------------------------------------------------------------------------


class RemoteLibrary:
    """`LibrarySource` over HTTP: the part of `Remote`, which has `answer`."""

    async def answer(
        self, kind: type[Answer], method: str, path: str, *, timeout: httpx.Timeout = SLOW, **content: Any
    ) -> Answer:
        raise NotImplementedError

    async def local_models(self) -> list[LibraryModel]:
        return await self._list(f"{MODELS}/local", "models", LibraryModel)

    async def show_model(self, model: str) -> LibraryModel:
        return await self.answer(LibraryModel, "GET", f"{MODELS}/local/{_part(model)}")

    async def delete_model(self, model: str, force: bool = False) -> int:
        path, asked = f"{MODELS}/local/{_part(model)}", {"force": "true"} if force else {}
        found = await self.answer(dict[str, Any], "DELETE", path, params=asked, timeout=SLOW)
        return int(found["freed"])

    async def verify_model(self, model: str) -> Task:
        return await self.answer(Task, "POST", f"{MODELS}/verify", json={"model": model})

    async def probe_model(self, model: str) -> Task:
        return await self.answer(Task, "POST", f"{MODELS}/probe", json={"model": model})

    async def convert_model(self, order: ConvertOrder) -> Task:
        return await self.answer(Task, "POST", f"{MODELS}/convert", json=msgspec.to_builtins(order))

    async def import_gguf(self, order: ImportOrder) -> Task:
        return await self.answer(Task, "POST", f"{MODELS}/import", json=msgspec.to_builtins(order))

    async def tasks(self) -> list[Task]:
        return await self._list(f"{MODELS}/tasks", "tasks", Task)

    async def cancel_task(self, task: str) -> None:
        await self.answer(dict[str, Any], "DELETE", f"{MODELS}/tasks/{_part(task)}", timeout=SLOW)

    async def forget_task(self, task: str) -> None:
        await self.cancel_task(task)  # the same request: it ends one, and strikes one that is over

    async def capabilities(self, model: str) -> Capabilities:
        return await self.answer(Capabilities, "GET", f"{MODELS}/capabilities/{_part(model)}")

    async def hub_search(self, query: HubQuery) -> HubPage:
        asked = {key: value for key, value in msgspec.to_builtins(query).items() if value}
        if query.fits:
            asked["fits"] = "true"
        return await self.answer(HubPage, "GET", f"{MODELS}/search", params=asked, timeout=SLOW)

    async def hub_details(self, model: str) -> HubDetails:
        return await self.answer(HubDetails, "GET", f"{MODELS}/hub/{_part(model)}", timeout=SLOW)

    async def hub_state(self) -> HubState:
        return await self.answer(HubState, "GET", TOKEN)

    async def set_hub_token(self, token: str) -> HubState:
        return await self.answer(HubState, "PUT", TOKEN, json={"token": token})

    async def forget_hub_token(self) -> HubState:
        return await self.answer(HubState, "DELETE", TOKEN)

    async def test_hub_token(self) -> HubState:
        await self.answer(dict[str, Any], "POST", f"{TOKEN}/test", timeout=SLOW)
        return await self.hub_state()

    async def set_hub_offline(self, offline: bool) -> HubState:
        return await self.answer(HubState, "PUT", TOKEN, json={"offline": offline})

    async def downloads(self) -> list[Download]:
        return await self._list(f"{MODELS}/downloads", "downloads", Download)

    async def start_download(self, model: str, revision: str = "main") -> Download:
        asked = {"model": model, "revision": revision}
        return await self.answer(Download, "POST", f"{MODELS}/download", json=asked, timeout=SLOW)

    async def pause_download(self, task: str) -> None:
        await self._turn(task, "pause")

    async def resume_download(self, task: str) -> None:
        await self._turn(task, "resume")

    async def cancel_download(self, task: str) -> None:
        await self._turn(task, "cancel")

    async def retry_download(self, task: str) -> None:
        await self._turn(task, "retry")

    async def forget_download(self, task: str) -> None:
        await self.answer(dict[str, Any], "DELETE", f"{MODELS}/download/{_part(task)}")

    async def _turn(self, task: str, what: str) -> None:
        await self.answer(dict[str, Any], "POST", f"{MODELS}/download/{_part(task)}/{what}")

    async def _list(self, path: str, name: str, kind: type[Answer]) -> list[Answer]:
        found = await self.answer(dict[str, Any], "GET", path)
        return msgspec.convert(found.get(name, []), list[kind])  # type: ignore[valid-type]


def _part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")
