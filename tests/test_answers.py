"""Choices, limits on length, echo, reasoning and structure, in a real (tiny, random) model."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import jsonschema
import mlx.core as mx
import msgspec
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache

from mlx_panel.engine.engine import Engine
from mlx_panel.engine.guide import GuideLost
from mlx_panel.errors import ContextLengthExceeded, InvalidParameter, UnsupportedParameter
from mlx_panel.messages import (
    Cancelled,
    Done,
    Echo,
    Event,
    Failed,
    GenerateRequest,
    Message,
    Reasoning,
    Sampling,
    Structure,
    Text,
    Thinking,
    Tool,
    ToolCall,
    Tools,
)
from mlx_panel.tuning import EngineOptions

from .models import CHATML, tiny_model

GREEDY = Sampling(temperature=0.0)
EOS = 2  # of tests/models.py: <|im_end|>
THINKS = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
WEATHER = Tool(
    "weather",
    "Tells the weather.",
    {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Paris"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,
    },
)  # fmt: skip
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def engine(folder: Path):
    engine = Engine.load(folder, options=EngineOptions(max_batch=6))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory):
    engine = Engine.load(
        tiny_model(tmp_path_factory.mktemp("thinker"), template=THINKS, marks=("<think>", "</think>"))
    )
    yield engine
    engine.close()


def ask(id: str = "a", prompt: str = "Once upon a time", **more) -> GenerateRequest:
    return GenerateRequest(id, "tiny", prompt=prompt, **({"sampling": GREEDY, "max_tokens": 12} | more))


def chat(id: str = "a", **more) -> GenerateRequest:
    turn = Message("user", "Hello")
    return GenerateRequest(id, "tiny", messages=(turn,), **({"sampling": GREEDY, "max_tokens": 200} | more))


def drain(engine: Engine) -> dict[str, list[Event]]:
    events = defaultdict(list)
    while engine.busy:
        for event in engine.step():
            events[event.id].append(event)
    return events


def run(engine: Engine, request: GenerateRequest) -> list[Event]:
    return list(engine.generate(request))


def text(events: list[Event], index: int = 0, kind: type = Text) -> str:
    return "".join(event.text for event in events if isinstance(event, kind) and event.index == index)


def done(events: list[Event]) -> Done:
    ends = [event for event in events if isinstance(event, Done)]
    assert [end.last for end in ends] == [False] * (len(ends) - 1) + [True]
    return ends[-1]


# --- several choices -----------------------------------------------------------------------------------------


def test_choices_share_one_prefill_and_draw_for_themselves(engine: Engine) -> None:
    drawn = Sampling(temperature=1.0, seed=7)
    events = run(engine, ask(sampling=drawn, n=4))
    answers = [text(events, index) for index in range(4)]
    assert len(set(answers)) == 4
    prompt = len(engine.tokenizer.encode("Once upon a time", add_special_tokens=True))
    assert engine.prompt_tokens == prompt, "the prompt is processed once"
    assert done(events).usage.prompt_tokens == prompt
    assert done(events).usage.completion_tokens == sum(
        event.usage.completion_tokens for event in [done(events)]
    )
    alone = [text(run(engine, ask(sampling=Sampling(temperature=1.0, seed=7 + n)))) for n in range(4)]
    assert answers == alone, "choice i is what a request with seed + i gets"


def test_each_choice_is_counted(engine: Engine) -> None:
    events = run(engine, ask(n=3, max_tokens=5, ignore_eos=True))
    assert done(events).usage.completion_tokens == 15
    assert sorted(event.index for event in events if isinstance(event, Done)) == [0, 1, 2]


def test_deterministic_choices_have_lanes_of_their_own(engine: Engine) -> None:
    events = run(engine, ask(n=2, deterministic=True, sampling=Sampling(temperature=1.0, seed=5)))
    again = [
        text(run(engine, ask(deterministic=True, sampling=Sampling(temperature=1.0, seed=5 + n))))
        for n in (0, 1)
    ]
    assert [text(events, 0), text(events, 1)] == again


def test_choices_take_places(engine: Engine) -> None:
    with pytest.raises(InvalidParameter) as refused:
        engine.add(ask(n=7))
    assert refused.value.field == "n"
    for number in range(4):
        engine.add(ask(str(number), n=4, max_tokens=6))
        engine.add(ask(f"single{number}", max_tokens=6))
    most, ended = 0, []
    while engine.busy:
        ended += [event.id for event in engine.step() if isinstance(event, Done) and event.last]
        most = max(most, engine.running)
    assert most <= 6
    assert len(ended) == 8
    assert ended.index("3") < 8


def test_choices_that_came_when_more_could_run_find_a_place(engine: Engine) -> None:
    engine.add(ask("runs", max_tokens=20, ignore_eos=True))
    engine.step()
    engine.add(ask("wide", n=6, max_tokens=4, ignore_eos=True))
    engine.add(ask("next", max_tokens=4, ignore_eos=True))
    engine.tune(EngineOptions(max_batch=2))
    events = defaultdict(list)
    for _ in range(200):
        for event in engine.step():
            events[event.id].append(event)
    assert not engine.busy
    assert done(events["wide"]).usage.completion_tokens == 24
    assert done(events["next"]).usage.completion_tokens == 4


def test_a_cancelled_request_is_gone_with_all_choices(engine: Engine) -> None:
    engine.add(ask("a", n=4, max_tokens=None, ignore_eos=True))
    engine.add(ask("b", max_tokens=30, ignore_eos=True))
    while engine.running < 5 or any(row.left > 0 for row in engine._prefill.queue):
        engine.step()
    for _ in range(3):
        engine.step()
    assert engine.cancel("a")
    assert engine.running == 1
    events = drain(engine)
    assert [type(event) for event in events["a"]] == [Cancelled]
    assert done(events["b"]).finish_reason == "length"
    assert engine.cache_bytes == 0


# --- length ----------------------------------------------------------------------------------------------------


def test_min_tokens_and_ignore_eos(engine: Engine) -> None:
    eager = Sampling(temperature=0.0, logit_bias={EOS: 100.0})
    assert done(run(engine, ask(sampling=eager))).usage.completion_tokens == 1
    held = done(run(engine, ask(sampling=eager, min_tokens=5)))
    assert (held.usage.completion_tokens, held.finish_reason) == (6, "stop")
    on = done(run(engine, ask(sampling=eager, ignore_eos=True)))
    assert (on.usage.completion_tokens, on.finish_reason) == (12, "length")


def test_what_is_complete_ends_nevertheless(engine: Engine) -> None:
    """An answer held to a form has nothing to go on with, whatever `ignore_eos` and `min_tokens` say."""
    sampling = Sampling(temperature=1.0, seed=1)
    tools = Tools((WEATHER,), "required", "weather", parallel=False)
    for more in ({"ignore_eos": True}, {"min_tokens": 190}):
        end = done(run(engine, chat(tools=tools, sampling=sampling, **more)))
        assert (end.finish_reason, end.calls) == ("tool_calls", 1)
    drawn = Sampling(temperature=1.0, seed=1, logit_bias={EOS: 100.0})
    held = Structure("regex", text="[ab]{3,20}")
    assert len(text(run(engine, chat(structure=held, sampling=drawn)))) == 3
    assert len(text(run(engine, chat(structure=held, sampling=drawn, ignore_eos=True)))) == 20


def test_a_stop_string_waits_for_min_tokens(engine: Engine) -> None:
    whole = text(run(engine, ask(ignore_eos=True)))
    stop = next(char for char in whole if char.isprintable())
    assert text(run(engine, ask(ignore_eos=True, stop=(stop,)))) == whole[: whole.index(stop)]
    late = run(engine, ask(ignore_eos=True, stop=(stop,), min_tokens=4))
    assert len(text(late)) > whole.index(stop)
    assert done(late).usage.completion_tokens >= 4


# --- echo --------------------------------------------------------------------------------------------------------


def reference(engine: Engine, tokens: list[int]) -> np.ndarray:
    logits = engine.model(mx.array([tokens]), cache=make_prompt_cache(engine.model))[0].astype(mx.float32)
    rows = np.array(logits)
    return (
        rows
        - np.log(np.exp(rows - rows.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - rows.max(-1, keepdims=True)
    )


@pytest.mark.parametrize("length", [1, 5, 150])
def test_echo_tells_what_the_prompt_was_worth(engine: Engine, length: int) -> None:
    tokens = [3 + (7 * place) % 200 for place in range(length)]
    request = GenerateRequest("a", "tiny", tokens=tuple(tokens), echo=True, logprobs=2, max_tokens=0)
    events = run(engine, request)
    echo = next(event for event in events if isinstance(event, Echo))
    assert [one.token for one in echo.logprobs] == tokens
    assert b"".join(one.piece for one in echo.logprobs).decode(errors="replace") == echo.text
    assert echo.logprobs[0].logprob is None
    expected = reference(engine, tokens)
    for place, one in enumerate(echo.logprobs[1:]):
        assert one.logprob == pytest.approx(expected[place][one.token], abs=1e-4)
        assert len(one.top) == 2
        assert one.top[0].logprob == pytest.approx(expected[place].max(), abs=1e-4)
    assert done(events).finish_reason == "length"
    assert done(events).usage.completion_tokens == 0
    assert done(events).usage.prompt_tokens == length


def test_token_prompts_are_what_they_are(engine: Engine) -> None:
    tokens = tuple(engine.tokenizer.encode("Once upon a time", add_special_tokens=True))
    by_ids = GenerateRequest("a", "tiny", tokens=tokens, sampling=GREEDY, max_tokens=12)
    assert text(run(engine, by_ids)) == text(run(engine, ask()))
    for wrong in (-1, engine.info.vocab_size):
        with pytest.raises(InvalidParameter):
            engine.add(GenerateRequest("a", "tiny", tokens=(1, wrong)))
    with pytest.raises(ContextLengthExceeded):
        engine.add(GenerateRequest("a", "tiny", tokens=(5,) * 1024))


# --- reasoning -----------------------------------------------------------------------------------------------------


def lost_in_thought(engine: Engine, **more) -> Sampling:
    """Sampling that never ends the reasoning by itself."""
    (close,) = engine.tokenizer.encode("</think>", add_special_tokens=False)
    return Sampling(**({"temperature": 0.0} | more), logit_bias={close: -100.0})


def test_reasoning_that_the_prompt_began_is_told_apart_and_has_a_budget(thinker: Engine) -> None:
    assert thinker.info.reasoning
    on = lost_in_thought(thinker)
    events = run(thinker, chat(max_tokens=30, ignore_eos=True, sampling=on, thinking=Thinking(budget=5)))
    assert text(events, kind=Reasoning)
    assert text(events)
    usage = done(events).usage
    closing = len(thinker.tokenizer.encode("</think>", add_special_tokens=False))
    assert usage.reasoning_tokens == 5 + closing
    assert "think" not in text(events, kind=Reasoning) + text(events)
    open_ended = run(thinker, chat(max_tokens=30, ignore_eos=True, sampling=on))
    assert done(open_ended).usage.reasoning_tokens == 30
    assert not text(open_ended)


def test_the_marks_of_reasoning_are_no_tokens_of_the_answer(thinker: Engine) -> None:
    on = lost_in_thought(thinker)
    for budget in (0, 3):
        request = chat(
            max_tokens=12, ignore_eos=True, sampling=on, logprobs=0, thinking=Thinking(budget=budget)
        )
        told = [
            one.piece for event in run(thinker, request) if isinstance(event, Text) for one in event.logprobs
        ]
        assert told
        assert b"</think>" not in told


def test_a_model_that_does_not_reason_has_no_budget(engine: Engine) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        engine.add(chat(thinking=Thinking(budget=5)))
    assert refused.value.field == "thinking_budget"


# --- structure -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_follows_its_schema_after_reasoning_too(
    engine: Engine, thinker: Engine, temperature: float
) -> None:
    request = chat(
        structure=Structure("json_schema", schema=SCHEMA),
        sampling=Sampling(temperature=temperature, seed=3),
        thinking=Thinking(),
    )
    jsonschema.validate(json.loads(text(run(engine, request))), SCHEMA)
    budget = chat(
        structure=Structure("json_schema", schema=SCHEMA),
        sampling=lost_in_thought(thinker, temperature=temperature, seed=3),
        thinking=Thinking(budget=6),
    )
    events = run(thinker, budget)
    assert text(events, kind=Reasoning)
    jsonschema.validate(json.loads(text(events)), SCHEMA)
    assert done(events).finish_reason == "stop"


def test_a_budget_that_ends_inside_a_character_waits_for_its_end(thinker: Engine) -> None:
    """The grammar allows no mark there."""
    (close,) = thinker.tokenizer.encode("</think>", add_special_tokens=False)
    first, *_ = thinker.tokenizer.encode("\U0010ffff", add_special_tokens=False)
    sampling = Sampling(temperature=0.0, logit_bias={close: -100.0, first: 100.0})
    held = chat(structure=Structure("choice", choices=("yes", "no")), thinking=Thinking(budget=1))
    events = run(thinker, msgspec.structs.replace(held, max_tokens=40, sampling=sampling))
    assert text(events) in ("yes", "no")
    assert done(events).usage.reasoning_tokens < 10


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", [None, "weather"])
def test_a_forced_tool_is_called(engine: Engine, name: str | None, n: int) -> None:
    tools = Tools((WEATHER, Tool("noop")), "required", "weather" if name else None, parallel=False)
    events = run(engine, chat(tools=tools, n=n, sampling=Sampling(temperature=1.0, seed=1)))
    for index in range(n):
        calls = [event for event in events if isinstance(event, ToolCall) and event.index == index]
        assert {event.call for event in calls} == {0}
        assert calls[0].name in ({"weather"} if name else {"weather", "noop"})
        arguments = json.loads("".join(event.arguments for event in calls))
        if calls[0].name == "weather":
            jsonschema.validate(arguments, WEATHER.parameters)
    ends = [event for event in events if isinstance(event, Done)]
    assert {(end.finish_reason, end.calls, end.broken) for end in ends} == {("tool_calls", 1, 0)}


def test_a_grammar_that_is_none_fails_its_request_alone(engine: Engine) -> None:
    engine.add(ask("good"))
    engine.add(ask("bad", structure=Structure("regex", text="(unclosed")))
    events = drain(engine)
    assert [type(event) for event in events["bad"]] == [Failed]
    assert (events["bad"][0].code, events["bad"][0].field) == ("invalid_grammar", "regex")
    assert done(events["good"])


def test_a_grammar_that_loses_its_way_is_named(engine: Engine) -> None:
    class Lost:
        def mask(self) -> None:
            raise GuideLost

        def accept(self, token: int) -> None:
            raise GuideLost

        def copy(self) -> Lost:
            return self

    engine.add(ask("good"))
    engine.add(ask("lost", ignore_eos=True, n=3))
    next(row for row in engine._prefill.queue if row.id == "lost").guide = Lost()
    events = drain(engine)
    assert [type(event) for event in events["lost"]].count(Failed) == 1, "once for all choices"
    assert (events["lost"][-1].code, events["lost"][-1].field) == ("grammar_too_complex", "tools")
    assert done(events["good"])


def test_all_kinds_of_rows_share_a_batch(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A plain, a penalised, a constrained row, one with log-probabilities, one that fails, and one that is late."""
    lone = {id: text(run(engine, request)) for id, request in several().items()}
    for request in several().values():
        engine.add(request)
    fail = "fails"
    engine.add(ask(fail, ignore_eos=True))
    row = next(row for row in engine._prefill.queue if row.id == fail)
    take = row.take
    monkeypatch.setattr(row, "take", lambda *args: take(*args) if len(row.answer) < 3 else 1 / 0)
    events: dict[str, list[Event]] = defaultdict(list)
    steps = 0
    while engine.busy:
        if steps == 2:
            engine.add(ask("late", max_tokens=6))
        for event in engine.step():
            events[event.id].append(event)
        steps += 1
    assert {id: text(events[id]) for id in lone} == lone
    assert events[fail][-1].code == "generation_failed"
    assert done(events["late"]).usage.completion_tokens <= 6
    jsonschema.validate(json.loads(text(events["constrained"])), SCHEMA)
    assert "ZeroDivisionError" in caplog.text


def several() -> dict[str, GenerateRequest]:
    penalised = Sampling(temperature=0.0, repetition_penalty=1.5, presence_penalty=0.5, logit_bias={40: 2.0})
    held = Structure("json_schema", schema=SCHEMA)
    return {
        "plain": ask("plain", ignore_eos=True),
        "penalised": ask("penalised", "x y z", sampling=penalised, ignore_eos=True),
        "constrained": ask("constrained", "JSON:", structure=held, max_tokens=200),
        "logprobs": ask("logprobs", "def add", logprobs=3, ignore_eos=True),
    }
