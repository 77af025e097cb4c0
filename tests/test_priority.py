"""Requests of low priority start after all others that wait, and yet not never."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_panel.engine.engine import Engine
from mlx_panel.engine.queue import PATIENCE, PromptQueue, Space
from mlx_panel.messages import Done, GenerateRequest
from mlx_panel.tuning import AdmissionOrder, EngineOptions

from .models import tiny_model
from .test_pace import row

orders = st.sampled_from(["shortest", "arrival"])


def play(queue: PromptQueue, order: AdmissionOrder, budget: int, places: int) -> list[str]:
    """A turn, and what it starts; rows whose prompt is processed leave at once."""
    group = queue.turn(order, budget, Space(places))
    started = [one.id for one in group if not one.started]
    for one in group:
        one.started = True
        one.position += min(one.left, budget)
        if not one.left:
            queue.remove(one)
    return started


@given(
    orders,
    st.lists(st.tuples(st.booleans(), st.integers(0, 300)), max_size=30),
    st.integers(1, 500),
    st.integers(1, 8),
)
def test_no_low_row_starts_while_another_waits(
    order: AdmissionOrder, rows: list[tuple[bool, int]], budget: int, places: int
) -> None:
    queue = PromptQueue()
    for number, (low, length) in enumerate(rows):
        queue.add(row(f"{'low' if low else 'normal'}{number}", length, priority="low" if low else "normal"))
    seen: list[str] = []
    while len(queue):
        started = play(queue, order, budget, places)
        seen += started
        waits = [one for one in queue if not one.started and one.request.priority == "normal"]
        if waits and sum(name.startswith("normal") for name in seen) < PATIENCE:
            assert not any(name.startswith("low") for name in started)
    assert sorted(seen) == sorted({f"{'low' if low else 'normal'}{at}" for at, (low, _) in enumerate(rows)})


@settings(deadline=None, max_examples=40)
@given(
    orders,
    st.integers(0, 200),
    st.lists(st.integers(0, 300), min_size=1, max_size=4),
    st.integers(20, 500),
    st.integers(1, 8),
)
def test_a_low_row_starts_in_bounded_time(
    order: AdmissionOrder, before: int, lengths: list[int], budget: int, places: int
) -> None:
    """However many others keep coming, hardly more than PATIENCE of those that came after it start before it."""
    queue = PromptQueue()
    for number in range(before % 10):
        queue.add(row(f"before{number}", 10))
    queue.add(row("low", before, priority="low"))
    after: list[str] = []
    for turn in range(10_000):
        for place, length in enumerate(lengths):
            queue.add(row(f"after{turn}.{place}", length))
        started = play(queue, order, budget, places)
        after += [name for name in started if name.startswith("after")]
        if "low" in started:
            break
    else:
        raise AssertionError("it never started")
    # Those of one turn start together, and one of every two turns may go to the shortest.
    assert len(after) <= 2 * (PATIENCE + 2 * places + len(lengths) * (300 // budget + 2))


def test_the_engine_serves_the_low_one_last(tmp_path: Path) -> None:
    engine = Engine.load(tiny_model(tmp_path / "tiny"), options=EngineOptions(max_batch=1, prefix_cache_mb=0))
    for id, priority in (("running", "normal"), ("low", "low"), ("one", "normal"), ("two", "normal")):
        engine.add(GenerateRequest(id, "m", prompt="Once", max_tokens=3, ignore_eos=True, priority=priority))
        if id == "running":
            engine.step()
    ended = []
    while engine.busy:
        ended += [event.id for event in engine.step() if isinstance(event, Done)]
    assert ended == ["running", "one", "two", "low"]
    engine.close()
