"""The models of this machine and of the hub: look, fetch, check, change, delete."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

import msgspec
import panel as pn
import param

from ..errors import InvalidParameter, MlxPanelError
from ..library import ConvertOrder, HubQuery, ImportOrder, LibraryModel
from ..snapshot import Sample, Snapshot
from .assets import module
from .source import Source
from .watching import Face, Watching

Answering = Callable[[], Coroutine[Any, Any, dict[str, Any]]]
Asked = TypeVar("Asked", HubQuery, ConvertOrder, ImportOrder)
KEPT_REPLIES = 8
BROKEN = "The server failed on this. Its log names the place."
LONGEST_README = 200_000
PARTS = (
    "library_words", "library_readme", "library_tasks", "library_details", "library_forms", "library_local",
    "library_search", "library_found", "library_token", "library_hub",
)  # fmt: skip


class LibraryView(Face):
    """The browser's half of `Library`.

    Each question that a person asks carries a ticket; `replies` says how it went, and `found`, `details` or `shown`
    hold what belongs to the ticket. What moves each second travels as JSON text, as in `LiveView`.
    """

    states = param.String(default="{}", doc="`budget` and the state of each model, as JSON.")
    tasks = param.String(default="[]", doc="The snapshot's `tasks`, as JSON.")
    downloads = param.String(
        default="{}", doc="Per model what is being fetched: `state` and `share`, as JSON."
    )
    news = param.String(default="", doc="Another text when the models or the jobs should be asked for again.")
    local = param.String(default="", doc="`LibraryModel`s, as JSON; empty before the first answer.")
    past = param.String(default="[]", doc="All `Task`s, as JSON.")
    hub = param.Dict(default={}, doc="The `HubState`; empty before the first answer.")
    found = param.String(default="{}", doc="The last `HubPage` with its `ticket`, as JSON.")
    details = param.String(default="{}", doc="The last `HubDetails` with its `ticket`, as JSON.")
    shown = param.String(
        default="{}", doc="`model`, the `presets` and `aliases` that name it, and the `ticket`, as JSON."
    )
    replies = param.List(default=[], doc="The last answers: `ticket`, `error`, `field`, `value`.")
    linked = param.String(doc="How pages are linked (see `Menu`); empty where there are none.")

    _esm = module("library", *PARTS)


class Library(Watching):
    """Two views: what this machine has, and what the hub has. Jobs are the server's and go on without anybody looking.

    `linked` says how to reach the page of the presets; without it there is no link to it.
    """

    view: LibraryView

    def __init__(self, source: Source, linked: str = ""):
        super().__init__(source, LibraryView(sizing_mode="stretch_width", linked=linked))

    def refresh(self) -> None:
        super().refresh()
        self.work(self._ask)

    def take(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        jobs = [f"{task.id} {task.state}" for task in snapshot.tasks]
        self.view.param.update(
            states=_text(_states(snapshot)),
            tasks=_text(snapshot.tasks),
            downloads=_text(_fetched(snapshot)),
            news=" ".join([str(snapshot.library_changes), *jobs]),
        )

    def act(self, message: dict[str, Any]) -> None:
        if message.get("do") == "ask":
            self.work(self._ask)
        elif isinstance(ticket := message.get("ticket"), str) and (work := self._work(message, ticket)):
            # What is set between the page's document and its `ready` is lost in Panel 1.9.
            pn.state.onload(partial(self.work, partial(self._reply, ticket, work)))

    def _work(self, message: dict[str, Any], ticket: str) -> Answering | None:
        """What a message asks for; None where it is none of ours."""
        match message:
            case {
                "do": "load" | "unload" | "verify" | "probe" | "cancel" | "dismiss" as name,
                "what": str(what),
            }:
                return partial(getattr(self, f"_{name}"), what)
            case {"do": "delete", "what": str(what), "force": bool(force)}:
                return partial(self._delete, what, force)
            case {"do": "show", "what": str(what)}:
                return partial(self._show, what, ticket)
            case {"do": "convert", "order": order}:
                return partial(self._convert, order)
            case {"do": "import", "order": order}:
                return partial(self._import, order)
            case {"do": "search", "query": query}:
                return partial(self._search, query, ticket)
            case {"do": "details", "what": str(what)}:
                return partial(self._details, what, ticket)
            case {"do": "download", "what": str(what)}:
                return partial(self._download, what)
            case {"do": "token", "token": str(token)}:
                return partial(self._token, partial(self.source.set_hub_token, token))
            case {"do": "forget"}:
                return partial(self._token, self.source.forget_hub_token)
            case {"do": "test"}:
                return partial(self._token, self.source.test_hub_token)
            case {"do": "offline", "on": bool(on)}:
                return partial(self._token, partial(self.source.set_hub_offline, on))
        return None

    async def _reply(self, ticket: str, work: Answering) -> None:
        """Do what was asked and say how it went. Several replies stand beside each other: Panel combines changes."""
        reply: dict[str, Any] = {"ticket": ticket, "error": BROKEN, "field": "", "value": {}}
        try:
            reply |= {"value": await work(), "error": ""}
        except MlxPanelError as error:
            reply |= {"error": str(error), "field": error.field or ""}
        finally:
            self.view.replies = [*self.view.replies, reply][-KEPT_REPLIES:]

    async def _ask(self) -> None:
        """Look at the models, the jobs and how the server stands to the hub."""
        local = await self.source.local_models()
        past = await self.source.tasks()
        state = await self.source.hub_state()
        self.view.param.update(
            local=_text(local), past=_text(past), hub=msgspec.to_builtins(state), notice={}
        )

    # --- models of this machine --------------------------------------------------------------------------------

    async def _load(self, model: str) -> dict[str, Any]:
        await self.source.load(model)
        return {}

    async def _unload(self, model: str) -> dict[str, Any]:
        await self.source.unload(model)
        return {}

    async def _show(self, model: str, ticket: str) -> dict[str, Any]:
        found: LibraryModel = await self.source.show_model(model)
        presets = [preset.name for preset in await self.source.presets() if preset.model == model]
        aliases = [alias.pattern for alias in await self.source.aliases() if alias.target == model]
        self.view.shown = _text({"ticket": ticket, "model": found, "presets": presets, "aliases": aliases})
        return {}

    async def _delete(self, model: str, force: bool) -> dict[str, Any]:
        freed = await self.source.delete_model(model, force)
        await self._ask()
        return {"freed": freed}

    async def _verify(self, model: str) -> dict[str, Any]:
        return await self._began(await self.source.verify_model(model))

    async def _probe(self, model: str) -> dict[str, Any]:
        return await self._began(await self.source.probe_model(model))

    async def _convert(self, order: Any) -> dict[str, Any]:
        return await self._began(await self.source.convert_model(_asked(order, ConvertOrder)))

    async def _import(self, order: Any) -> dict[str, Any]:
        return await self._began(await self.source.import_gguf(_asked(order, ImportOrder)))

    async def _cancel(self, task: str) -> dict[str, Any]:
        await self.source.cancel_task(task)
        return await self._began(None)

    async def _dismiss(self, task: str) -> dict[str, Any]:
        await self.source.forget_task(task)
        return await self._began(None)

    async def _began(self, task: Any) -> dict[str, Any]:
        self.view.past = _text(await self.source.tasks())
        return {"task": task.id if task else ""}

    # --- the hub ------------------------------------------------------------------------------------------------

    async def _search(self, query: Any, ticket: str) -> dict[str, Any]:
        page = await self.source.hub_search(_asked(query, HubQuery))
        self.view.found = _text({"ticket": ticket, **msgspec.to_builtins(page)})
        return {}

    async def _details(self, model: str, ticket: str) -> dict[str, Any]:
        details = await self.source.hub_details(model)
        details = msgspec.structs.replace(details, readme=details.readme[:LONGEST_README])
        self.view.details = _text({"ticket": ticket, **msgspec.to_builtins(details)})
        return {}

    async def _download(self, model: str) -> dict[str, Any]:
        download = await self.source.start_download(model)
        return {"task": download.task}

    async def _token(self, change: Callable[[], Coroutine[Any, Any, Any]]) -> dict[str, Any]:
        state = msgspec.to_builtins(await change())
        self.view.hub = state
        return {"user": state["user"], "offline": state["offline"]}


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _asked(values: Any, kind: type[Asked]) -> Asked:
    """What the browser sent, as a struct. Raises InvalidParameter."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"This cannot be done: {error}.") from error


def _states(snapshot: Snapshot) -> dict[str, Any]:
    """What a list of models shows that moves: without figures that change each second."""
    models = {
        one.id: {
            "state": one.state, "memory": round(one.memory, -7) if one.state == "ready" else 0, "verdict": one.verdict,
            "reason": one.reason if one.state == "failed" else "", "stage": one.loading.stage if one.loading else "",
        }
        for one in snapshot.models
    }  # fmt: skip
    return {"budget": snapshot.pool.budget, "models": models}


def _fetched(snapshot: Snapshot) -> dict[str, Any]:
    """Per model its download that is not over, to the percent."""
    return {
        one.model: {"state": one.state, "share": math.floor(100 * one.done / one.total) if one.total else 0}
        for one in snapshot.downloads
        if one.ended is None
    }
