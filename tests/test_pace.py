"""Whose prompt is processed when, and how much of it: pure rules, tried by many cases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_panel.engine.pace import FIRST_CHUNK, GROWTH, SMALLEST_CHUNK, Pace
from mlx_panel.engine.prompt import Prompt
from mlx_panel.engine.queue import PromptQueue, Space
from mlx_panel.engine.row import Row
from mlx_panel.messages import GenerateRequest
from mlx_panel.tuning import EngineOptions


class Machine:
    """Takes so many seconds a prompt token, and so many for a pass or a step however short."""

    def __init__(self, pace: Pace, token: float, step: float):
        self.pace, self.token, self.step = pace, token, step

    def run(self, steps: int, *, decoding: bool = True) -> list[tuple[int, float]]:
        """The chunk of each step, and how long running answers waited for that step."""
        seen = []
        for _ in range(steps):
            chunk = self.pace.chunk(decoding=decoding)
            seconds = chunk * self.token + self.step if chunk else 0.0
            if chunk:
                self.pace.prefilled(chunk, seconds)
            if decoding:
                self.pace.decoded(self.step)
            seen.append((chunk, seconds + self.step))
        return seen


@given(
    st.floats(1e-5, 0.01),
    st.floats(1e-4, 0.05),
    st.floats(60, 1000),
    st.integers(16, 4096),
    st.floats(0, 0.9),
)
def test_no_step_is_longer_than_the_limit_and_a_pass_of_the_smallest_chunk(
    token: float, step: float, limit: float, most: int, share: float
) -> None:
    options = EngineOptions(max_decode_stall_ms=limit, prefill_step=most, decode_share=share)
    # What the first chunk costs is learnt by running it.
    first, *learning = [one for one in Machine(Pace(options), token, step).run(400) if one[0]]
    later = learning[8:]
    smallest = SMALLEST_CHUNK * token + step
    assert first[0] == min(FIRST_CHUNK, most)
    assert all(seconds <= max(limit / 1000, smallest) + step for _, seconds in later)
    assert all(chunk <= most for chunk, _ in later)


def test_a_longer_stall_means_longer_chunks_and_a_larger_share_fewer() -> None:
    def tokens(**options: float) -> float:
        machine = Machine(Pace(EngineOptions(prefill_step=10_000, **options)), 0.004, 0.05)
        seen = machine.run(200)
        return sum(chunk for chunk, _ in seen) / sum(seconds for _, seconds in seen)

    assert tokens(max_decode_stall_ms=400) > 1.15 * tokens(max_decode_stall_ms=200)
    assert tokens(decode_share=0.0) > 1.3 * tokens(decode_share=0.5) > 1.3 * tokens(decode_share=0.8)


def test_decoding_gets_its_share_of_the_time() -> None:
    machine = Machine(Pace(EngineOptions(decode_share=0.5)), 0.004, 0.02)
    seen = machine.run(200)[5:]
    prefill = sum(seconds - machine.step for _, seconds in seen)
    assert len(seen) * machine.step >= 0.45 * (prefill + len(seen) * machine.step)


def test_without_running_answers_chunks_grow_to_the_largest() -> None:
    machine = Machine(Pace(EngineOptions(prefill_step=512)), 0.0001, 0.001)
    chunks = [chunk for chunk, _ in machine.run(4, decoding=False)]
    assert chunks == [FIRST_CHUNK, GROWTH * FIRST_CHUNK, 512, 512]


def test_one_slow_pass_changes_nothing() -> None:
    pace = Pace(EngineOptions())
    machine = Machine(pace, 0.003, 0.05)
    machine.run(20)
    before = machine.run(4)[-1]
    pace.prefilled(30, 3.0)
    pace.decoded(2.0)
    pace.decoded(2.0)
    assert machine.run(40)[-1] == before


def row(id: str, tokens: int, **more) -> Row:
    return Row(GenerateRequest(id, "m", prompt="", **more), Prompt([1] * (tokens + 1), 9), None)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=6), st.integers(20, 200), st.integers(1, 8))
def test_every_prompt_has_its_turn_in_bounded_time(lengths: list[int], budget: int, places: int) -> None:
    """However many short prompts keep coming, the oldest one moves at every other turn."""
    queue = PromptQueue()
    oldest = row("oldest", 1000)
    queue.add(oldest)
    turns = 0
    while oldest in queue:
        for length in lengths:
            queue.add(row("short", length))
        group = queue.turn("shortest", budget, Space(places))
        turns += 1
        for one in group:
            one.started = True
            one.position += min(one.left, budget)
            if not one.left:
                queue.remove(one)
    assert turns <= 2 * (1000 // budget + 1)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=30), st.integers(1, 500), st.integers(0, 40))
def test_a_group_fits_the_budget_and_the_places(lengths: list[int], budget: int, places: int) -> None:
    queue = PromptQueue()
    for length in lengths:
        queue.add(row(str(length), length))
    group = queue.turn("shortest", budget, Space(places))
    assert len(group) <= places
    assert bool(group) == bool(places)
    if len(group) > 1:
        assert len(group) * max(one.left for one in group) <= budget


def test_in_order_of_arrival_nobody_overtakes() -> None:
    queue = PromptQueue()
    for length in (500, 3, 4):
        queue.add(row(str(length), length))
    assert [queue.turn("arrival", 100, Space(4)) for _ in range(3)] == [[next(iter(queue))]] * 3


@pytest.mark.parametrize("apart", [{"deterministic": True}, {}])
def test_a_prompt_that_wants_to_be_alone_is(apart: dict) -> None:
    queue = PromptQueue()
    queue.add(row("one", 3, **apart))
    queue.add(row("two", 3))
    assert len(queue.turn("arrival", 100, Space(4))) == (1 if apart else 2)
