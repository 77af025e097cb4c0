"""The plan of the pool over random pools: what it promises holds whatever comes."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_panel.pool.plan import LOW_SECONDS, Limits, Place, grants, plan

SIZES = st.integers(1, 60)


def place(id: str, size: int = 10, state: str = "ready", **more: object) -> Place:
    return Place(id=id, size=size, state=state, **more)  # type: ignore[arg-type]


def limits(budget: int = 30, **more: object) -> Limits:
    return Limits(budget=budget, **more)  # type: ignore[arg-type]


places = st.builds(
    Place,
    id=st.just(""),
    size=SIZES,
    state=st.sampled_from(["absent", "loading", "ready", "stopping"]),
    leases=st.integers(0, 2),
    since=st.none() | st.floats(0, 100),
    low=st.booleans(),
    pinned=st.booleans(),
    used=st.floats(0, 100),
    uses=st.integers(0, 5),
    ttl=st.sampled_from([0.0, 5.0, 50.0]),
)
pools = st.lists(places, max_size=8).map(
    lambda found: [_named(one, str(number)) for number, one in enumerate(found)]
)
anything = st.builds(
    Limits,
    budget=st.integers(1, 150),
    max_models=st.integers(0, 5),
    eviction=st.sampled_from(["lru", "lfu", "ttl"]),
    other=st.integers(0, 20),
)


def _named(one: Place, id: str) -> Place:
    values = {name: getattr(one, name) for name in Place.__struct_fields__} | {"id": id}
    return Place(**values)


@given(pools, anything)
@settings(max_examples=500)
def test_no_load_breaks_a_limit_and_nobody_in_use_or_pinned_leaves(pool: list[Place], given: Limits) -> None:
    found = plan(pool, given, 100.0)
    by_id = {one.id: one for one in pool}
    held = given.other + sum(one.size for one in pool if one.resident)
    loads = sum(by_id[id].size for id in found.load)
    assert not found.load or held + loads <= given.budget
    there = sum(one.resident for one in pool)
    assert not found.load or not given.max_models or there + len(found.load) <= given.max_models
    for id in found.evict:
        one = by_id[id]
        assert (one.state, one.leases, one.pinned) == ("ready", 0, False)
    assert len(set(found.evict)) == len(found.evict)
    assert all(
        by_id[id].state == "absent" and by_id[id].since is not None for id in (*found.load, *found.refuse)
    )
    assert not {*found.load} & {*found.refuse}
    assert not any(by_id[id].pinned for id in found.hold)


@given(pools, anything)
def test_what_is_granted_is_within_the_budget(pool: list[Place], given: Limits) -> None:
    shares = grants(pool, given)
    by_id = {one.id: one for one in pool}
    held = given.other + sum(one.size for one in pool if one.resident)
    total = given.other + sum(shares.get(one.id, one.size) for one in pool if one.resident)
    assert total <= max(held, given.budget)
    assert all(share >= by_id[id].size for id, share in shares.items())


@dataclasses.dataclass
class World:
    """A pool in which time passes: loads and stops take a turn each, requests come as told and last some turns."""

    sizes: list[int]
    limits: Limits
    now: float = 0.0
    state: dict[int, str] = dataclasses.field(default_factory=dict)
    leases: dict[int, list[float]] = dataclasses.field(default_factory=dict)
    waiting: dict[int, list[tuple[float, bool, float]]] = dataclasses.field(default_factory=dict)
    used: dict[int, float] = dataclasses.field(default_factory=dict)
    served: int = 0
    refused: int = 0
    held: tuple[str, ...] = ()

    def place(self, number: int) -> Place:
        waiting = self.waiting.get(number, [])
        return Place(
            id=str(number), size=self.sizes[number], state=self.state.get(number, "absent"),  # type: ignore[arg-type]
            leases=len(self.leases.get(number, [])), since=min((one[0] for one in waiting), default=None),
            low=bool(waiting) and all(one[1] for one in waiting), used=self.used.get(number, 0.0),
        )  # fmt: skip

    def ask(self, number: int, low: bool, turns: float) -> None:
        self.waiting.setdefault(number, []).append((self.now, low, turns))

    def turn(self) -> None:
        for number, state in list(self.state.items()):
            self.state[number] = {"loading": "ready", "stopping": "absent"}.get(state, state)
        for number, ends in self.leases.items():
            if any(end <= self.now for end in ends):
                self.used[number] = self.now
            self.leases[number] = [end for end in ends if end > self.now]
        found = plan([self.place(number) for number in range(len(self.sizes))], self.limits, self.now)
        self.held = found.hold
        for id in found.evict:
            self.state[int(id)] = "stopping"
        for id in found.load:
            self.state[int(id)] = "loading"
        for id in found.refuse:
            self.refused += len(self.waiting.pop(int(id)))
        self.serve()
        resident = [self.sizes[number] for number, state in self.state.items() if state != "absent"]
        assert sum(resident) <= self.limits.budget
        assert not self.limits.max_models or len(resident) <= self.limits.max_models
        self.now += 1.0

    def serve(self) -> None:
        for number, state in self.state.items():
            if state == "ready" and str(number) not in self.held:
                for _, _, turns in self.waiting.pop(number, []):
                    self.leases.setdefault(number, []).append(self.now + turns)
                    self.used[number] = self.now
                    self.served += 1


@given(
    st.lists(SIZES, min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(1, 5), st.integers(0, 3)), max_size=40),
    st.integers(10, 120),
    st.integers(0, 3),
    st.sampled_from(["lru", "lfu", "ttl"]),
)
@settings(max_examples=300, deadline=None)
def test_every_request_is_served_or_refused_and_the_budget_is_kept(
    sizes: list[int], asked: list[tuple[int, bool, int, int]], budget: int, most: int, eviction: str
) -> None:
    world = World(sizes, limits(budget, max_models=most, eviction=eviction))
    total = 0
    for number, _, turns, pause in asked:
        world.ask(number % len(sizes), False, float(turns))
        total += 1
        for _ in range(pause):
            world.turn()
    for _ in range(40 + 20 * len(asked)):
        world.turn()
    assert world.served + world.refused == total
    assert world.refused == sum(sizes[number % len(sizes)] > budget for number, *_ in asked)


def test_a_model_that_is_always_in_use_gives_way_after_a_while() -> None:
    world = World([20, 20], limits(30, patience=10.0))
    for number in itertools.count():
        world.ask(0, False, 3.0)  # there is always a lease on the first one
        if number == 5:
            world.ask(1, False, 1.0)
        world.turn()
        if world.leases.get(1):
            break
        assert number < 40, "it waits for ever"
    assert number >= 15  # and not before its patience has ended


def test_low_ones_make_nobody_leave_and_wait_behind_others() -> None:
    full = [place("a", 20), place("b", 10), place("low", 10, "absent", since=0.0, low=True)]
    assert plan(full, limits(30), 100.0).evict == ()
    line = [
        place("low", 10, "absent", since=0.0, low=True),
        place("later", 10, "absent", since=LOW_SECONDS - 1),
    ]
    assert plan(line, limits(10), LOW_SECONDS).load == ("later",)
    line[1] = place("later", 10, "absent", since=LOW_SECONDS + 1)
    assert plan(line, limits(10), LOW_SECONDS + 2).load == ("low",)


@pytest.mark.parametrize(("eviction", "leaves"), [("lru", "old"), ("lfu", "rare"), ("ttl", "expiring")])
def test_each_policy_chooses_another(eviction: str, leaves: str) -> None:
    pool = [
        place("old", used=1.0, uses=9),
        place("rare", used=5.0, uses=1),
        place("expiring", used=9.0, uses=5, ttl=200.0),
        place("new", 10, "absent", since=50.0),
    ]
    assert plan(pool, limits(30, eviction=eviction), 60.0).evict == (leaves,)


def test_as_few_leave_as_need_to() -> None:
    pool = [place("small", 5, used=1.0), place("large", 20, used=2.0), place("new", 20, "absent", since=9.0)]
    assert plan(pool, limits(25), 10.0).evict == ("large",)


def test_an_idle_model_leaves_when_its_time_is_over_unless_it_is_pinned() -> None:
    pool = [
        place("idle", ttl=10.0),
        place("pinned", ttl=10.0, pinned=True),
        place("busy", ttl=10.0, leases=1),
    ]
    assert plan(pool, limits(), 9.0).evict == ()
    assert plan(pool, limits(), 11.0).evict == ("idle",)


def test_models_that_have_grown_make_idle_ones_leave() -> None:
    pool = [place("grown", 25, leases=1), place("idle", 10)]
    assert plan(pool, limits(30), 1.0).evict == ("idle",)


def test_what_can_never_fit_is_refused_at_once_with_numbers() -> None:
    found = plan([place("pinned", 20, pinned=True), place("new", 15, "absent", since=1.0)], limits(30), 2.0)
    assert found.refuse == {"new": (15, 10)}
    full = [place("pinned", pinned=True), place("new", 1, "absent", since=1.0)]
    assert "new" in plan(full, limits(30, max_models=1), 2.0).refuse
