"""The models on this machine as a person keeps them: listed, checked, probed, converted, imported, deleted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ..errors import Conflict, InvalidParameter, ModelNotFound
from ..library import Capabilities, ConvertOrder, ImportOrder, LibraryModel, Task
from ..messages import LocalModel
from ..snapshot import ModelState
from . import convert, delete, making, report
from .capabilities import CapabilityReader
from .disk import Shelf, need_space
from .listing import Listed, Listing
from .past import Past
from .tasks import Job, Tasks, in_thread
from .verify import Check, Stopped

REMEMBER_SECONDS = 30.0
NAMED_AT_MOST = 3


class Pool(Protocol):
    """What the library asks of the models in memory."""

    def in_use(self, id: str) -> bool: ...
    def last_used(self, id: str) -> float | None: ...
    def states(self, models: list[LocalModel]) -> list[ModelState]: ...


Prober = Callable[[LocalModel, Capabilities, Job], Awaitable[Capabilities]]


async def _nothing(id: str) -> None:
    """Nothing else is kept of a model."""


class Library:
    """The models of a shelf, and the jobs on them. `folder` is the data folder; all of it on the server's loop.

    Without a `pool` nothing is in memory, and nothing can be probed. `prober` tries a model; `downloading` says whether a
    model is on its way, `used_by` what else names it; `forget` deletes what else is kept of one that is gone; `changed` is
    called when there is news of the models or the jobs.
    """

    def __init__(
        self,
        shelf: Shelf,
        folder: Path,
        *,
        pool: Pool | None = None,
        prober: Prober | None = None,
        downloading: Callable[[str], bool] = lambda id: False,
        used_by: Callable[[str], list[str]] = lambda id: [],
        forget: Callable[[str], Awaitable[None]] = _nothing,
        changed: Callable[[], None] = lambda: None,
    ):
        self.models = shelf.folders[0]
        self.jobs = Tasks(changed)
        self.reader = CapabilityReader()
        self._shelf, self._pool, self._prober = shelf, pool, prober
        self._downloading, self._used_by, self._forget, self._changed = downloading, used_by, forget, changed
        self._listing = Listing(shelf, self.reader)
        self._past = Past(folder)
        self._background: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<Library of {self._shelf!r}, {self.jobs!r}>"

    # --- start and stop --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read what was remembered, and clear away what a server that was killed had begun."""
        await asyncio.to_thread(self._open)
        if self._pool is not None:
            self._keep(self._go_on_remembering(self._pool))

    async def stop(self) -> None:
        """End every job, and remember."""
        await self.jobs.stop()
        for one in self._background:
            one.cancel()
        if self._pool is not None:
            await self._remember(self._pool)

    def _open(self) -> None:
        self._past.load()
        if self._pool is None:
            return  # a program beside a server, whose drafts these may be
        convert.sweep(self.models)
        for folder in (self.models, self._shelf.cache):
            delete.sweep(folder)

    async def _go_on_remembering(self, pool: Pool) -> None:
        while True:
            await asyncio.sleep(REMEMBER_SECONDS)
            await self._remember(pool)

    async def _remember(self, pool: Pool) -> None:
        """Write down when models were last used, if that has changed."""
        models = await asyncio.to_thread(self._shelf.scan)
        times = {model.id: pool.last_used(model.id) for model in models}
        await self._past.used({id: at for id, at in times.items() if at is not None})

    def _keep(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    # --- what there is ---------------------------------------------------------------------------------------

    async def local(self) -> list[LibraryModel]:
        """Every model on this machine, by id; those too of which files are missing."""
        listed = await asyncio.to_thread(self._listing.all)
        whole = [one.model for one in listed if one.shown.complete]
        states = {state.id: state for state in self._pool.states(whole)} if self._pool is not None else {}
        return [self._shown(one, states.get(one.model.id)) for one in listed]

    async def show(self, id: str) -> LibraryModel:
        """One of them. Raises ModelNotFound."""
        for model in await self.local():
            if model.id == id:
                return model
        raise await self._unknown(id)

    async def capabilities(self, id: str) -> Capabilities:
        """What a model can do: by its files, and by its probe where there was one. Raises ModelNotFound."""
        return (await self.show(id)).capabilities

    def probed(self, model: LocalModel) -> Capabilities | None:
        """What a probe found of a model as it is now; None where there was none since it is here. Does not block."""
        return self._past.probed(model)

    def _shown(self, one: Listed, state: ModelState | None) -> LibraryModel:
        """A model with what the pool, the probe and the past say of it."""
        id, now = one.model.id, self._pool.last_used(one.model.id) if self._pool is not None else None
        more: dict[str, Any] = {
            "last_used": now if now is not None else self._past.last_used(id),
            "verified": self._past.verified(one.model),
            "capabilities": self._past.probed(one.model) or one.shown.capabilities,
        }
        if state is not None and one.shown.complete:
            more |= {"expected": state.expected, "verdict": state.verdict, "state": state.state}
        return msgspec.structs.replace(one.shown, **more)

    async def _find(self, id: str) -> Listed:
        """A model, also one of which files are missing. Raises ModelNotFound."""
        for one in await asyncio.to_thread(self._listing.all):
            if one.model.id == id:
                return one
        raise await self._unknown(id)

    async def _whole(self, id: str) -> Listed:
        """One that can be loaded. Raises ModelNotFound, and Conflict where files are missing."""
        one = await self._find(id)
        if one.shown.missing:
            names = ", ".join(one.shown.missing[:NAMED_AT_MOST])
            raise Conflict(f"Files of this model are missing ({names}); download it again.")
        return one

    async def _unknown(self, id: str) -> ModelNotFound:
        """The error that names what there is."""
        try:
            await asyncio.to_thread(self._shelf.find, id)
        except ModelNotFound as unknown:
            return unknown
        return ModelNotFound("There was no model of this name a moment ago; ask again.", field="model")

    # --- jobs ------------------------------------------------------------------------------------------------

    def tasks(self) -> tuple[Task, ...]:
        """The jobs of this server's run, oldest first."""
        return self.jobs.all()

    def recent(self) -> tuple[Task, ...]:
        """Those that are not over, and those that ended in the last minute."""
        return self.jobs.recent()

    async def cancel(self, task: str) -> Task:
        """End a job; what it had made so far is gone when this returns. Raises NotFound."""
        return await self.jobs.cancel(task)

    def watch(self, task: str) -> AsyncIterator[Task]:
        """A job as it is, and at each change, until it is over. Raises NotFound."""
        return self.jobs.watch(task)

    async def verify(self, id: str) -> Task:
        """Compare a model's files with their hashes, and with each other. Raises ModelNotFound."""
        one = await self._find(id)
        return self.jobs.on(id, "verify") or self.jobs.start("verify", id, lambda job: self._verify(one, job))

    async def probe(self, id: str) -> Task:
        """Load a model and try what it can do.

        Raises ModelNotFound, Conflict where files are missing, InvalidParameter for one that cannot be loaded here.
        """
        one = await self._whole(id)
        found = one.shown.capabilities
        if self._prober is None or not found.supported:
            why = found.reason or "no server runs."
            raise InvalidParameter(f"This model cannot be probed: {why}", field="model")
        return self.jobs.on(id, "probe") or self.jobs.start("probe", id, lambda job: self._probe(one, job))

    async def convert(self, order: ConvertOrder) -> Task:
        """Make another model of one. Raises ModelNotFound, Conflict (also for the disk), InvalidParameter."""
        one = await self._whole(order.model)
        convert.check(order, one.model, one.shown.capabilities)
        name = convert.name_of(order, one.model)
        size = await asyncio.to_thread(convert.expected_bytes, Path(one.model.path), order)
        folder = await self._room_for(name, size)

        async def work(job: Job) -> None:
            await making.converted(order, one.model, folder, size, job)

        return self.jobs.start("convert", order.model, work, making=name)

    async def import_gguf(self, order: ImportOrder) -> Task:
        """Make a model of a GGUF file. Raises InvalidParameter for the file, and Conflict."""
        order, size = await making.found(order)
        folder = await self._room_for(order.name, size)

        async def work(job: Job) -> None:
            await making.imported(order, folder, job)

        return self.jobs.start("import", order.name, work, making=order.name)

    async def _room_for(self, name: str, size: int) -> Path:
        """Where a new model goes. Raises Conflict where its name is taken or the disk is too full."""
        folder = await asyncio.to_thread(convert.target, self.models, name)
        await asyncio.to_thread(need_space, self.models, size)
        if self.jobs.on(name) is not None:
            raise Conflict(f"A model {name!r} is being made already.")
        return folder

    async def _verify(self, one: Listed, job: Job) -> None:
        def report_bytes(done: int, total: int) -> None:
            job.step("hashing", done, total, "bytes")

        # Making one looks at the disk already.
        check = await asyncio.to_thread(Check, Path(one.model.path), report_bytes, job.stopping.is_set)
        with contextlib.suppress(Stopped):
            found = await in_thread(job, check.run)
            job.found(*found)
            machine = await asyncio.to_thread(report.machine)
            facts = {"Folder": one.model.path, "Revision": one.shown.revision, **machine}
            job.say(report=report.markdown(f"The files of {one.model.id}", facts, found))
            if not found[-1].value:
                await self._past.was_whole(one.model)

    async def _probe(self, one: Listed, job: Job) -> None:
        assert self._prober is not None
        await self._past.keep(one.model, await self._prober(one.model, one.shown.capabilities, job))

    # --- deleting --------------------------------------------------------------------------------------------

    async def delete(self, id: str, *, force: bool = False) -> int:
        """Delete a model's files; the bytes of disk that this gave back. `force` also where a preset or an alias names it.

        Raises ModelNotFound, Conflict while it is in use, and Unavailable where the disk refuses.
        """
        one = await self._find(id)
        self._demand_idle(id, force=force)
        # A client that leaves does not stop it half way.
        return await asyncio.shield(self._keep(self._delete(one.model, force=force)))

    async def _delete(self, model: LocalModel, *, force: bool) -> int:
        hidden = await asyncio.to_thread(delete.hide, delete.place_of(model, self._shelf.cache))
        try:
            self._demand_idle(model.id, force=force)  # somebody may have come meanwhile
        except Conflict:
            await asyncio.to_thread(delete.unhide, hidden)
            raise
        await self._past.forget(model.id)
        await self._forget(model.id)
        try:
            return await asyncio.to_thread(delete.remove, hidden)
        finally:
            self._changed()

    def _demand_idle(self, id: str, *, force: bool) -> None:
        if self._pool is not None and self._pool.in_use(id):
            raise Conflict("This model is in memory, or on its way there: unload it first.")
        if self._downloading(id):
            raise Conflict("This model is being downloaded: cancel the download first.")
        if (task := self.jobs.on(id)) is not None:
            raise Conflict(f"A task works on this model ({task.kind}): wait until it is over, or cancel it.")
        users = [] if force else self._used_by(id)
        if users:
            raise Conflict(
                f"This model is named by {', '.join(users)}. Change that first, or delete it with force=true."
            )
