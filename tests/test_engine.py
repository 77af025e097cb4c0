"""The engine with a real (tiny, random) model: what leaves it, and when."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.generate import BatchGenerator, generate_step

from mlx_panel.engine.batch import Batch
from mlx_panel.engine.engine import Engine
from mlx_panel.engine.sampling import BatchSampler
from mlx_panel.errors import (
    BadRequest,
    Conflict,
    ContextLengthExceeded,
    EmptyPrompt,
    InvalidParameter,
    TemplateError,
)
from mlx_panel.messages import (
    Cancelled,
    Done,
    Event,
    Failed,
    Function,
    GenerateRequest,
    Message,
    PastToolCall,
    Sampling,
    Stage,
    Text,
    Usage,
)

from .models import tiny_model

GREEDY = Sampling(temperature=0.0)
PROMPTS = ("The capital of France is", "Once upon a time", "def add(a, b):", "x", "one two three " * 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def engine(folder: Path):
    engine = Engine.load(folder, max_batch=4)
    yield engine
    engine.close()


def ask(id: str = "a", prompt: str = "Once upon a time", **more) -> GenerateRequest:
    return GenerateRequest(id, "tiny", prompt=prompt, **({"sampling": GREEDY, "max_tokens": 24} | more))


def chat(*messages: Message, **more) -> GenerateRequest:
    return GenerateRequest("a", "tiny", messages=messages, **({"sampling": GREEDY, "max_tokens": 8} | more))


def drain(engine: Engine) -> dict[str, list[Event]]:
    """Step until nothing is left; the events of each request."""
    events = defaultdict(list)
    while engine.busy:
        for event in engine.step():
            events[event.id].append(event)
    return events


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def expected(engine: Engine, prompt: str, tokens: int) -> str:
    """What mlx-lm generates for one prompt alone, decoded at once."""
    ids = engine.tokenizer.encode(prompt)
    steps = generate_step(mx.array(ids), engine.model, max_tokens=tokens)
    out = [token for token, _ in steps]
    stop = next((at for at, token in enumerate(out) if token in engine.tokenizer.eos_token_ids), len(out))
    return engine.tokenizer.decode(out[:stop], skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_a_batch_says_what_each_prompt_says_alone(engine: Engine) -> None:
    for prompt in PROMPTS:
        engine.add(ask(prompt, prompt))
    answers = drain(engine)
    assert {prompt: text(answers[prompt]) for prompt in PROMPTS} == {
        prompt: expected(engine, prompt, 24) for prompt in PROMPTS
    }


def test_long_prompts_of_different_length_share_a_prefill(engine: Engine) -> None:
    prompts = {str(words): "".join(f" {n % 7} b" for n in range(words)) for words in (40, 90, 150)}
    for id, prompt in prompts.items():
        engine.add(ask(id, prompt))
    answers = drain(engine)
    assert len([event for event in answers["150"] if isinstance(event, Stage)]) > 2
    assert {id: text(answers[id]) for id in prompts} == {
        id: expected(engine, prompt, 24) for id, prompt in prompts.items()
    }


def test_requests_join_and_leave_between_steps(engine: Engine) -> None:
    engine.add(ask("long", max_tokens=40))
    first = [event for _ in range(10) for event in engine.step()]
    engine.add(ask("late", PROMPTS[0], max_tokens=5))
    events = drain(engine)
    assert isinstance(events["late"][-1], Done)
    assert text(events["late"]) == expected(engine, PROMPTS[0], 5)
    assert text(first + events["long"]) == expected(engine, "Once upon a time", 40)


def test_events_tell_the_whole_story_with_exact_numbers(engine: Engine) -> None:
    request = ask(prompt="one two three " * 60, max_tokens=10)
    prompt = len(engine.tokenizer.encode(request.prompt))
    events = list(engine.generate(request))
    stages = [event for event in events if isinstance(event, Stage)]
    assert stages[0] == Stage("a", "prefill", 128, prompt)
    assert stages[-1] == Stage("a", "decode", prompt, prompt)
    assert events[-1] == Done("a", "length", Usage(prompt, 0, 10))
    assert sum(event.tokens for event in events if isinstance(event, Text)) <= 10
    assert all(event.text for event in events if isinstance(event, Text))
    assert (engine.prompt_tokens, engine.completion_tokens, engine.busy) == (prompt, 10, False)


def test_the_end_of_sequence_token_counts_and_has_no_text(engine: Engine) -> None:
    third = list(engine.tokenizer.encode(PROMPTS[1]))
    steps = generate_step(mx.array(third), engine.model, max_tokens=24)
    tokens = [token for token, _ in steps]
    last = next(at for at, token in enumerate(tokens) if at > 2 and token not in tokens[:at])
    engine.tokenizer.eos_token_ids = {tokens[last]}
    ended = Engine((engine.model, engine.tokenizer, engine.info))
    events = list(ended.generate(ask(prompt=PROMPTS[1])))
    assert events[-1] == Done("a", "stop", Usage(len(third), 0, last + 1))
    assert text(events) == engine.tokenizer.decode(tokens[:last])


def test_a_stop_string_ends_the_text_before_itself_and_frees_the_row(engine: Engine) -> None:
    whole = expected(engine, "Once upon a time", 24)
    stop = whole[5:8]
    engine.add(ask("stops", stop=(stop, "never said")))
    engine.add(ask("goes on", max_tokens=30))
    events = []
    while not any(isinstance(event, Done) for event in events):
        events += engine.step()
    assert [event for event in events if event.id == "stops"][-1].finish_reason == "stop"
    assert text([event for event in events if event.id == "stops"]) == whole[: whole.find(stop)]
    assert len(engine._batch._generation_batch) == 1
    assert isinstance(drain(engine)["goes on"][-1], Done)


def test_a_cancel_acts_before_the_next_step_and_frees_the_cache(engine: Engine) -> None:
    engine.add(ask("a", max_tokens=500))
    engine.add(ask("b", max_tokens=500))
    for _ in range(4):
        engine.step()
    held = engine.cache_bytes
    assert engine.cancel("a")
    assert not engine.cancel("a")
    assert engine.cache_bytes < held
    events = engine.step()
    assert [event.id for event in events if not isinstance(event, Text)] == ["a"]
    assert isinstance(events[0], Cancelled)
    assert events[0].usage.completion_tokens == 2
    assert engine.cancel("b")
    assert engine.cache_bytes == 0
    assert drain(engine)["b"] == [Cancelled("b", Usage(events[0].usage.prompt_tokens, 0, 3))]


def test_a_request_beyond_the_batch_waits_and_can_be_cancelled(engine: Engine) -> None:
    for number in range(6):
        engine.add(ask(str(number), max_tokens=6))
    first = engine.step()
    assert [event.id for event in first if event == Stage(event.id, "queued", 0, event.total)] == ["4", "5"]
    assert (engine.running, engine.queued) == (4, 2)
    assert engine.cancel("4")
    events = drain(engine)
    assert events["4"] == [Cancelled("4", Usage())]
    assert isinstance(events["5"][-1], Done)


def test_the_narrowest_sampling_is_greedy(engine: Engine) -> None:
    narrow = (Sampling(1.5, top_k=1), Sampling(1.5, top_p=1e-6), Sampling(1.5, min_p=1.0), Sampling(1e-5))
    for number, sampling in enumerate(narrow):
        engine.add(ask(str(number), sampling=sampling))
    answers = drain(engine)
    assert {text(events) for events in answers.values()} == {expected(engine, "Once upon a time", 24)}


LOGITS = mx.log(mx.array([[0.05, 0.4, 0.02, 0.3, 0.23]]))


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(), {0, 1, 2, 3, 4}),
        (Sampling(top_k=2), {1, 3}),
        (Sampling(top_p=0.65), {1, 3}),
        (Sampling(top_p=0.75), {1, 3, 4}),
        (Sampling(min_p=0.1), {0, 1, 3, 4}),
        (Sampling(top_p=0.99, min_p=0.6), {1, 3}),
        (Sampling(0.9, top_p=0.99, top_k=99), {0, 1, 2, 3, 4}),
        (Sampling(0.0, top_p=0.5), {1}),
    ],
)
def test_sampling_draws_what_is_allowed_as_often_as_it_should(sampling: Sampling, allowed: set[int]) -> None:
    # Every row has a neighbour of each other kind, so that groups are told apart.
    mixed = [sampling, Sampling(0.0), Sampling(2.0), Sampling(top_k=3)] * 1000
    drawn = BatchSampler(mixed)(mx.repeat(LOGITS, len(mixed), axis=0))[::4].tolist()
    assert set(drawn) == allowed
    weights = {token: mx.exp(LOGITS[0, token] / (sampling.temperature or 1)).item() for token in allowed}
    for token, weight in weights.items():
        assert drawn.count(token) / 1000 == pytest.approx(weight / sum(weights.values()), abs=0.08)


def test_a_large_vocabulary_is_sampled_from_its_most_likely_tokens() -> None:
    logits = mx.random.permutation(mx.arange(5000.0))[None]
    drawn = {BatchSampler([Sampling(2.0, top_k=2000, top_p=0.999)])(logits).item() for _ in range(40)}
    ranks = sorted(4999 - logits[0, token].item() for token in drawn)
    assert ranks[0] == 0
    assert len(ranks) > 1
    assert ranks[-1] < 20


@pytest.mark.parametrize("cold", [0.0, 1.0])
def test_top_p_of_a_flat_distribution_reaches_beyond_the_most_likely_thousand(cold: float) -> None:
    # 4,000 of 5,000 equally likely tokens are within top_p; the row beside it is peaked, and one is greedy.
    flat = mx.where(mx.arange(5000) < 4000, 1e-3, 0.0)
    peaked = mx.where(mx.arange(5000) == 7, 50.0, 0.0)
    logits = mx.stack([flat, peaked, flat, flat])
    narrow = Sampling(top_p=0.5, top_k=3)
    sampler = BatchSampler([Sampling(top_p=0.79), Sampling(top_p=0.9), Sampling(cold), narrow])
    drawn = [sampler(logits).tolist() for _ in range(400)]
    rows = list(zip(*drawn, strict=True))
    assert len(set(rows[0])) > 300
    assert max(rows[0]) < 4000
    assert sum(token >= 2000 for token in rows[0]) == pytest.approx(200, abs=60)
    assert set(rows[1]) == {7}
    assert len(set(rows[3])) <= 3


def test_sampling_differs_between_requests_and_mixes_with_greedy(engine: Engine) -> None:
    for id in ("a", "b"):
        engine.add(ask(id, sampling=Sampling(temperature=1.2, top_p=0.95, min_p=0.01, top_k=10**6)))
    engine.add(ask("greedy"))
    answers = drain(engine)
    assert text(answers["a"]) != text(answers["b"])
    assert text(answers["greedy"]) == expected(engine, "Once upon a time", 24)


def test_a_conversation_goes_through_the_template(engine: Engine) -> None:
    call = PastToolCall("1", Function("add", '{"a": 1}'))
    turns = (
        Message("user", "Add."),
        Message("assistant", tool_calls=(call,)),
        Message("tool", "3", tool_call_id="1"),
    )
    written = (
        "<|im_start|>user\nAdd.<|im_end|>\n"
        '<|im_start|>assistant\nadd{"a": 1}<|im_end|>\n'
        "<|im_start|>tool\n3<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    done = list(engine.generate(chat(*turns)))[-1]
    assert done.usage.prompt_tokens == len(engine.tokenizer.encode(written, add_special_tokens=False))
    assert list(engine.generate(ask(prompt=written, max_tokens=8)))[-1] == done


def test_what_does_not_fit_is_refused_with_its_numbers(engine: Engine) -> None:
    size = len(engine.tokenizer.encode("a b c d"))
    room = 1024 - size
    with pytest.raises(
        ContextLengthExceeded, match=f" {size} prompt tokens and asks for {room + 1} more"
    ) as e:
        engine.add(ask(prompt="a b c d", max_tokens=room + 1))
    assert e.value.numbers == {"context_length": 1024, "prompt_tokens": size, "max_tokens": room + 1}
    with pytest.raises(ContextLengthExceeded) as e:
        engine.add(chat(Message("user", "a b " * 600), max_tokens=None))
    assert e.value.field == "messages"
    engine.add(ask(prompt="a b c d", max_tokens=None))
    assert engine._waiting[0].prompt.max_tokens == room


def test_what_cannot_fit_is_refused_without_encoding_it(engine: Engine, monkeypatch) -> None:
    def encode(text: str, **_: object) -> list[int]:
        raise AssertionError("encoded")

    long = "a word and 1 = é\n" * 700_000
    monkeypatch.setattr(engine.tokenizer._tokenizer, "encode", encode)
    for request in (ask(prompt=long), chat(Message("user", long)), ask(prompt=long, max_tokens=None)):
        started = time.perf_counter()
        with pytest.raises(ContextLengthExceeded, match=r"has at least \d+ prompt tokens") as e:
            engine.add(request)
        assert time.perf_counter() - started < 1
        assert e.value.numbers["context_length"] == 1024
        assert e.value.numbers["prompt_tokens"] > 100_000
    with pytest.raises(AssertionError, match="encoded"):
        engine.add(ask(prompt="a word"))


def called(arguments: str) -> GenerateRequest:
    call = PastToolCall("1", Function("f", arguments))
    return chat(Message("user", "Call."), Message("assistant", tool_calls=(call,)))


@pytest.mark.parametrize("depth", [900, 100_000])
@pytest.mark.parametrize(("left", "right"), [('{"canary":', "}"), ("[", "]")])
def test_arguments_of_any_depth_are_the_clients_fault(
    engine: Engine, depth: int, left: str, right: str
) -> None:
    request = called('{"a":' + left * depth + "1" + right * depth + "}")
    with pytest.raises(BadRequest) as e:
        engine.add(request)
    assert e.value.field == "messages"
    assert "canary" not in str(e.value)


def test_bad_requests_never_reach_the_batch(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(EmptyPrompt):
        engine.add(ask(prompt=""))
    with pytest.raises(EmptyPrompt):
        engine.add(chat())
    with pytest.raises(TemplateError) as e:
        engine.add(chat(Message("tool", "secret")))
    assert "secret" not in str(e.value)
    assert "cannot speak" not in str(e.value)
    with pytest.raises(InvalidParameter):
        engine.add(ask(sampling=Sampling(top_p=0)))
    with pytest.raises(InvalidParameter):
        engine.add(ask(max_tokens=0))
    with pytest.raises(InvalidParameter, match="Unicode"):
        engine.add(ask(prompt="\ud800"))
    engine.add(ask("twice"))
    with pytest.raises(Conflict):
        engine.add(ask("twice"))
    untold = Engine.load(tiny_model(tmp_path, template=None))
    with pytest.raises(TemplateError, match="no chat template"):
        untold.add(chat(Message("user", "Hi")))
    assert not untold.info.chat_template


def test_one_bad_row_ends_alone(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def add(self, token: int) -> str:
            raise ValueError("canary")

        def flush(self) -> str:
            return ""

    for id in ("good", "bad"):
        engine.add(ask(id))
    engine._waiting[1]._detokenizer = Broken()
    events = drain(engine)
    assert [type(event) for event in events["bad"]] == [Stage, Stage, Failed]
    assert text(events["good"]) == expected(engine, "Once upon a time", 24)
    assert "ValueError at row.py" in caplog.text
    assert "canary" not in caplog.text


def test_a_failed_step_fails_what_ran_and_nothing_after(engine: Engine) -> None:
    engine.add(ask("a"))
    engine.step()
    inner = engine._batch.model
    engine._batch._prompt_batch.model = engine._batch._generation_batch.model = None
    assert drain(engine)["a"][-1].code == "generation_failed"
    assert engine.model is inner
    assert text(list(engine.generate(ask("b")))) == expected(engine, "Once upon a time", 24)


def test_leaving_generate_early_cancels(engine: Engine) -> None:
    events = engine.generate(ask(max_tokens=None))
    next(event for event in events if isinstance(event, Text))
    events.close()
    assert not engine.busy
    assert engine.cache_bytes == 0


def test_info_of_a_quantised_model(tmp_path: Path) -> None:
    engine = Engine.load(tiny_model(tmp_path, quantize=4, context=99))
    assert (engine.info.dtype, engine.info.context_length, engine.info.layers) == ("4-bit (group 32)", 99, 2)
    assert engine.memory().process > engine.info.weights_bytes > 0
    assert list(engine.generate(ask(max_tokens=4)))[-1].usage.completion_tokens == 4


def test_memory_is_never_wired_and_mlx_lm_stays_as_it_is() -> None:
    name = "maybe_set_recommended_wired_limit"
    assert Batch.__init__.__globals__[name]() is None
    assert BatchGenerator.__init__.__globals__[name].__module__ == "mlx_lm.utils"
