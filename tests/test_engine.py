"""The engine with a real (tiny, random) model: what leaves it, and when."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import msgspec
import pytest
from mlx_lm.generate import generate_step

from mlx_panel.engine import loader
from mlx_panel.engine.engine import Engine
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
from mlx_panel.tuning import CacheReport, EngineOptions

from .models import tiny_model

GREEDY = Sampling(temperature=0.0)
PROMPTS = ("The capital of France is", "Once upon a time", "def add(a, b):", "x", "one two three " * 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def engine(folder: Path):
    engine = Engine.load(folder, options=EngineOptions(max_batch=4))
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


def engine_events(engine: Engine) -> Iterator[Event]:
    while engine.busy:
        yield from engine.step()


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


@pytest.mark.parametrize(("prefill_step", "passes"), [(100, 9), (2000, 1)])
def test_long_prompts_are_cut_and_those_that_fit_share_a_pass(
    folder: Path, prefill_step: int, passes: int, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine.load(folder, options=EngineOptions(prefill_step=prefill_step, prefix_cache_mb=0))
    prompts = {str(words): "".join(f" {n % 7} b" for n in range(words)) for words in (40, 90, 150)}
    for id, prompt in prompts.items():
        engine.add(ask(id, prompt))
    # Random weights say nothing about how long a chunk takes; this pace is one at which all of it is allowed.
    engine._prefill.pace.prefilled(2000, 1e-6)
    answers = drain(engine)
    chunks = [event for id in prompts for event in answers[id] if isinstance(event, Stage)]
    assert len(chunks) >= passes if passes > 1 else len(chunks) == len(prompts)
    assert not caplog.records
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
    assert (stages[0].stage, stages[0].total) == ("prefill", prompt)
    assert 0 < stages[0].done < stages[1].done
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
    ended = Engine(loader.Loaded(engine.model, engine.tokenizer, engine.info))
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
    assert (engine.running, engine.ids) == (1, ("goes on",))
    assert isinstance(drain(engine)["goes on"][-1], Done)


def test_a_cancel_acts_before_the_next_step_and_frees_the_cache(engine: Engine) -> None:
    engine.add(ask("a", max_tokens=500))
    engine.add(ask("b", max_tokens=500))
    for _ in range(4):
        engine.step()
    held = engine.cache_bytes
    assert engine.cancel("a")
    assert not engine.cancel("a")
    assert engine.cache_bytes <= held
    assert (engine.running, engine.ids) == (1, ("b",))
    events = engine.step()
    assert [event.id for event in events if not isinstance(event, Text)] == ["a"]
    assert isinstance(events[0], Cancelled)
    assert events[0].usage.completion_tokens == 3
    assert engine.cancel("b")
    assert engine.cache_bytes == 0
    assert drain(engine)["b"] == [Cancelled("b", Usage(events[0].usage.prompt_tokens, 0, 4))]


def test_a_request_beyond_the_batch_waits_and_can_be_cancelled(engine: Engine) -> None:
    for number in range(6):
        engine.add(ask(str(number), max_tokens=6))
    first = engine.step()
    assert [event.id for event in first if isinstance(event, Stage) and event.stage == "queued"] == ["4", "5"]
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
    raw = list(engine.generate(ask(prompt=written, max_tokens=8)))[-1]
    # The prefix cache knows it by now, all but the token that has to be computed.
    cached = msgspec.structs.replace(done.usage, cached_tokens=done.usage.prompt_tokens - 1)
    assert raw == msgspec.structs.replace(done, usage=cached)


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
    assert next(iter(engine._prefill.queue)).prompt.max_tokens == room


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
    list(engine._prefill.queue)[1]._speech._detokenizer = Broken()
    events = drain(engine)
    assert [type(event) for event in events["bad"]] == [CacheReport, Stage, Failed]
    assert text(events["good"]) == expected(engine, "Once upon a time", 24)
    assert "ValueError at speech.py" in caplog.text
    assert "canary" not in caplog.text


def test_a_failed_step_fails_what_ran_and_nothing_after(engine: Engine) -> None:
    engine.add(ask("a"))
    engine.step()
    inner, engine._lanes._main._model = engine.model, None
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


class Picky:
    """A model that fails whenever a token it cannot stand is among its inputs."""

    def __init__(self, model, hated: int):
        self._model, self._hated = model, hated

    def __getattr__(self, name: str):
        return getattr(self._model, name)

    def __call__(self, inputs: mx.array, cache=None) -> mx.array:
        if (inputs == self._hated).any().item():
            raise ValueError("canary")
        return self._model(inputs, cache=cache)


def test_a_prompt_that_cannot_be_processed_fails_alone(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = loader.load(folder)
    (hated,) = loaded.tokenizer.encode("Q")
    engine = Engine(loaded._replace(model=Picky(loaded.model, hated)))
    for id, prompt in (("good", PROMPTS[1]), ("bad", "xQx"), ("fine", PROMPTS[0])):
        engine.add(ask(id, prompt, max_tokens=9))
    events = drain(engine)
    assert [type(event) for event in events["bad"]][-1] is Failed
    assert text(events["good"]) == expected(engine, PROMPTS[1], 9)
    assert text(events["fine"]) == expected(engine, PROMPTS[0], 9)
    assert "canary" not in caplog.text


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.9, seed=11), Sampling(top_p=0.5)])
def test_a_deterministic_request_says_the_same_in_any_company(engine: Engine, sampling: Sampling) -> None:
    def answer(*others: GenerateRequest) -> str:
        for other in others:
            engine.add(other)
        engine.add(ask("d", PROMPTS[1] * 8, deterministic=True, sampling=sampling))
        return text(drain(engine)["d"])

    alone = answer()
    assert answer(ask("a", PROMPTS[0]), ask("b", PROMPTS[4], max_tokens=40)) == alone
    assert answer(ask("d2", PROMPTS[1] * 8, deterministic=True, sampling=sampling)) == alone
    assert len(alone) > 20


def test_a_short_prompt_overtakes_a_long_one_unless_told_not_to(folder: Path) -> None:
    ends = {}
    for order in ("shortest", "arrival"):
        options = EngineOptions(max_batch=4, prefill_step=32, admission_order=order, prefix_cache_mb=0)
        engine = Engine.load(folder, options=options)
        engine.add(ask("long", "one two three " * 60, max_tokens=2))
        engine.add(ask("short", PROMPTS[1], max_tokens=2))
        ends[order] = [event.id for event in engine_events(engine) if isinstance(event, Done)]
        engine.close()
    assert ends == {"shortest": ["short", "long"], "arrival": ["long", "short"]}


def test_options_change_while_it_runs(engine: Engine) -> None:
    engine.add(ask("long", "one two three " * 60))
    engine.tune(EngineOptions(max_batch=1, prefill_step=8, kv_bits=4, admission_order="arrival"))
    engine.add(ask("late"))
    engine.step()
    stage = next(event for event in engine.step() if isinstance(event, Stage))
    assert (stage.id, stage.done % 8, engine.running, engine.queued) == ("long", 0, 1, 1)
    assert engine.options.kv_bits == 0
    assert isinstance(drain(engine)["late"][-1], Done)


def test_log_probabilities_come_for_rows_that_ask(engine: Engine) -> None:
    engine.add(ask("asks", logprobs=3, max_tokens=6, sampling=Sampling(temperature=0.8, seed=3)))
    engine.add(ask("does not", max_tokens=6))
    events = drain(engine)
    told = [one for event in events["asks"] if isinstance(event, Text) for one in event.logprobs]
    prompt = list(engine.tokenizer.encode(PROMPTS[1]))
    for place, one in enumerate(told):
        tokens = prompt + [before.token for before in told[:place]]
        logits = engine.model(mx.array([tokens]))[0, -1]
        logprobs = (logits - mx.logsumexp(logits)).tolist()
        assert one.logprob == pytest.approx(logprobs[one.token], abs=1e-4)
        assert [top.logprob for top in one.top] == pytest.approx(sorted(logprobs)[:-4:-1], abs=1e-4)
    assert b"".join(one.piece for one in told).decode(errors="replace") == text(events["asks"])
    assert not any(event.logprobs for event in events["does not"] if isinstance(event, Text))


def test_memory_is_wired_only_when_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wired = []
    monkeypatch.setattr(mx, "set_wired_limit", wired.append)
    engine = Engine.load(folder)
    list(engine.generate(ask(max_tokens=4)))
    assert wired == []
    Engine.load(folder, options=EngineOptions(wired_limit_mb=100))
    assert wired == [100 << 20]


LOOPING = "one two one two one two one two one two one two"


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.1, seed=5, presence_penalty=0.01)])
@pytest.mark.parametrize("speculation", ["ngram", "draft"])
def test_guessing_ahead_changes_nothing_but_the_number_of_steps(
    folder: Path, speculation: str, sampling: Sampling
) -> None:
    plain = Engine.load(folder)
    options = EngineOptions(speculation=speculation, draft_model=str(folder))
    guessing = Engine.load(folder, options=options)
    request = ask("a", LOOPING, max_tokens=120, sampling=sampling)
    want = list(plain.generate(request))
    before = guessing.steps
    got = list(guessing.generate(request))
    assert text(got) == text(want)
    assert got[-1] == want[-1]
    figures = guessing.figures()
    assert 0 <= figures.accepted <= figures.drafted
    assert figures.drafted > 0
    if speculation == "draft" and sampling is GREEDY:
        assert guessing.steps - before < plain.steps


def test_an_answer_that_is_not_alone_any_more_goes_on_without_guesses(folder: Path) -> None:
    engine = Engine.load(folder, options=EngineOptions(speculation="ngram"))
    engine.add(ask("a", LOOPING, max_tokens=60))
    events = [event for _ in range(8) for event in engine.step()]
    engine.add(ask("b", PROMPTS[0], max_tokens=9))
    more = drain(engine)
    assert text(events + more["a"]) == expected(engine, LOOPING, 60)
    assert text(more["b"]) == expected(engine, PROMPTS[0], 9)


def test_guesses_stop_at_a_stop_string_and_can_be_switched_off(folder: Path) -> None:
    engine = Engine.load(folder, options=EngineOptions(speculation="ngram"))
    whole = expected(engine, LOOPING, 60)
    stop = whole[20:24]
    events = list(engine.generate(ask("a", LOOPING, max_tokens=60, stop=(stop,))))
    assert text(events) == whole[: whole.find(stop)]
    engine.tune(EngineOptions(speculation="off"))
    drafted = engine.figures().drafted
    assert text(list(engine.generate(ask("b", LOOPING, max_tokens=60)))) == whole
    assert engine.figures().drafted == drafted


def test_a_row_much_longer_than_the_others_decodes_beside_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_panel.engine.lanes.WASTE_BYTES", 100 * 2 * 2 * 2 * 16 * 4)
    engine = Engine.load(folder, options=EngineOptions(prefix_cache_mb=0))
    long = "one two three " * 60
    for id, prompt in (("a", PROMPTS[0]), ("long", long), ("b", PROMPTS[1]), ("long too", long)):
        engine.add(ask(id, prompt))
    events = []
    while len(engine._lanes) < 4:
        events += engine.step()
    assert sorted(sorted(row.id for row in lane.rows) for lane in engine._lanes) == [
        ["a", "b"],
        ["long", "long too"],
    ]
    assert engine.running == 4
    more = drain(engine)
    for id, prompt in (("a", PROMPTS[0]), ("long", long), ("b", PROMPTS[1]), ("long too", long)):
        said = [event for event in events if event.id == id] + more[id]
        assert text(said) == expected(engine, prompt, 24)


def test_a_long_prompt_grows_its_cache_once(engine: Engine) -> None:
    engine.add(ask("a", "one two three " * 60, max_tokens=2))
    engine.step()
    row = next(iter(engine._prefill.queue), None) or engine._lanes.rows[0]
    sizes = {cache.keys.shape[2] for cache in row.caches or next(iter(engine._lanes))._caches}
    assert sizes == {768}
