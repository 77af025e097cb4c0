"""A timeline against a simulation that writes down every moment: nothing overlaps, nothing is missing, sums are equal."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_panel.engine import timeline as timelines
from mlx_panel.engine.phases import Phases
from mlx_panel.engine.stretches import MOST
from mlx_panel.engine.timeline import NEIGHBOURS, Timeline
from mlx_panel.messages import Cancelled, Done, Origin, Text, Trace, Usage

TICK = 0.001  # seconds; all durations of the simulation are whole numbers of it


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, ticks: int) -> None:
        self.now += ticks * TICK


class Row(NamedTuple):
    id: str


class Done_(NamedTuple):
    """What the simulation knows of a request that ended."""

    kinds: dict[str, int]
    waited: dict[str, float]
    shared: dict[str, int]


class Engine:
    """Requests in an engine, tick by tick; `done` and `traces` by id. One lane."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.timeline = Timeline(self.clock)
        self.left: dict[str, int] = {}  # prompt tokens
        self.started: set[str] = set()
        self.decoding: list[str] = []
        self.over: set[str] = set()  # those that joined the lane once
        self.ticks: dict[str, dict[str, int]] = {}
        self.waited: dict[str, dict[str, float]] = {}
        self.shared: dict[str, dict[str, int]] = {}
        self.traces: dict[str, Trace] = {}
        self.done: dict[str, Done_] = {}
        self.count = 0

    def spend(self, ticks: int, kind: dict[str, str], usual: dict[str, str]) -> None:
        """Time goes by: what it is to each request, by id, or by the state it is in."""
        self.clock.pass_(ticks)
        for id in self.ticks:
            state = "decode" if id in self.decoding else "wait" if id in self.started else "queue"
            self.ticks[id][kind.get(id) or usual.get(state) or state] += ticks

    def add(self, tokens: int, tokenising: int, late: int) -> str:
        self.count += 1
        id = f"r{self.count}"
        sent = self.clock.now
        self.spend(late, {}, {})
        taken = self.clock.now
        self.spend(tokenising, {}, {})
        self.ticks[id] = defaultdict(int, {"queue": late, "tokenise": tokenising})
        self.waited[id], self.shared[id] = defaultdict(float), defaultdict(int)
        self.left[id] = tokens
        self.timeline.began(id, taken, Origin(f"name-{id}", sent - 5 * TICK, sent))
        return id

    def prefill(self, ids: list[str], tokens: int, ticks: int) -> None:
        """A pass over prompts; who is at the end of its own decodes from now on."""
        ids = [id for id in ids if self.left.get(id)]
        if not ids:
            return
        took = {id: min(tokens, self.left[id]) for id in ids}
        began = self.clock.now
        self.started |= set(ids)
        self.spend(ticks, dict.fromkeys(ids, "prefill"), dict.fromkeys(("queue", "wait", "decode"), "wait"))
        for other in self.ticks:
            if other not in ids:
                for id in ids:
                    self.waited[other][f"name-{id}"] += ticks * took[id] / sum(took.values())
        self.timeline.passed(began, list(took.items()))
        for id in ids:
            self.left[id] -= took[id]

    def decode(self, ticks: int) -> None:
        ready = [id for id, left in self.left.items() if not left and id not in self.over]
        self.over |= set(ready)
        began = self.clock.now
        self.decoding += ready
        self.spend(ticks, {}, {})
        for one in self.decoding:
            for other in self.decoding:
                if one != other:
                    self.shared[one][f"name-{other}"] += 1
        self.timeline.stepped(1, began, [Row(id) for id in self.decoding], joined=bool(ready))

    def end(self, id: str, cancelled: bool, step: int = 0) -> None:
        """A request ends; with a `step` it is told after one of the others, as an engine on a CPU does."""
        if step and id in self.decoding:
            self.decoding.remove(id)
            self.decode(step)
        event = Cancelled(id) if cancelled else Done(id, "stop", Usage())
        (trace,) = self.timeline.ended([Text(id, "x"), event], 0.5)
        self.traces[id] = trace
        self.done[id] = Done_(dict(self.ticks.pop(id)), dict(self.waited[id]), dict(self.shared[id]))
        self.left.pop(id)
        if id in self.decoding:
            self.decoding.remove(id)


acts = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 60), st.integers(0, 5), st.integers(0, 9)),
    st.tuples(st.just("prefill"), st.integers(1, 4), st.integers(1, 60), st.integers(1, 40)),
    st.tuples(st.just("prefill"), st.just(4), st.just(60), st.integers(1, 40)),
    st.tuples(st.just("decode"), st.integers(1, 9)),
    st.tuples(st.just("decode"), st.integers(1, 9)),
    st.tuples(st.just("idle"), st.integers(1, 9)),
    st.tuples(st.just("end"), st.integers(0, 9), st.booleans(), st.sampled_from([0, 4])),
)


def play(script: list[tuple]) -> Engine:
    engine = Engine()
    start = [("add", 50, 1, 0), ("add", 30, 0, 0), ("prefill", 2, 60, 20), ("decode", 3)]
    for act, *numbers in [*start, *script]:
        living = list(engine.left)
        if act == "add":
            engine.add(*numbers)
        elif act == "prefill":
            engine.prefill(living[: numbers[0]], *numbers[1:])
        elif act == "decode":
            engine.decode(*numbers)
        elif act == "idle":
            engine.spend(numbers[0], {}, {})
        elif living:
            engine.end(living[numbers[0] % len(living)], *numbers[1:])
    for id in list(engine.left):
        engine.end(id, False)
    return engine


def by_kind(trace: Trace) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for span in trace.spans:
        found[span.kind] += span.ms
    return {kind: ms for kind, ms in found.items() if ms > 0.01}


def ticked(known: Done_) -> dict[str, float]:
    return {
        kind: pytest.approx(ticks * TICK * 1000, abs=0.01) for kind, ticks in known.kinds.items() if ticks
    }


def whole(trace: Trace) -> float:
    return sum(span.ms for span in trace.spans)


@settings(max_examples=150, deadline=None)
@given(st.lists(acts, max_size=60))
def test_spans_cover_a_life_and_add_up(script: list[tuple]) -> None:
    engine = play(script)
    for id, trace in engine.traces.items():
        known = engine.done[id]
        assert whole(trace) == pytest.approx(sum(known.kinds.values()) * TICK * 1000, abs=0.01)
        assert by_kind(trace) == ticked(known)
        assert not trace.spans or trace.spans[0].at_ms == pytest.approx(5 * TICK * 1000, abs=0.01)
        for one, two in zip(trace.spans, trace.spans[1:], strict=False):
            assert two.at_ms == pytest.approx(one.at_ms + one.ms, abs=0.01)


@settings(max_examples=150, deadline=None)
@given(st.lists(acts, max_size=60))
def test_neighbours_are_those_of_the_simulation_and_symmetric(script: list[tuple]) -> None:
    engine = play(script)
    shared: dict[tuple[str, str], tuple[int, float]] = {}
    for id, trace in engine.traces.items():
        known = engine.done[id]
        waited = {one.request_id: one.prefill_ms for one in trace.neighbours if one.prefill_ms}
        assert waited == {
            name: pytest.approx(ticks * TICK * 1000, abs=0.01) for name, ticks in known.waited.items()
        }
        assert {one.request_id: one.steps for one in trace.neighbours if one.steps} == known.shared
        shared |= {
            (f"name-{id}", one.request_id): (one.steps, one.decode_ms)
            for one in trace.neighbours
            if one.steps
        }
    for (one, other), figures in shared.items():
        assert shared[other, one] == figures


@settings(max_examples=40, deadline=None)
@given(st.lists(acts, max_size=60))
def test_what_is_put_together_still_adds_up(script: list[tuple]) -> None:
    """With room for a handful of entries the places of passes are about right, and every sum is."""
    room, timelines.ENTRIES = timelines.ENTRIES, 4
    try:
        engine = play(script)
    finally:
        timelines.ENTRIES = room
    for id, trace in engine.traces.items():
        assert by_kind(trace) == ticked(engine.done[id])
        assert trace.others_ms == pytest.approx(sum(one.prefill_ms for one in trace.neighbours), abs=0.05)
        assert trace.others_ms == pytest.approx(sum(engine.done[id].waited.values()) * TICK * 1000, abs=0.01)


def test_limits_hold_and_the_largest_stay() -> None:
    engine = Engine()
    watcher = engine.add(1, 0, 0)
    engine.prefill([watcher], 1, 1)
    for number in range(400):
        other = engine.add(10, 0, 0)
        engine.prefill([other], 10, 1 + number % 50)
        engine.decode(1)
        engine.end(other, False)
    engine.end(watcher, False)
    trace = engine.traces[watcher]
    assert len(trace.spans) <= MOST
    assert whole(trace) == pytest.approx(sum(engine.done[watcher].kinds.values()) * TICK * 1000, abs=0.1)
    assert len(trace.neighbours) == NEIGHBOURS
    assert all(one.prefill_ms >= 47 for one in trace.neighbours)
    assert trace.batch == 2.0
    assert repr(engine.timeline).startswith("<Timeline 0 requests")


def test_a_timeline_forgets() -> None:
    engine = Engine()
    for _ in range(300):
        one = engine.add(5, 0, 0)
        engine.prefill([one], 5, 10)
        engine.decode(10)
        engine.end(one, False)
    assert len(engine.timeline._entries) < 60  # those of the last second
    assert len(engine.timeline._past) < 60
    assert engine.timeline._lives == {}


def test_a_pass_that_was_not_waited_for_is_what_the_next_step_took_longer() -> None:
    """As on a GPU: launched in one step, and computed before what the step after it waits for."""
    clock = Clock()
    timeline = Timeline(clock)
    for id in ("here", "new"):
        timeline.began(id, clock.now)

    def step(ticks: int) -> None:
        began = clock.now
        clock.pass_(ticks)
        timeline.stepped(7, began, [Row("here")], joined=timeline._lanes == {})

    for _ in range(20):
        step(10)
    timeline.passed(clock.now, [("new", 64)], waited=False)
    step(10)
    step(110)
    step(10)
    (trace,) = timeline.ended([Done("here", "stop", Usage())])
    (other,) = trace.neighbours
    assert (other.request_id, other.tokens) == ("new", 64)
    assert other.prefill_ms == pytest.approx(100, abs=1)
    assert by_kind(trace)["wait"] == pytest.approx(100, abs=1)
    assert by_kind(trace)["decode"] == pytest.approx(230, abs=1)
    (mine,) = timeline.ended([Cancelled("new")])
    assert by_kind(mine)["prefill"] == pytest.approx(100, abs=1)


def test_lanes_wait_for_each_other_and_choices_are_one_request() -> None:
    clock = Clock()
    timeline = Timeline(clock)
    for id in ("two", "alone"):
        timeline.began(id, clock.now)
    for number in range(10):
        for lane, rows in ((1, [Row("two"), Row("two")]), (2, [Row("alone")])):
            began = clock.now
            clock.pass_(10)
            timeline.stepped(lane, began, rows, joined=number == 0)
    two, alone = timeline.ended([Done("two", "stop", Usage()), Done("alone", "stop", Usage(), last=True)])
    assert (two.batch, alone.batch) == (2.0, 1.0)
    assert two.neighbours == alone.neighbours == ()  # they shared no step
    for trace in (two, alone):
        assert by_kind(trace)["decode"] == pytest.approx(100, abs=11)
        assert by_kind(trace)["wait"] + by_kind(trace).get("queue", 0.0) == pytest.approx(100, abs=11)


def test_what_the_cache_brought_back_and_what_it_saved() -> None:
    clock = Clock()
    timeline = Timeline(clock)
    timeline.began(
        "one", clock.now, Origin("caller's", 0.0, clock.now + 7)
    )  # sent in the future: another clock
    timeline.hashed("one", 32, b"12345678")
    began = clock.now
    clock.pass_(30)
    timeline.restored("one", began, 500)
    (trace,) = timeline.ended([Done("one", "length", Usage())], 0.002)
    assert [(span.kind, span.at_ms) for span in trace.spans] == [("restore", 0.0)]
    assert (trace.saved_ms, trace.block_tokens, trace.blocks) == (1000.0, 32, b"12345678")
    assert timeline.ended([Done("one", "length", Usage())]) == []  # told once
    assert timeline.ended([Done("nobody", "length", Usage(), last=False)]) == []


def test_phases_follow_each_other() -> None:
    clock = Clock()
    phases = Phases(clock)
    phases.began("one", clock.now, Origin("caller's", clock.now - 1.0, clock.now - 0.5))
    for kind, tokens in (("tokenise", 0), ("prefill", 5), ("prefill", 6), ("decode", 0)):
        clock.pass_(100)
        phases.turned("one", kind, tokens)
    clock.pass_(100)
    phases.turned("nobody", "decode")
    (trace,) = phases.ended([Done("one", "stop", Usage())])
    assert [(span.kind, round(span.at_ms), round(span.ms), span.tokens) for span in trace.spans] == [
        ("queue", 500, 600, 0), ("tokenise", 1100, 100, 0), ("prefill", 1200, 200, 11), ("decode", 1400, 100, 0),
    ]  # fmt: skip
