"""The models in memory: loaded on demand, leased while in use, restarted when their process dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import msgspec
import param

from ..errors import Draining, MlxPanelError, ModelLoadFailed
from ..messages import Forget, LocalModel
from ..snapshot import ModelState, ModelStateName
from ..tuning import EngineOptions
from .process import Worker

log = logging.getLogger(__name__)
Spawn = Callable[[LocalModel, Callable[[Worker], None]], Awaitable[Worker]]


class Shelf(Protocol):
    """What models this machine has; both calls may read folders and run off the loop."""

    def find(self, id: str) -> LocalModel: ...
    def scan(self) -> list[LocalModel]: ...


class Slot:
    """One model and its process, if it has one."""

    def __init__(self, model: LocalModel):
        self.model = model
        self.worker: Worker | None = None
        self.loading: asyncio.Task[Worker] | None = None
        self.unloading: asyncio.Task[None] | None = None
        self.leases = 0
        self.restarts = 0
        self.failures = 0
        self.reason = ""

    def __repr__(self) -> str:
        return f"<Slot {self.model.id} {self.state}, {self.leases} leases>"

    @property
    def busy(self) -> bool:
        """Whether anything of it is in memory, or on its way in or out."""
        moving = self.loading is not None or self.unloading is not None or self.leases > 0
        return moving or (self.worker is not None and self.worker.alive)

    @property
    def state(self) -> ModelStateName:
        if self.unloading is not None:
            return "stopping"
        if self.loading is not None:
            return "loading"
        if self.worker is not None and self.worker.alive:
            return "ready"
        return "failed" if self.reason else "available"


class ModelPool(param.Parameterized):
    """Slots by model id. Everything here runs on the server's loop."""

    needed = param.List(
        [], item_type=str, doc="Models that belong in memory; the server is not ready without them."
    )
    max_failures = param.Integer(
        3, bounds=(1, 100), doc="Failures in a row after which a model is no longer restarted."
    )
    backoff_seconds = param.Number(
        0.5, bounds=(0, 60), doc="Wait before the second restart in a row; doubles each time."
    )

    drain_seconds = param.Number(30, bounds=(0, 3600), doc="How long an unloaded model's requests may go on.")

    def __init__(self, shelf: Shelf, spawn: Spawn, **values: object):
        super().__init__(**values)
        self._shelf = shelf
        self._spawn = spawn
        self._slots: dict[str, Slot] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<ModelPool {list(self._slots.values())}>"

    # --- using a model ---------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def lease(self, id: str) -> AsyncIterator[Worker]:
        """A ready worker for a model, loaded if need be; the model stays while the lease is held.

        Raises ModelNotFound, ModelLoadFailed (shared by all who wait for the same load) and Draining.
        """
        slot = await self._slot(id)
        slot.leases += 1
        try:
            yield await self._ready(slot)
        finally:
            slot.leases -= 1

    async def load(self, id: str) -> None:
        """Load a model. Raises like `lease`."""
        await self._ready(await self._slot(id))

    async def unload(self, id: str) -> None:
        """End a model's process once its requests are done, or after `drain_seconds`; asked twice, at once.

        Requests that are cut off end with `ModelStopped`. Raises ModelNotFound.
        """
        slot = await self._slot(id)
        if slot.unloading is None:
            slot.reason, slot.failures = "", 0
            slot.unloading = asyncio.create_task(self._stop(slot))
        elif slot.worker is not None:
            await slot.worker.stop()
        await asyncio.shield(slot.unloading)

    async def find(self, id: str) -> LocalModel:
        """The model of that name: in memory, also when its folder is gone, or on this machine. Raises ModelNotFound."""
        slot = self._slots.get(id)
        if slot is not None and slot.worker is not None and slot.worker.alive:
            return slot.model
        return await asyncio.to_thread(self._shelf.find, id)

    async def catalog(self) -> list[LocalModel]:
        """Every model on this machine."""
        return await asyncio.to_thread(self._shelf.scan)

    async def _slot(self, id: str) -> Slot:
        if self._closed:
            raise Draining
        if id not in self._slots:
            model = await self.find(id)
            self._slots.setdefault(id, Slot(model))
        return self._slots[id]

    async def _ready(self, slot: Slot) -> Worker:
        if slot.unloading is not None:
            await asyncio.shield(slot.unloading)
        if slot.worker is not None and slot.worker.alive:
            return slot.worker
        if slot.loading is None:
            self._begin(slot, wait=0)
        assert slot.loading is not None
        return await asyncio.shield(slot.loading)

    # --- loading and stopping --------------------------------------------------------------------------------

    def _begin(self, slot: Slot, *, wait: float) -> None:
        slot.loading = asyncio.create_task(self._load(slot, wait))
        slot.loading.add_done_callback(_seen)

    async def _load(self, slot: Slot, wait: float) -> Worker:
        try:
            await asyncio.sleep(wait)
            slot.model = await self.find(slot.model.id)
            slot.worker = await self._spawn(slot.model, lambda worker: self._exited(slot, worker))
            ready = await slot.worker.start()
        except MlxPanelError as error:
            slot.reason = str(error)
            slot.failures += 1
            raise
        except OSError as error:
            slot.reason = f"The worker of {slot.model.id!r} could not be started: {type(error).__name__}."
            slot.failures += 1
            raise ModelLoadFailed(slot.reason) from error
        finally:
            slot.loading = None
        slot.reason = ""
        log.info(
            "%s is ready: pid %d, %.1f s, %s",
            slot.model.id,
            ready.pid,
            ready.load_seconds,
            ready.blas.name or ready.device,
        )
        return slot.worker

    async def _stop(self, slot: Slot) -> None:
        try:
            if slot.loading is not None:
                await asyncio.wait((slot.loading,))
            if slot.worker is not None:
                await slot.worker.stop(drain=True, timeout=self.drain_seconds)
                slot.worker = None
        finally:
            slot.unloading = None

    def _exited(self, slot: Slot, worker: Worker) -> None:
        """A process is gone. One that served and was not told to go is started again, with back-off."""
        if worker.stopping or worker.ready is None or self._closed:
            return
        beat = worker.beat
        served = (beat.completion_tokens or (slot.model.kind == "embedding" and beat.prompt_tokens)) > 0
        slot.failures = 1 if served else slot.failures + 1
        slot.reason = f"The worker of {slot.model.id!r} died: {worker.reason}."
        slot.worker = None
        log.error("%s", slot.reason)
        if slot.failures <= self.max_failures and slot.loading is None and slot.unloading is None:
            slot.restarts += 1
            self._begin(
                slot, wait=self.backoff_seconds * (2 ** (slot.failures - 2)) if slot.failures > 1 else 0
            )

    async def start(self) -> None:
        """Load the needed models, all at once; failures are kept as the slots' reasons."""
        for id in self.needed:
            await self._preload(id)

    async def _preload(self, id: str) -> None:
        try:
            slot = await self._slot(id)
        except MlxPanelError as error:
            slot = self._slots[id] = Slot(LocalModel(id, "", "", "", 0, 0, 0))
            slot.reason = str(error)
            log.error("%s cannot be loaded: %s", id, error)
            return
        if slot.loading is None and not (slot.worker and slot.worker.alive):
            self._begin(slot, wait=0)

    async def close(self, *, timeout: float) -> None:
        """Stop every worker; running requests may finish for `timeout` seconds."""
        self._closed = True
        for slot in self._slots.values():
            if slot.loading is not None:
                slot.loading.cancel()
        workers = [slot.worker for slot in self._slots.values() if slot.worker is not None]
        await asyncio.gather(*(worker.stop(drain=timeout > 0, timeout=timeout) for worker in workers))

    def kill(self) -> None:
        """The last resort of a process that is ending: no worker outlives it."""
        for slot in self._slots.values():
            if slot.worker is not None:
                slot.worker.signal(15)

    # --- what a person changes -------------------------------------------------------------------------------

    @property
    def running(self) -> list[str]:
        """The models that have a process, also one that still loads."""
        return [id for id, slot in self._slots.items() if slot.worker is not None and slot.worker.reachable]

    def tune(self, id: str, options: EngineOptions) -> None:
        """Tell a model's process what its engine's options are now."""
        for worker in self._processes(id):
            worker.tune(options)

    async def settle(self, id: str) -> None:
        """Wait while a model is on its way into memory."""
        slot = self._slots.get(id)
        if slot is not None and slot.loading is not None:
            await asyncio.wait((slot.loading,))

    def forget(self, id: str) -> bool:
        """Empty a model's prefix cache before its next step; False where no process runs it."""
        told = self._processes(id)
        for worker in told:
            worker.send(Forget())
        return bool(told)

    def _processes(self, id: str) -> list[Worker]:
        """The one process of a model, or none."""
        slot = self._slots.get(id)
        return [slot.worker] if slot is not None and slot.worker is not None and slot.worker.reachable else []

    # --- what a person sees ----------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether every needed model can answer at once."""
        return all(id in self._slots and self._slots[id].state == "ready" for id in self.needed)

    @property
    def workers(self) -> list[Worker]:
        return [slot.worker for slot in self._slots.values() if slot.worker is not None and slot.worker.alive]

    def missing(self) -> dict[str, str]:
        """The needed models that cannot answer now, each with its state."""
        states = {id: self._slots[id].state if id in self._slots else "available" for id in self.needed}
        return {id: state for id, state in states.items() if state != "ready"}

    def states(self, models: list[LocalModel]) -> list[ModelState]:
        """What is known of each model, those in memory first."""
        known = {model.id: model for model in models}
        for id, slot in list(self._slots.items()):
            if id in known or id in self.needed or slot.busy:
                known[id] = slot.model
            else:
                del self._slots[id]  # its folder is gone, and nothing of it is left in memory
        states = [self._state(self._slots.get(id), model) for id, model in known.items()]
        return sorted(states, key=lambda state: (state.state == "available", state.id.lower()))

    def _state(self, slot: Slot | None, model: LocalModel) -> ModelState:
        state = ModelState(
            id=model.id, state="available", architecture=model.architecture, dtype=model.dtype,
            context_length=model.context_length, disk=model.bytes, needed=model.id in self.needed, kind=model.kind,
        )  # fmt: skip
        if slot is None:
            return state
        state = msgspec.structs.replace(state, state=slot.state, restarts=slot.restarts, reason=slot.reason)
        return msgspec.structs.replace(state, **_figures(slot.worker))


def _figures(worker: Worker | None) -> dict[str, Any]:
    if worker is None or worker.ready is None or worker.exited.is_set():
        return {}
    beat, info = worker.beat, worker.ready.info
    return {
        "pid": worker.pid, "uptime": time.monotonic() - worker.started, "running": beat.running, "queued": beat.queued,
        "memory": beat.memory.process or worker.ready.memory.process, "parameters": info.parameters,
        "context_length": info.context_length, "pending": worker.pending, "cache": beat.cache,
        "kind": info.kind, "reasoning": info.reasoning, "tools": info.tools, "dtype": worker.model.dtype or info.dtype,
    }  # fmt: skip


def _seen(task: asyncio.Task[Worker]) -> None:
    """A load nobody waits for may fail without a word from asyncio; its reason is on the slot."""
    if not task.cancelled():
        task.exception()
