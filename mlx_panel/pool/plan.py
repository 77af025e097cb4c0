"""Which models to load and which to evict: a pure function of what is in memory, what waits, and the limits.

What holds, and `tests/test_plan.py` shows it over random pools: loads never take the sum of sizes over the budget nor
their number over `max_models`; a model in use or pinned is not evicted; the oldest request that waits is served first,
and for a model that is always in use others do not wait for ever: after `patience` seconds it is on `hold`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec

State = Literal["absent", "loading", "ready", "stopping"]
Eviction = Literal["lru", "lfu", "ttl"]
# A low request that waits stands in line as if it had come so many seconds later.
LOW_SECONDS = 30.0


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A model as the plan sees it. `size` is what it counts for, bytes; times are seconds on one clock.

    `since` is when the oldest request came that waits for it, None without one; `low` says that none of those that
    wait is more than "low". It was used last at `used`, `uses` times since it was loaded, and is unloaded after `ttl`
    idle seconds (0: never).
    """

    id: str
    size: int
    state: State = "absent"
    leases: int = 0
    since: float | None = None
    low: bool = False
    pinned: bool = False
    used: float = 0.0
    uses: int = 0
    ttl: float = 0.0

    @property
    def resident(self) -> bool:
        """Whether it counts: in memory, or on its way in or out."""
        return self.state != "absent"

    @property
    def turn(self) -> float:
        """Its place in the line of those that wait."""
        assert self.since is not None
        return self.since + LOW_SECONDS * self.low

    def expired(self, now: float) -> bool:
        return self.ttl > 0 and now - self.used >= self.ttl


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What models may take together. `other` bytes of the budget are taken by what is no model."""

    budget: int
    max_models: int = 0
    eviction: Eviction = "lru"
    patience: float = 10.0
    other: int = 0


class Refusal(NamedTuple):
    """Why a model cannot be loaded at all: it needs more than the budget less what is pinned."""

    needed: int
    available: int


class Plan(msgspec.Struct, frozen=True):
    """What to do now. Those evicted give their memory back later: then a new plan is due.

    Requests for models on `hold` wait in line: somebody older needs their memory.
    """

    load: tuple[str, ...] = ()
    evict: tuple[str, ...] = ()
    hold: tuple[str, ...] = ()
    refuse: dict[str, Refusal] = {}


def plan(places: Iterable[Place], limits: Limits, now: float) -> Plan:
    """What to load, evict, hold back and refuse, given every model that is in memory or waited for."""
    return _Planning(list(places), limits, now).plan()


def leavers(asked: Place, places: Iterable[Place], limits: Limits, now: float) -> tuple[str, ...]:
    """Who would be unloaded if this one were asked for now, and nobody else waited."""
    others = [msgspec.structs.replace(one, since=None) for one in places if one.id != asked.id]
    return plan([*others, msgspec.structs.replace(asked, state="absent", since=now)], limits, now).evict


def grants(places: Iterable[Place], limits: Limits) -> dict[str, int]:
    """How much each model in memory may take: what it counts for and an equal part of what is free, bytes."""
    resident = [one for one in places if one.resident]
    ready = [one for one in resident if one.state in ("ready", "loading")]
    free = max(0, limits.budget - limits.other - sum(one.size for one in resident))
    return {one.id: one.size + free // len(ready) for one in ready}


class _Planning:
    """One run of `plan`."""

    def __init__(self, places: list[Place], limits: Limits, now: float):
        self.places, self.limits, self.now = places, limits, now
        self.load: list[str] = []
        self.evict: list[Place] = []
        self.hold: list[str] = []
        self.refuse: dict[str, Refusal] = {}
        self.held = limits.other + sum(one.size for one in places if one.resident)
        self.count = sum(one.resident for one in places)
        self.leaving = [one for one in places if one.state == "stopping"]

    def plan(self) -> Plan:
        for one in self.places:
            if one.expired(self.now) and self._idle(one):
                self._drop(one)
        waiting = [one for one in self.places if one.state == "absent" and one.since is not None]
        for one in sorted(waiting, key=lambda one: (one.turn, one.id)):
            if not self._serve(one):
                break  # nobody younger takes what this one waits for
        self._shrink()
        evict = tuple(one.id for one in self.evict)
        return Plan(tuple(self.load), evict, tuple(self.hold), self.refuse)

    def _idle(self, one: Place) -> bool:
        return one.state == "ready" and not one.leases and not one.pinned and one.since is None

    def _drop(self, one: Place) -> None:
        self.evict.append(one)
        self.leaving.append(one)

    def _serve(self, one: Place) -> bool:
        """Load it, or make room for it. False if it has to wait for others."""
        if refusal := self._impossible(one):
            self.refuse[one.id] = refusal
            return True
        if self._fits(one.size, 1, self.held, self.count):
            self._take(one)
            return True
        if self._after(self.leaving, one):
            return False  # what is on its way out will do
        if one.low:
            return True  # it takes a place that is free, now or later, and makes nobody leave
        victims = self._victims(one, [other for other in self.places if self._may_leave(other, one)])
        if victims is not None:
            for victim in victims:
                self._drop(victim)
        elif self.now - one.turn >= self.limits.patience:
            self._hold_for(one)
        return False

    def _impossible(self, one: Place) -> Refusal | None:
        pinned = [other for other in self.places if other.pinned and other.resident]
        available = self.limits.budget - sum(other.size for other in pinned)
        places = self.limits.max_models
        if one.size > available or (places and len(pinned) >= places):
            return Refusal(one.size, max(0, available))
        return None

    def _fits(self, size: int, count: int, held: int, there: int) -> bool:
        most = self.limits.max_models
        return held + size <= self.limits.budget and (not most or there + count <= most)

    def _after(self, gone: list[Place], one: Place) -> bool:
        """Whether it fits once these are gone."""
        held = self.held - sum(other.size for other in gone)
        return bool(gone) and self._fits(one.size, 1, held, self.count - len(gone))

    def _take(self, one: Place) -> None:
        self.load.append(one.id)
        self.held += one.size
        self.count += 1

    def _may_leave(self, other: Place, one: Place) -> bool:
        return not other.leases and other not in self.evict and self._gives_way(other, one)

    def _gives_way(self, other: Place, one: Place) -> bool:
        """Whether it may have to leave for the other, once nobody uses it: those who wait for it came later."""
        younger = other.since is None or other.turn > one.turn
        return other.state == "ready" and not other.pinned and younger

    def _victims(self, one: Place, candidates: list[Place]) -> list[Place] | None:
        """As few as need be, in the policy's order; None where all of them are not enough."""
        chosen: list[Place] = []
        for other in sorted(candidates, key=self._order):
            if self._after([*self.leaving, *chosen], one):
                break
            chosen.append(other)
        if not self._after([*self.leaving, *chosen], one):
            return None
        for other in list(chosen):  # a large one may have made a small one before it needless
            rest = [kept for kept in chosen if kept is not other]
            if self._after([*self.leaving, *rest], one):
                chosen = rest
        return chosen

    def _order(self, one: Place) -> tuple[float, ...]:
        """Who leaves first has the smallest."""
        if self.limits.eviction == "lfu":
            return (one.uses, one.used)
        if self.limits.eviction == "ttl":
            return (one.used + one.ttl if one.ttl else float("inf"), one.used)
        return (one.used,)

    def _hold_for(self, one: Place) -> None:
        """Models whose requests have to end before this one can be loaded take no new ones until then."""
        candidates = [other for other in self.places if self._gives_way(other, one)]
        needed = self._victims(one, candidates) or candidates
        self.hold += [other.id for other in needed]

    def _shrink(self) -> None:
        """Where those in memory have grown over the budget, the idle ones leave."""
        over = self.held - sum(one.size for one in self.leaving) - self.limits.budget
        for one in sorted(filter(self._idle, self.places), key=self._order):
            if over > 0 and one not in self.evict:
                self._drop(one)
                over -= one.size
