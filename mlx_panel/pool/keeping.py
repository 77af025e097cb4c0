"""Models into memory and out again: processes started, adopted, stopped, and started again when they die."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
import param

from ..errors import CrashLoop, MlxPanelError, ModelLoadFailed, ModelStopped
from ..messages import LocalModel
from ..pool_settings import PoolSettings
from ..record import PoolEventKind
from ..sizing import Measured, Room, Size
from .events import Events, Told, nobody
from .process import Worker, WorkerOptions
from .slot import Slot
from .spare import Spare

log = logging.getLogger(__name__)
ACK_SECONDS = 2.0


class Sizing(Protocol):
    """What models take, predicted and measured. `predict` and `expected` may read files, the others answer from memory."""

    def predict(self, model: LocalModel, room: Room) -> Size: ...
    def expected(self, model: LocalModel, room: Room) -> int: ...
    def measured(self, model_id: str) -> Measured | None: ...
    def note(self, model_id: str, measured: Measured) -> None: ...
    def save(self) -> None: ...


class House(Protocol):
    """What a pool is given by the server it belongs to."""

    async def worker_options(self, model: LocalModel | None) -> WorkerOptions: ...
    def room(self, model: LocalModel) -> Room: ...
    def budget(self, limit: str) -> int: ...
    async def pin(self, model: str, pinned: bool) -> None: ...
    def device(self, recommended: int) -> None: ...


class Keeping(PoolSettings):
    """The part of the pool that moves models. Whatever has changed, `_replan` is called."""

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
    silence_seconds = param.Number(120, bounds=(0.1, 86400), doc="A worker silent for this long is ended.")

    def __init__(self, sizes: Sizing, house: House, *, told: Told = nobody, **values: object):
        super().__init__(**values)
        self._events = Events(told)
        self.sizes, self._house = sizes, house
        self._slots: dict[str, Slot] = {}
        self._sizes: dict[str, tuple[Size, int]] = {}
        self._spare = Spare(house)
        self._closed = False
        self.evictions = 0
        self.extra_pins: Callable[[], Iterable[str]] = tuple  # models of presets that are pinned, and
        self.extra_preloads: Callable[[], Iterable[str]] = tuple  # those that start with the server

    def _replan(self) -> None:
        raise NotImplementedError

    async def find(self, id: str) -> LocalModel:
        raise NotImplementedError

    def _share(self) -> None:
        raise NotImplementedError

    def _tell(self, slot: Slot) -> None:
        """Tell a process its options, and what it may take of the memory."""
        if slot.worker is not None and slot.worker.reachable and slot.loading is None:
            slot.worker.tune(msgspec.structs.replace(slot.options, memory_limit=slot.grant))

    @property
    def budget(self) -> int:
        """What all models may take together, bytes."""
        return self._house.budget(self.memory_limit)

    @property
    def _resident(self) -> list[Slot]:
        return [slot for slot in self._slots.values() if slot.loading or slot.unloading or slot.worker]

    @property
    def _pinned(self) -> set[str]:
        return {*self.needed, *self.pins, *self.extra_pins()}

    def ttl(self, id: str) -> float:
        """After how many idle seconds a model is unloaded; 0 is never."""
        return float(self.model_ttls.get(id, self.idle_ttl_seconds))

    def _learn(self, model: LocalModel) -> None:
        """Predict what a model takes. Reads files."""
        room = self._house.room(model)
        self._sizes[model.id] = (self.sizes.predict(model, room), self.sizes.expected(model, room))

    def _expected(self, id: str) -> int:
        return self._sizes[id][1] if id in self._sizes else 0

    # --- loading and stopping --------------------------------------------------------------------------------

    def _begin(self, slot: Slot) -> None:
        slot.asked = min([waiter.since for waiter in slot.waiters], default=time.monotonic())
        self._events.begun(slot.model.id)
        slot.loading = asyncio.create_task(self._load(slot))
        slot.tell()

    async def _load(self, slot: Slot) -> None:
        error: MlxPanelError | None = None
        try:
            await self._bring(slot)
        except asyncio.CancelledError:
            slot.refuse_all(ModelStopped("The model was unloaded before it was ready."))
            self._events.failed(slot.model.id, ModelStopped.code, given_up=False)
            raise
        except MlxPanelError as failed:
            error = failed
        except OSError as failed:
            error = ModelLoadFailed(
                f"The worker of {slot.model.id!r} could not be started: {type(failed).__name__}."
            )
        finally:
            slot.loading = None
        if error is None:
            self._came(slot)
        else:
            self._failed(slot, error)
        slot.tell()
        self._replan()

    async def _bring(self, slot: Slot) -> None:
        """Have a process load the model: the spare if there is one, else a new one."""
        slot.model = await self.find(slot.model.id)
        options = await self._house.worker_options(slot.model)
        slot.options, slot.grant = options.engine, slot.grant or slot.expected
        self._share()
        await self._cleared(slot)
        given = msgspec.structs.replace(slot.options, memory_limit=slot.grant)
        options = msgspec.structs.replace(options, engine=given)
        slot.log, slot.worker = (), await self._spare.take()
        if slot.worker is not None:
            await slot.worker.adopt(
                slot.model, options, lambda worker: self._exited(slot, worker), self._news(slot)
            )
            return
        await self._spare.make_room(self.budget - sum(other.size for other in self._resident))
        slot.worker = Worker(options, lambda worker: self._exited(slot, worker), self._news(slot), slot.model)
        await slot.worker.start()

    async def _cleared(self, slot: Slot) -> None:
        """Wait until all processes keep to what is left for them: one may be taking on a request with what was free."""
        end = time.monotonic() + ACK_SECONDS
        others = [other for other in self._slots.values() if other is not slot and other.alive]
        while time.monotonic() < end and any(_over(other) for other in others):
            await asyncio.sleep(0.02)

    def _news(self, slot: Slot) -> Callable[[Worker], None]:
        def heard(worker: Worker) -> None:
            if worker.ready is None:
                slot.tell()

        return heard

    def _came(self, slot: Slot) -> None:
        """A model is in memory."""
        worker = slot.worker
        assert worker is not None
        assert worker.ready is not None
        slot.reason, slot.uses, slot.used = "", 0, time.monotonic()
        ready = worker.ready
        self._house.device(ready.memory.recommended)
        self._note(slot, loaded=ready.memory.process)
        self._events.loaded(slot.model.id, ready.memory.process)
        log.info(
            "%s is ready: pid %d, %.1f s, %s",
            slot.model.id,
            ready.pid,
            ready.load_seconds,
            ready.blas.name or ready.device,
        )
        self._tell(slot)  # what was changed while it loaded
        slot.grant_all()

    def _note(self, slot: Slot, *, loaded: int = 0) -> None:
        """Keep what its process really takes, and count with that from now on."""
        before = self.sizes.measured(slot.model.id) or Measured()
        peak = max(before.peak if not loaded else 0, slot.worker.memory.process if slot.worker else 0)
        base = slot.worker.warm.memory.process if slot.worker and slot.worker.warm else before.baseline
        predicted = self._sizes[slot.model.id][0].total if slot.model.id in self._sizes else 0
        noted = Measured(
            loaded=loaded or before.loaded, peak=peak, baseline=base, predicted=predicted, at=time.time()
        )
        self.sizes.note(slot.model.id, noted)

    def _failed(self, slot: Slot, error: MlxPanelError) -> None:
        """A load has failed; all who wait for it hear the same."""
        worker, slot.worker = slot.worker, None
        slot.reason = str(error)
        slot.failures += 1
        slot.log = worker.log if worker is not None else ()
        slot.crashed = bool(worker and worker.crashed) and slot.failures >= self.max_failures
        cause = worker.cause if worker is not None else ""
        self._events.failed(slot.model.id, cause or error.code, given_up=slot.crashed)
        log.error("%s", slot.reason)
        slot.refuse_all(error)

    def _stop(self, slot: Slot, *, drain: bool, kind: PoolEventKind = "unloaded") -> asyncio.Task[None]:
        slot.unloading = asyncio.create_task(self._end(slot, drain, kind))
        return slot.unloading

    async def _end(self, slot: Slot, drain: bool, kind: PoolEventKind) -> None:
        since, worker = time.monotonic(), slot.worker
        held = worker.memory.process if worker is not None and worker.ready is not None else 0
        try:
            if slot.loading is not None:
                slot.loading.cancel()
                await asyncio.wait((slot.loading,))
            if slot.worker is not None:
                if slot.worker.ready is not None:
                    self._note(slot)
                await slot.worker.stop(drain=drain, timeout=self.drain_seconds)
                slot.worker = None
            self._events.left(slot.model.id, kind, since, held)
        finally:
            slot.unloading = None
        slot.grant, slot.expected = 0, self._expected(slot.model.id) or slot.expected
        slot.tell()
        self._replan()

    def _exited(self, slot: Slot, worker: Worker) -> None:
        """A process is gone. One that served and was not told to go is started again, with back-off."""
        if worker.stopping or worker.ready is None or self._closed or slot.loading is not None:
            return
        beat = worker.beat
        served = (beat.completion_tokens or (slot.model.kind == "embedding" and beat.prompt_tokens)) > 0
        slot.failures = 1 if served else slot.failures + 1
        slot.reason, slot.log = f"The worker of {slot.model.id!r} died: {worker.reason}.", worker.log
        slot.worker = None
        log.error("%s", slot.reason)
        slot.crashed = slot.failures > self.max_failures
        self._events.died(slot.model.id, worker.memory.process, worker.cause, given_up=slot.crashed)
        if slot.crashed:
            slot.refuse_all(CrashLoop(f"{slot.reason} It is not started again by itself."))
        else:
            self._restart(slot)
        self._replan()

    def _restart(self, slot: Slot) -> None:
        slot.restarts += 1
        wait = self.backoff_seconds * (2 ** (slot.failures - 2)) if slot.failures > 1 else 0.0
        slot.wished = time.monotonic()
        slot.not_before = time.monotonic() + wait
        asyncio.get_running_loop().call_later(wait + 0.01, self._replan)


def _over(slot: Slot) -> bool:
    """Whether a process may still take more than it is granted: it says to what limit it keeps."""
    worker = slot.worker
    return worker is not None and worker.alive and worker.beat.limit > slot.grant
