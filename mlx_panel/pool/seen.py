"""The pool as others look at it: who is there, what fits, and the structs that a person watches."""

from __future__ import annotations

from ..library import Verdict
from ..messages import LocalModel
from ..snapshot import ModelState, PoolFigures
from .keeping import Keeping
from .process import Worker
from .states import Known, state


class Seen(Keeping):
    """The part of the pool that only looks."""

    @property
    def ready(self) -> bool:
        """Whether every needed model can answer at once."""
        return all(id in self._slots and self._slots[id].state == "ready" for id in self.needed)

    @property
    def workers(self) -> list[Worker]:
        return [slot.worker for slot in self._slots.values() if slot.worker is not None and slot.alive]

    def missing(self) -> dict[str, str]:
        """The needed models that cannot answer now, each with its state."""
        states = {id: self._slots[id].state if id in self._slots else "available" for id in self.needed}
        return {id: state for id, state in states.items() if state != "ready"}

    def in_use(self, id: str) -> bool:
        """Whether a model is in memory, on its way in or out, or waited for."""
        return id in self._slots and self._slots[id].busy

    def last_used(self, id: str) -> float | None:
        """When its last request ended, Unix seconds; None if it had none since the server started."""
        return self._slots[id].ended if id in self._slots else None

    def expected(self, model: LocalModel) -> int:
        """What a load of it would take, bytes; 0 for one that was never looked at."""
        return self._expected(model.id)

    def verdict(self, total: int, id: str = "") -> Verdict:
        """Whether so many bytes would fit beside the other models."""
        others = [slot for slot in self._resident if slot.model.id != id]
        pinned = sum(slot.size for slot in others if slot.model.id in self._pinned)
        if total > self.budget - pinned:
            return "too_large"
        return "fits" if total <= self.budget - sum(slot.size for slot in others) else "evicts"

    def figures(self) -> PoolFigures:
        """The pool in numbers."""
        slots = self._resident
        used = sum(slot.worker.memory.process for slot in slots if slot.worker is not None)
        return PoolFigures(
            budget=self.budget, used=used, reserved=sum(slot.size for slot in slots), spare=self._spare.pid,
            spare_memory=self._spare.memory, resident=len(slots), max_models=self.max_models,
            waiting=sum(len(slot.waiters) for slot in self._slots.values()), evictions=self.evictions,
        )  # fmt: skip

    def states(self, models: list[LocalModel]) -> list[ModelState]:
        """What is known of each model, those in memory first."""
        known = {model.id: model for model in models}
        for id, slot in list(self._slots.items()):
            if slot.busy or (id in self.needed and id not in known):
                known[id] = slot.model
            elif id not in known:
                del self._slots[id]  # its folder is gone, and nothing of it is left in memory
        pinned = self._pinned
        states = [
            state(model, self._slots.get(id), self._known(model, pinned)) for id, model in known.items()
        ]
        return sorted(states, key=lambda one: (one.state == "available", one.id.lower()))

    def _known(self, model: LocalModel, pinned: set[str]) -> Known:
        size, expected = self._sizes.get(model.id, (None, 0))
        return Known(
            needed=model.id in self.needed, pinned=model.id in pinned, ttl=self.ttl(model.id), size=size,
            expected=expected, measured=self.sizes.measured(model.id),
            verdict=self.verdict(expected, model.id) if expected else "unknown", heartbeat=self.heartbeat_seconds,
            evicts=self._evicts(model.id, expected),
        )  # fmt: skip

    def _evicts(self, id: str, expected: int) -> tuple[str, ...]:
        """Whom a load of a model would make leave; for one that is in memory, or fits, nobody."""
        there = id in self._slots and self._slots[id].busy
        full = self.max_models and len(self._resident) >= self.max_models
        return (
            self._leavers(id, expected)
            if not there and (full or self.verdict(expected, id) == "evicts")
            else ()
        )

    def _leavers(self, id: str, size: int) -> tuple[str, ...]:
        raise NotImplementedError
