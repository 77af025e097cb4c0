"""The models in memory: loaded on demand within a budget, leased while in use, evicted when idle, restarted when their
process dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec

from ..errors import CrashLoop, Draining, InsufficientMemory, MlxPanelError
from ..messages import Forget, LocalModel
from ..snapshot import LoadProgress
from ..tuning import EngineOptions
from .events import Told, nobody
from .keeping import House, Sizing
from .look import Looker
from .plan import Limits, Place, Plan, grants, leavers, plan
from .process import Worker
from .seen import Seen
from .slot import Slot, Waiter

log = logging.getLogger(__name__)
TICK_SECONDS, HEALTH_STEP = 1.0, 0.5
AGAIN_SECONDS = 0.2
SLACK = 1 << 20  # a grant that changes by less is not told


class Shelf(Protocol):
    """What models this machine has; both calls may read folders and run off the loop."""

    def find(self, id: str) -> LocalModel: ...
    def scan(self) -> list[LocalModel]: ...


class ModelPool(Seen):
    """Slots by model id; `told` hears what becomes of them. Everything here runs on the server's loop."""

    def __init__(self, shelf: Shelf, sizes: Sizing, house: House, *, told: Told = nobody, **values: object):
        super().__init__(sizes, house, told=told, **values)
        self._shelf = shelf
        self._hold: tuple[str, ...] = ()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wishes: set[str] = set()

    def __repr__(self) -> str:
        return f"<ModelPool {list(self._slots.values())}>"

    # --- using a model ---------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def lease(self, id: str, *, low: bool = False) -> AsyncIterator[Worker]:
        """A ready worker for a model, loaded if need be; the model stays while the lease is held.

        A `low` one makes no other model leave. Raises ModelNotFound, ModelLoadFailed (shared by all who wait for the same
        load), CrashLoop, InsufficientMemory after `load_wait_seconds`, and Draining.
        """
        slot = await self._slot(id)
        worker = await self._claim(slot, low=low)
        try:
            yield worker
        finally:
            slot.give()
            if slot.leases == 0:
                self._replan()

    async def load(self, id: str) -> None:
        """Load a model, also one that was given up. Raises like `lease`."""
        slot = await self._slot(id)
        slot.crashed, slot.not_before = False, 0.0
        slot.failures = 0 if slot.worker is None else slot.failures
        await self._claim(slot, low=False)
        slot.give()

    async def unload(self, id: str) -> None:
        """End a model's process once its requests are done, or after `drain_seconds`; asked twice, at once.

        Requests that are cut off end with `ModelStopped`. Raises ModelNotFound.
        """
        slot = await self._slot(id)
        ending = slot.unloading
        if ending is None:
            slot.reason, slot.failures, slot.crashed, slot.wished = "", 0, False, None
            ending = self._stop(slot, drain=True)
        elif slot.worker is not None:
            await slot.worker.stop()
        await asyncio.shield(ending)

    async def pin(self, id: str, pinned: bool) -> None:
        """Keep a model in memory once it is there, or let it go again. Raises ModelNotFound."""
        await self._house.pin(id, pinned)

    async def find(self, id: str) -> LocalModel:
        """The model of that name: in memory, also when its folder is gone, or on this machine. Raises ModelNotFound."""
        slot = self._slots.get(id)
        if slot is not None and slot.alive:
            return slot.model
        return await asyncio.to_thread(self._shelf.find, id)

    async def catalog(self) -> list[LocalModel]:
        """Every model on this machine."""
        return await asyncio.to_thread(self._scan)

    def _scan(self) -> list[LocalModel]:
        models = self._shelf.scan()
        for model in models:
            self._learn(model)
        return models

    async def _slot(self, id: str) -> Slot:
        if self._closed:
            raise Draining
        slot = self._slots.get(id)
        if slot is None or not slot.here:
            model = await self.find(id)  # its files, and what it has to have room for, may be others by now
            await asyncio.to_thread(self._learn, model)
            slot = self._slots.setdefault(id, Slot(model))
            if not slot.here:
                slot.model, slot.expected = model, self._expected(id)
        return slot

    async def _claim(self, slot: Slot, *, low: bool) -> Worker:
        """Lease a slot's worker as soon as there is one."""
        if slot.alive and slot.model.id not in self._hold and not slot.waiters:
            return slot.take()
        if slot.crashed:
            raise CrashLoop(f"{slot.reason} It is not started again by itself.")
        waiter = Waiter(low=low)
        slot.waiters.append(waiter)
        timer = asyncio.get_running_loop().call_later(self.load_wait_seconds, self._give_up, slot, waiter)
        self._replan()
        try:
            return await asyncio.shield(waiter.granted)
        except asyncio.CancelledError:
            if waiter.granted.done() and waiter.granted.exception() is None:
                slot.give()
            raise
        finally:
            timer.cancel()
            if waiter in slot.waiters:
                slot.waiters.remove(waiter)
                waiter.granted.cancel()

    def _give_up(self, slot: Slot, waiter: Waiter) -> None:
        """A request has waited long enough for memory that others use; for what is on its way it goes on waiting."""
        if waiter not in slot.waiters or slot.loading is not None:
            return
        if self._comes(slot):
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._give_up, slot, waiter)
        else:
            slot.waiters.remove(waiter)
            free = self.budget - sum(other.size for other in self._resident if not self._may_go(other))
            waiter.fail(self._insufficient(slot, slot.size, max(0, free)))
            self._replan()

    def _comes(self, slot: Slot) -> bool:
        """Whether it will be loaded as soon as those that leave now have left, or its pause after a crash is over."""
        now = time.monotonic()
        staying = [place for place in self._places(now) if place.state != "stopping"]
        pausing = slot.unloading is not None or now < slot.not_before
        return pausing or slot.model.id in plan(staying, self._limits, now).load

    def _may_go(self, slot: Slot) -> bool:
        return slot.alive and not slot.leases and slot.model.id not in self._pinned

    def _insufficient(self, slot: Slot, needed: int, available: int) -> InsufficientMemory:
        return InsufficientMemory(
            f"The model {slot.model.id!r} takes {needed / 1e9:.2f} GB, and {available / 1e9:.2f} GB are available"
            " beside the models in use. Try again, unload one, or raise memory_limit or max_models.",
            needed_bytes=needed,
            available_bytes=available,
        )

    # --- the plan --------------------------------------------------------------------------------------------

    @property
    def _limits(self) -> Limits:
        return Limits(budget=self.budget, max_models=self.max_models, eviction=self.eviction)

    def _places(self, now: float) -> list[Place]:
        pinned = self._pinned
        return [
            slot.place(pinned=id in pinned, ttl=self.ttl(id), now=now) for id, slot in self._slots.items()
        ]

    def _leavers(self, id: str, size: int) -> tuple[str, ...]:
        now = time.monotonic()
        return leavers(Place(id=id, size=size), self._places(now), self._limits, now)

    def _replan(self) -> None:
        """Look at everything once more, and act."""
        if self._closed:
            return
        now = time.monotonic()
        decided = plan(self._places(now), self._limits, now)
        self._hold = decided.hold
        self._act(decided)
        for slot in self._slots.values():
            if slot.alive and slot.waiters and slot.model.id not in self._hold:
                slot.grant_all()
        self._share()
        self._spare.mind(self._spare_room(), self._replan)

    def _act(self, decided: Plan) -> None:
        for id in decided.evict:
            self.evictions += 1
            idle = time.monotonic() - self._slots[id].used >= (self.ttl(id) or math.inf)
            self._stop(self._slots[id], drain=False, kind="expired" if idle else "evicted")
        for id, refusal in decided.refuse.items():
            slot = self._slots[id]
            error = self._insufficient(slot, refusal.needed, refusal.available)
            slot.reason = "" if slot.waiters else str(error)
            slot.refuse_all(error)
        for id in decided.load:
            self._begin(self._slots[id])

    def _share(self) -> None:
        """Tell each process what it may take now."""
        limits = msgspec.structs.replace(self._limits, other=self._spare.memory)
        shares = grants(self._places(time.monotonic()), limits)
        for id, share in shares.items():
            slot = self._slots[id]
            if abs(share - slot.grant) > SLACK:
                slot.grant = share
                self._tell(slot)

    def _spare_room(self) -> int | None:
        """Bytes a spare may take; None where none is wanted now."""
        busy = any(slot.loading for slot in self._slots.values())
        if not self.warm_spare or (self.max_models and len(self._resident) >= self.max_models):
            return 0
        return None if busy else self.budget - sum(slot.size for slot in self._resident)

    # --- start and end ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the needed models; failures are kept as the slots' reasons."""
        self._tasks = {asyncio.create_task(self._tick()), asyncio.create_task(self._health())}
        for id in self._pinned_at_start():
            await self._preload(id)
        self._replan()

    def _pinned_at_start(self) -> list[str]:
        return list(dict.fromkeys([*self.needed, *self.extra_preloads()]))

    async def _preload(self, id: str) -> None:
        try:
            slot = await self._slot(id)
        except MlxPanelError as error:
            slot = self._slots.setdefault(id, Slot(LocalModel(id, "", "", "", 0, 0, 0)))
            if not slot.reason:
                log.error("%s cannot be loaded: %s", id, error)
            slot.reason = str(error)
            return
        if slot.loading is None and not slot.alive:
            slot.wished = time.monotonic()

    def wish(self, id: str) -> None:
        """Have a model loaded soon that nobody waits for; what comes of it stands in its state."""
        self._wish(id)
        self._replan()

    def _wish(self, id: str) -> None:
        """Have a model loaded that nobody waits for."""
        slot = self._slots.get(id)
        if slot is None:
            self._wishes.add(id)
        elif not slot.busy and not slot.failures:  # one that found no room may do so now
            slot.wished = time.monotonic()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._wishes |= {id for id in self.needed if id in self._slots and not self._slots[id].model.path}
            while self._wishes:  # also one that was not on this machine and may be by now
                await self._preload(self._wishes.pop())
            self._replan()

    async def _health(self) -> None:
        """Look at every process from outside, now and then."""
        looker, last = Looker(), time.monotonic()
        while True:
            await asyncio.sleep(min(HEALTH_STEP, self.health_interval_seconds))
            if time.monotonic() - last < self.health_interval_seconds:
                continue  # the interval may have been changed meanwhile
            last = time.monotonic()
            workers = {
                slot.worker.pid: slot.worker for slot in self._resident if slot.worker and slot.worker.pid
            }
            for pid, seen in (await asyncio.to_thread(looker.look, workers)).items():
                workers[pid].seen = seen

    async def close(self, *, timeout: float) -> None:
        """Stop every worker; running requests may finish for `timeout` seconds."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for slot in self._slots.values():
            slot.refuse_all(Draining())
        loads = [slot.loading for slot in self._slots.values() if slot.loading is not None]
        for load in loads:
            load.cancel()
        if loads:
            await asyncio.wait(loads)  # one whose process is just being started has it by then
        workers = [slot.worker for slot in self._slots.values() if slot.worker is not None]
        since, held = time.monotonic(), [(worker.model.id, worker.memory.process) for worker in self.workers]
        stops = [worker.stop(drain=timeout > 0, timeout=timeout) for worker in workers]
        await asyncio.gather(*stops, self._spare.close())
        for id, bytes in held:
            self._events.left(id, "unloaded", since, bytes, Draining.code)
        await asyncio.to_thread(self.sizes.save)

    def kill(self) -> None:
        """The last resort of a process that is ending: no worker outlives it."""
        self._spare.kill()
        for slot in self._slots.values():
            if slot.worker is not None:
                slot.worker.signal(15)

    # --- what a person changes -------------------------------------------------------------------------------

    def configure(self, **values: Any) -> None:
        """Other settings, from now on."""
        self.param.update(**values)
        for slot in self._slots.values():
            if slot.worker is not None:
                slot.worker.watched(silence=self.silence_seconds, watchdog=self.watchdog_seconds)
        for id in self.needed:
            self._wish(id)
        self._replan()

    @property
    def running(self) -> list[str]:
        """The models that have a process, also one that still loads."""
        return [id for id, slot in self._slots.items() if slot.worker is not None and slot.worker.reachable]

    def tune(self, id: str, options: EngineOptions) -> None:
        """Tell a model's process what its engine's options are now."""
        slot = self._slots.get(id)
        if slot is not None:
            slot.options = options
            self._tell(slot)

    async def settle(self, id: str) -> None:
        """Wait while a model is on its way into memory."""
        slot = self._slots.get(id)
        if slot is not None and slot.loading is not None:
            await asyncio.wait((slot.loading,))

    def forget(self, id: str) -> bool:
        """Empty a model's prefix cache before its next step; False where no process runs it."""
        slot = self._slots.get(id)
        if slot is None or slot.worker is None or not slot.worker.reachable:
            return False
        slot.worker.send(Forget())
        return True

    async def watch_load(self, id: str) -> AsyncIterator[LoadProgress]:
        """How far a model's load is, each time that changes, until it is ready or has failed. Raises ModelNotFound."""
        slot = await self._slot(id)
        while True:
            news, progress = slot.news, slot.progress()
            if progress is not None:
                yield progress
                if progress.stage in ("ready", "failed"):
                    return
            await news.wait()
