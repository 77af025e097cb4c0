"""The engine and its caches: prompts seen before, quantised KV caches, sliding windows, memory and disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_panel.engine.engine import Engine
from mlx_panel.engine.slots import arrays_of
from mlx_panel.errors import ModelLoadFailed
from mlx_panel.messages import Done, Event, Failed, GenerateRequest, Message, Sampling, Text
from mlx_panel.tuning import CacheReport, EngineOptions

from .models import tiny_model

KINDS = {"full": {}, "quantised": {"kv_bits": 8, "kv_group_size": 32}, "window": {}}
STORY = "Once upon a time there was a little model which knew nothing at all. " * 10


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model whose head is 32 wide, and the same weights with a sliding window in its second layer."""
    full = tiny_model(tmp_path_factory.mktemp("full"), hidden=128, context=4096)
    window = tiny_model(tmp_path_factory.mktemp("window"), hidden=128, context=4096)
    config = json.loads((window / "config.json").read_text())
    config |= {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 48}
    (window / "config.json").write_text(json.dumps(config))
    return {"full": full, "quantised": full, "window": window}


@pytest.fixture
def load(folders: dict[str, Path]) -> Iterator:
    engines: list[Engine] = []

    def make(kind: str = "full", **options) -> Engine:
        engine = Engine.load(folders[kind], options=EngineOptions(**KINDS[kind], **options))
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


def conversation(*texts: str, id: str = "a", **more) -> GenerateRequest:
    roles = ("system", "user", "assistant")
    turns = tuple(
        Message(roles[0] if not at else roles[1 + (at + 1) % 2], text) for at, text in enumerate(texts)
    )
    more = {"max_tokens": 12, "sampling": Sampling(0.0), "logprobs": 5} | more
    return GenerateRequest(id, "tiny", messages=turns, **more)


def run(engine: Engine, request: GenerateRequest) -> tuple[CacheReport, list[Event], Done]:
    events = list(engine.generate(request))
    report = next(event for event in events if isinstance(event, CacheReport))
    return report, [event for event in events if isinstance(event, Text)], events[-1]


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    """Files are written and deleted on a thread of its own."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def logprobs(events: list[Event]) -> list[float]:
    return [top.logprob for event in events for one in event.logprobs for top in one.top]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tier", ["memory", "disk"])
def test_a_second_turn_begins_where_the_first_ended(load, kind: str, tier: str, tmp_path: Path) -> None:
    disk = {"prefix_disk": str(tmp_path)} if tier == "disk" else {}
    first = conversation(STORY, "Tell me more.")
    second = conversation(STORY, "Tell me more.", "No.", "Why not?")
    cold = load(kind, prefix_cache_mb=0)
    _, answer, done = run(cold, second)
    assert done.usage.cached_tokens == 0
    engine = load(kind, **disk)
    run(engine, first)
    if tier == "disk":
        engine.close()
        engine = load(kind, **disk)
    report, again, end = run(engine, second)
    assert report.tier == tier
    assert end.usage.cached_tokens == report.cached_tokens > 0.6 * end.usage.prompt_tokens
    assert end.usage.prompt_tokens == done.usage.prompt_tokens
    assert "".join(event.text for event in again) == "".join(event.text for event in answer)
    assert logprobs(again) == pytest.approx(logprobs(answer), abs=0.05 if kind == "quantised" else 1e-3)
    figures = engine.figures()
    assert (figures.hits, figures.tokens_cached) == (1, report.cached_tokens)


def test_a_changed_message_is_named_and_nothing_of_it_is_told(load) -> None:
    engine = load()
    run(engine, conversation(STORY, "Tell me more.", "No.", "Why not?"))
    report, _, done = run(engine, conversation(STORY[:-9] + "at last.", "Tell me more."))
    assert (report.outcome, report.message, report.role) == ("changed", 0, "system")
    assert 16 <= report.cached_tokens == done.usage.cached_tokens <= report.diverged_at
    nothing, _, _ = run(engine, conversation("def add(a, b):", "x"))
    assert (nothing.outcome, nothing.cached_tokens) == ("first", 0)


def test_requests_of_one_batch_share_what_one_of_them_computed(load) -> None:
    engine = load(prefill_step=64)
    for number in range(5):
        engine.add(conversation(STORY, str(number), id=str(number)))
    done = {}
    while engine.busy:
        done |= {event.id: event for event in engine.step() if isinstance(event, Done)}
    assert sorted(event.usage.cached_tokens > 64 for event in done.values()) == [
        False,
        True,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_that_come_together_are_answered_as_each_by_itself(load, kind: str) -> None:
    """Where a window has to be kept at the ends of messages, a prompt stops on its way, and cannot share a pass."""
    requests = [conversation("Once upon a time", "x" * (4 + n), id=str(n), max_tokens=8) for n in range(4)]
    alone = {}
    for request in requests:
        alone[request.id] = "".join(event.text for event in run(load(kind, prefix_cache_mb=0), request)[1])
    engine = load(kind)
    for _ in range(2):  # computed, then restored
        together = dict.fromkeys(alone, "")
        for request in requests:
            engine.add(request)
        while engine.busy:
            for event in engine.step():
                together[event.id] += event.text if isinstance(event, Text) else ""
        assert together == alone


@pytest.mark.parametrize("options", [{"prefix_cache_mb": 0}, {"tuned": 0}])
def test_without_room_nothing_is_kept(load, options: dict) -> None:
    engine = load(**{name: value for name, value in options.items() if name != "tuned"})
    run(engine, conversation(STORY, "x"))
    if "tuned" in options:
        assert engine.figures().bytes > 0
        engine.tune(EngineOptions(prefix_cache_mb=0))
    report, _, done = run(engine, conversation(STORY, "x"))
    assert (report.outcome, done.usage.cached_tokens, engine.figures().bytes) == ("off", 0, 0)


def test_forgetting_empties_memory_and_disk(load, tmp_path: Path) -> None:
    engine = load(prefix_disk=str(tmp_path))
    run(engine, conversation(STORY, "x"))
    engine.forget()
    assert run(engine, conversation(STORY, "x"))[0].cached_tokens == 0
    figures = engine.figures()
    assert figures.budget == 1024 << 20
    assert figures.disk_budget == 8192 << 20


def test_room_on_disk_comes_and_goes_while_it_runs(load, tmp_path: Path) -> None:
    def files() -> int:
        return len(list(tmp_path.rglob("*.safetensors")))

    run(load(prefix_disk=str(tmp_path)), conversation(STORY, "x"))
    wait_for(lambda: files() >= 2)
    engine = load(prefix_disk=str(tmp_path), prefix_disk_mb=0)
    wait_for(lambda: not files())
    assert run(engine, conversation(STORY, "x"))[0].tier == "none"
    assert not files()
    engine.tune(EngineOptions(prefix_disk_mb=64))
    run(engine, conversation(STORY[1:], "x"))
    wait_for(lambda: files() >= 2)
    engine.tune(EngineOptions(prefix_disk_mb=0))
    wait_for(lambda: not files())


def test_a_deterministic_request_takes_nothing_from_the_cache(load) -> None:
    engine = load()
    run(engine, conversation(STORY, "x"))
    report, _, done = run(engine, conversation(STORY, "x", deterministic=True, logprobs=None))
    assert (report.outcome, done.usage.cached_tokens) == ("off", 0)


def test_what_a_cancelled_request_computed_is_kept(load) -> None:
    engine = load(prefill_step=64)
    engine.add(conversation(STORY, "x"))
    engine.step()
    engine.step()
    engine.cancel("a")
    engine.step()
    assert run(engine, conversation(STORY, "x"))[0].cached_tokens >= 64


class Faulty:
    """A model whose every pass gives NaN, into the caches too, until it is healed."""

    def __init__(self, model: Any):
        self._model, self.healed = model, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        logits = self._model(inputs, cache=cache)
        if not self.healed:
            for array in (
                array for layer in cache for array in arrays_of(layer) if array.dtype == mx.float32
            ):
                array[:] = mx.nan
        return logits if self.healed else logits * mx.nan


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_passing_fault_computed_does_not_stay(load, kind: str, tmp_path: Path) -> None:
    engine = load(kind, prefix_disk=str(tmp_path), prefill_step=64)
    _, wanted, _ = run(load(kind, prefix_cache_mb=0), conversation(STORY, "y"))
    healthy = conversation("def add(a, b):" * 9, "x", id="healthy")
    run(engine, healthy)
    model = Faulty(engine.model)
    engine._prefill._model = engine._lanes._main._model = model
    assert isinstance(list(engine.generate(conversation(STORY, "x")))[-1], Failed)
    model.healed = True
    report, answer, _ = run(engine, conversation(STORY, "y"))
    assert report.cached_tokens == 0
    assert logprobs(answer) == pytest.approx(logprobs(wanted), abs=1e-3)
    assert run(engine, healthy)[0].cached_tokens > 64


def test_a_cache_that_cannot_be_kept_ends_no_request(load, caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("canary")

    engine = load()
    _, wanted, _ = run(load(prefix_cache_mb=0), conversation(STORY, "a", id="a"))
    for id, more in (("a", {}), ("b", {"max_tokens": 9}), ("c", {"max_tokens": 30})):
        engine.add(conversation(STORY, id, id=id, **more))
    events: list[Event] = []
    while {event.id for event in events if isinstance(event, Text)} != {"a", "b", "c"}:
        events += engine.step()
    engine._prefix.store = engine._prefix.flush = fails  # type: ignore[method-assign, union-attr]
    assert engine.cancel("c")
    while engine.busy:
        events += engine.step()
    assert {event.id for event in events if isinstance(event, Done)} == {"a", "b"}
    answer = [event for event in events if isinstance(event, Text) and event.id == "a"]
    assert "".join(event.text for event in answer) == "".join(event.text for event in wanted)
    assert "canary" not in caplog.text
    assert "the prefix cache could not be kept: RuntimeError" in caplog.text
    del engine._prefix.store, engine._prefix.flush  # type: ignore[union-attr]


def test_a_quantised_cache_is_told_as_what_it_is_and_is_smaller(load) -> None:
    sizes = {}
    for kind in ("full", "quantised"):
        engine = load(kind)
        for id in ("a", "b"):
            engine.add(conversation(STORY, id, id=id, max_tokens=30, logprobs=None))
        while not any(isinstance(event, Text) for event in engine.step()):
            pass
        figures = engine.figures()
        sizes[figures.kv_dtype] = figures.kv_bytes
    assert list(sizes) == ["float32", "8-bit (group 32)"]
    assert sizes["8-bit (group 32)"] < 0.4 * sizes["float32"]


def test_a_setting_the_model_cannot_have_is_refused_at_load(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelLoadFailed, match="kv_group_size to 32"):
        Engine.load(folders["full"], options=EngineOptions(kv_bits=4, kv_group_size=64))


def test_a_prompt_longer_than_a_window_is_found_at_its_end(load) -> None:
    engine = load("window", prefill_step=64)
    _, answer, _ = run(load("window", prefix_cache_mb=0), conversation(STORY * 3, "x", "y", "z"))
    run(engine, conversation(STORY * 3, "x"))
    report, again, _ = run(engine, conversation(STORY * 3, "x", "y", "z"))
    assert report.cached_tokens > 0.8 * report.prompt_tokens
    assert logprobs(again) == pytest.approx(logprobs(answer), abs=1e-3)
    assert mx.get_active_memory() > 0
