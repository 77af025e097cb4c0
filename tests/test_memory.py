"""An engine with a memory limit, and a real (tiny) model: what it takes on, what waits, what it refuses."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import mlx.core as mx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from mlx_panel.engine import admission, kv, used
from mlx_panel.engine.embed.engine import EmbedEngine
from mlx_panel.engine.engine import Engine
from mlx_panel.engine.fake import FakeEngine, FakeSpec
from mlx_panel.engine.prompt import Prompt
from mlx_panel.engine.queue import PromptQueue
from mlx_panel.engine.row import Row
from mlx_panel.errors import ContextLengthExceeded, MemoryExceeded
from mlx_panel.messages import (
    CacheReport,
    Done,
    Embedded,
    EmbedRequest,
    Event,
    Failed,
    GenerateRequest,
    Sampling,
    Stage,
)
from mlx_panel.sizing import STEP, Room, Shape, kv_bytes, size
from mlx_panel.tuning import EngineOptions

from .embedding_models import tiny_bert
from .models import tiny_model

CONTEXT = 4096
OPTIONS = EngineOptions(max_batch=8, prefill_step=64, prefix_cache_mb=0)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tiny_model(tmp_path_factory.mktemp("memory"), context=CONTEXT)
    engine = Engine.load(folder, options=msgspec.structs.replace(OPTIONS, prefix_cache_mb=64))
    yield engine
    engine.close()


@pytest.fixture
def engine(loaded: Engine) -> Iterator[Engine]:
    loaded.tune(OPTIONS)
    loaded.forget()
    yield loaded
    for id in loaded.ids:
        loaded.cancel(id)
    loaded.step()


def needed(engine: Engine, *tokens: int) -> int:
    """Bytes that sequences of so many tokens take together, and a pass."""
    shape = engine._budget.admission.shape
    passed = size(shape, Room(context=max(tokens), prefill_step=OPTIONS.prefill_step)).transient
    return sum(kv_bytes(shape, one) for one in tokens) + passed


def limit(engine: Engine, extra: int, **more: Any) -> None:
    """Leave the engine so many bytes beside what it has anyway."""
    resident = engine._budget.admission.resident
    engine.tune(msgspec.structs.replace(OPTIONS, memory_limit=resident + extra, **more))


def ask(id: str, tokens: int, answer: int | None, **more: Any) -> GenerateRequest:
    sampling = Sampling(temperature=0.0)
    prompt = tuple(3 + place % 90 for place in range(tokens))
    return GenerateRequest(
        id, "tiny", tokens=prompt, max_tokens=answer, sampling=sampling, ignore_eos=True, **more
    )


def drain(engine: Engine) -> dict[str, list[Event]]:
    events = defaultdict(list)
    while engine.busy:
        for event in engine.step():
            events[event.id].append(event)
    return events


def test_what_never_fits_is_refused_with_the_figures(engine: Engine) -> None:
    limit(engine, needed(engine, 2 * STEP))
    with pytest.raises(MemoryExceeded) as refused:
        engine.add(ask("a", 100, 2 * STEP))
    numbers = refused.value.numbers
    assert numbers == {
        "needed_bytes": needed(engine, 3 * STEP),
        "available_bytes": needed(engine, 2 * STEP),
        "largest_context": 2 * STEP,
    }
    assert "the largest context that fits has 512 tokens" in str(refused.value)
    assert refused.value.field == "prompt"
    # The figure is exact: this one fits, and one more token does not.
    engine.add(ask("b", 100, numbers["largest_context"] - 100))
    with pytest.raises(MemoryExceeded):
        engine.add(ask("c", 100, numbers["largest_context"] - 99))
    assert drain(engine)["b"][-1].finish_reason == "length"


def test_without_a_limit_everything_is_taken(engine: Engine) -> None:
    engine.add(ask("a", 100, CONTEXT - 100))
    engine.add(ask("b", 100, CONTEXT - 100))
    while engine.queued:
        engine.step()
    assert engine.running == 2


def test_choices_count_as_many_times_as_they_are(engine: Engine) -> None:
    limit(engine, needed(engine, STEP, STEP, STEP))
    engine.add(ask("a", 10, 20, n=3))
    with pytest.raises(MemoryExceeded):
        engine.add(ask("b", 10, 20, n=4))
    assert sum(isinstance(event, Done) for event in drain(engine)["a"]) == 3


def test_what_fits_alone_but_not_beside_others_waits_for_them(engine: Engine) -> None:
    limit(engine, needed(engine, STEP, STEP))
    for id in "abc":
        engine.add(ask(id, 20, 200))
    most, order = 0, []
    while engine.busy:
        order += [event.id for event in engine.step() if isinstance(event, Done)]
        most = max(most, engine.running)
    assert most == 2
    assert sorted(order) == ["a", "b", "c"]


def test_one_that_waits_starts_when_another_ends(engine: Engine) -> None:
    limit(engine, needed(engine, STEP))
    engine.add(ask("a", 20, 200))
    engine.step()
    engine.add(ask("b", 20, 30))
    for _ in range(5):
        engine.step()
    assert (engine.running, engine.queued) == (1, 1)
    engine.cancel("a")
    assert [type(event) for event in drain(engine)["b"]][-1] is Done


def test_short_ones_do_not_keep_a_long_one_waiting_for_ever(engine: Engine) -> None:
    limit(engine, needed(engine, 8 * STEP))
    engine.add(ask("short", 20, 100))
    engine.step()
    engine.add(ask("long", 1500, 500))
    for number in range(6):
        engine.add(ask(f"later {number}", 20, 100))
    begun = []
    while engine.busy:
        begun += [
            event.id for event in engine.step() if isinstance(event, CacheReport) and event.id != "short"
        ]
    assert begun[0] == "long"


def test_an_answer_without_a_limit_ends_where_memory_does(engine: Engine) -> None:
    limit(engine, needed(engine, 3 * STEP))
    engine.add(ask("a", 100, None))
    done = drain(engine)["a"][-1]
    assert (done.finish_reason, done.usage.total_tokens) == ("length", 3 * STEP)


def test_answers_without_a_limit_share_what_there_is(engine: Engine) -> None:
    """Each counts for a share at first, so they run side by side; the one that is left has all of it."""
    limit(engine, needed(engine, *[4 * STEP] * 2))
    assert admission.LEAST_SHARE < 8 * STEP
    engine.add(ask("a", 100, None))
    engine.add(ask("b", 100, None))
    for _ in range(100):
        engine.step()
    assert engine.running == 2
    events = drain(engine)
    lengths = sorted(events[id][-1].usage.total_tokens for id in "ab")
    assert admission.LEAST_SHARE < lengths[0] <= lengths[1] <= 8 * STEP
    assert all(events[id][-1].finish_reason == "length" for id in "ab")


def test_nobody_starts_while_an_answer_needs_more(engine: Engine) -> None:
    limit(engine, needed(engine, 4 * STEP) - 1)
    engine.add(ask("a", 100, None))
    while engine._budget.admission.starving is False:
        engine.step()
    engine.add(ask("b", 20, 20))
    engine.step()
    assert (engine.running, engine.queued) == (1, 1)
    assert [type(event) for event in drain(engine)["b"]][-1] is Done


def test_less_memory_than_when_it_was_taken_refuses_it(engine: Engine) -> None:
    limit(engine, needed(engine, 6 * STEP))
    engine.add(ask("runs", 20, 20))
    engine.step()
    engine.add(ask("hard", 100, 5 * STEP))
    engine.add(ask("open", 100, None))
    limit(engine, needed(engine, 2 * STEP))
    events = drain(engine)
    assert isinstance(events["runs"][-1], Done)
    (failed,) = [event for event in events["hard"] if not isinstance(event, Stage)]
    assert isinstance(failed, Failed)
    assert failed.code == "memory_exceeded"
    assert failed.numbers["largest_context"] == 2 * STEP
    assert events["open"][-1].usage.total_tokens == 2 * STEP


def test_old_prompts_give_way_to_requests(engine: Engine) -> None:
    whole = needed(engine, 8 * STEP)
    limit(engine, whole, prefix_cache_mb=64)
    engine.add(ask("a", 1000, 8))
    drain(engine)
    kept = engine.figures().bytes
    assert kept > kv_bytes(engine._budget.admission.shape, 700)
    engine.add(ask("b", 900, 1100))
    engine.step()
    assert engine.figures().budget < whole - needed(engine, 7 * STEP)
    assert engine.figures().bytes <= engine.figures().budget < kept
    drain(engine)
    engine.add(ask("c", 10, 1))
    drain(engine)
    assert engine.figures().budget > kept


def test_what_was_freed_is_not_kept_beyond_the_limit(engine: Engine) -> None:
    limit(engine, needed(engine, 8 * STEP))
    usual, most = engine._budget._keeps, engine._budget.admission.pass_bytes
    seen = 0
    engine.add(ask("a", 1500, 60))
    while engine.busy:
        engine.step()
        seen = max(seen, mx.get_cache_memory())
    assert 0 < seen <= most == used.keeps()
    engine.tune(OPTIONS)
    assert used.keeps() == usual > most


def test_the_pulse_tells_what_is_committed(engine: Engine) -> None:
    limit(
        engine, needed(engine, 8 * STEP) + (64 << 20)
    )  # a pulse measures anew, and this process is not alone here
    resting = engine.beat()
    assert resting.limit == engine.options.memory_limit
    assert resting.committed == engine._budget.admission.resident
    engine.add(ask("a", 100, 400))
    engine.step()
    working = engine.beat()
    assert working.committed == resting.committed + needed(engine, 2 * STEP)
    assert working.memory.process > 0


requests = st.lists(
    st.tuples(
        st.integers(1, 700), st.one_of(st.integers(1, 30), st.none()), st.integers(1, 3), st.integers(0, 12)
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests, st.integers(3 * STEP, 5 * STEP), st.sampled_from(["shortest", "arrival"]))
def test_the_engine_promises_no_more_than_there_is(
    engine: Engine, asked: list[tuple[int, int | None, int, int]], room: int, order: Any
) -> None:
    """Whatever comes and whenever: what the started requests may come to need fits, or one runs alone; all end."""
    limit(engine, needed(engine, room), admission_order=order)
    extra = engine.options.memory_limit - engine._budget.admission.resident
    shape, ended, waiting = engine._budget.admission.shape, [], list(enumerate(asked))
    steps = 0
    while waiting or engine.busy:
        steps += 1
        while waiting and waiting[0][1][3] <= steps:
            number, (tokens, answer, n, _) = waiting.pop(0)
            try:
                engine.add(ask(str(number), tokens, answer, n=n, min_tokens=0))
            except MemoryExceeded:
                ended.append(str(number))
        for event in engine.step():
            if isinstance(event, Done | Failed) and getattr(event, "last", True):
                ended.append(event.id)
        rows = engine._budget._started
        promised = sum(
            kv_bytes(shape, len(row.prompt.tokens) + row.prompt.max_tokens, row.width) for row in rows
        )
        assert promised <= extra
        assert sum(kv_bytes(shape, row.position, 1) for row in rows) <= extra
    assert sorted(ended) == sorted(str(number) for number in range(len(asked)))


@given(requests, st.integers(3 * STEP, 40 * STEP), st.booleans(), st.sampled_from(["shortest", "arrival"]))
def test_never_is_more_promised_than_there_is(
    asked: list[tuple[int, int | None, int, int]], room: int, low: bool, order: Any
) -> None:
    """The same without a model, for many more cases: every step gives each row that runs some tokens."""
    shape = Shape(weights=0, kv_token=512, activation_token=100, activation_pair=2)
    options = EngineOptions(prefill_step=64)
    limit = 10**6 + size(shape, Room(context=room, prefill_step=64)).total
    gate = admission.Admission(shape, msgspec.structs.replace(options, memory_limit=limit))
    gate.resident = 10**6
    queue, running = PromptQueue(), []
    for number, (tokens, answer, n, _) in enumerate(asked):
        wanted = ask(str(number), tokens, answer, n=n, priority="low" if low and number % 2 else "normal")
        with contextlib.suppress(MemoryExceeded):
            prompt = gate.cut(Prompt([1] * tokens, answer or CONTEXT - tokens), wanted)
            queue.add(Row(wanted, prompt, None))
    steps = 0
    for row in queue:
        gate.weigh(row)
    while len(queue) or running:
        steps += 1
        assert steps < 2000
        gate.extend(running, lambda: 0)
        turn = queue.turn(order, 10**6, gate.space(running, 0, 32), idle=not running)
        assert turn or running
        for row in turn:
            row.started, row.position = True, len(row.prompt.tokens)
            queue.remove(row)
            running.append(row)
        promised = sum(gate.needs(row) for row in running)
        assert promised + gate.resident <= limit
        assert gate.committed(running) <= limit or len(running) == 1
        for row in running:
            row.answer += [1] * min(row.room, 32)
            row.position = len(row.prompt.tokens) + len(row.answer)
        running = [row for row in running if row.room > 0]


def test_the_context_can_be_capped_while_it_runs(engine: Engine) -> None:
    engine.tune(msgspec.structs.replace(OPTIONS, context_length=300))
    with pytest.raises(ContextLengthExceeded) as refused:
        engine.add(ask("a", 290, 20))
    assert refused.value.numbers["context_length"] == 300
    engine.add(ask("b", 290, None))
    assert drain(engine)["b"][-1].usage.total_tokens == 300
    engine.tune(OPTIONS)
    engine.add(ask("c", 290, 20, context_length=310))
    with pytest.raises(ContextLengthExceeded):
        engine.add(ask("d", 290, 21, context_length=310))


def test_the_real_caches_say_what_they_take(engine: Engine) -> None:
    caches = kv.make_caches(engine.model)
    engine.model(mx.zeros((1, 9), mx.uint32), cache=caches)
    assert kv.shape(caches).kv_token == engine._budget.admission.shape.kv_token == 2 * 2 * 2 * 16 * 4


# --- how far a load is --------------------------------------------------------------------------------------------


def test_a_load_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_panel.engine.reading.LEAST", 1 << 16)
    told: list[tuple[str, int, int]] = []
    engine = Engine.load(tiny_model(tmp_path / "tiny"), progress=lambda *news: told.append(news))
    total = engine.info.weights_bytes
    engine.close()
    stages = [stage for stage, _, _ in told]
    assert stages == ["weights"] * (len(told) - 1) + ["warming"]
    done = [news[1] for news in told[:-1]]
    assert done[0] == 0
    assert done[-1] == total == told[0][2]
    assert done == sorted(done)
    assert len(done) > 4


def test_other_engines_keep_to_a_shorter_context(tmp_path: Path) -> None:
    fake = FakeEngine(FakeSpec(), options=EngineOptions(context_length=5, memory_limit=7))
    assert fake.beat().limit == 7
    with pytest.raises(ContextLengthExceeded):
        fake.add(GenerateRequest("a", "fake", prompt="one two three", max_tokens=3))
    embed = EmbedEngine.load(tiny_bert(tmp_path / "bert"), options=EngineOptions(context_length=4))
    with pytest.raises(ContextLengthExceeded) as refused:
        embed.add(EmbedRequest("b", "bert", inputs=((1, 2, 3, 4, 5),)))
    assert refused.value.numbers["context_length"] == 4
    words = "the cat and the dog and the bird"
    *_, told = embed.generate(EmbedRequest("c", "bert", inputs=(words,), truncate=True))
    assert isinstance(told, Embedded)
    assert (told.truncated, told.usage.prompt_tokens) == (1, 4)
    embed.tune(EngineOptions())
    *_, whole = embed.generate(EmbedRequest("d", "bert", inputs=(words,), truncate=True))
    assert isinstance(whole, Embedded)
    assert whole.truncated == 0
    embed.close()


def test_other_engines_tell_too(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    EmbedEngine.load(tiny_bert(tmp_path / "bert"), progress=lambda *news: told.append(news)).close()
    assert [news[0] for news in told[-2:]] == ["weights", "warming"]
    assert told[-2][1] == told[-2][2] > 0
    told.clear()
    FakeEngine(FakeSpec(weights_bytes=1000, load_seconds=0.01), progress=lambda *news: told.append(news))
    assert [news[1] for news in told[:-1]] == list(range(0, 1001, 100))
    assert told[-1][0] == "warming"
