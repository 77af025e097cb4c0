"""What comes out of the door beside plain text: choices, reasoning, tool calls, log-probabilities, echoes, receipts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from .server import WORDS, Running, running, scripted
from .test_doors import GENERATE, body, check_problem
from .test_standard import conforms, document, needs_data

assert document  # a fixture
THOUGHT = "<think>\nLet me see.\n</think>\n\n"
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich", "days": 2}}\n</tool_call>'
ARGUMENTS = {"city": "Zürich", "days": 2}
BROKEN = '<tool_call>\n{"name": "weather", "arguments": {"city": \n</tool_call>'
MODELS: dict[str, dict[str, Any]] = {
    "thinker": {"text": f"{THOUGHT}{WORDS}", "reasoning": "think"},
    "caller": {"text": f"Let me look. {CALL}\n{CALL}", "tools": "hermes_json"},
    "quiet caller": {"text": CALL, "tools": "hermes_json"},
    "breaker": {"text": f"So: {BROKEN}", "tools": "hermes_json"},
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("output")
    for name, spec in MODELS.items():
        scripted(folder, name, **spec)
    with running(folder) as started:
        yield started


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one


def ask(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}


def complete(server: Running, **more: Any) -> httpx.Response:
    return server.client.post(
        GENERATE[1], json={"model": "plain", "prompt": "one two", "max_tokens": 50, **more}
    )


def chunks(reply: httpx.Response) -> list[dict[str, Any]]:
    *lines, last = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert last == "[DONE]", last
    return [json.loads(line) for line in lines]


def texts(found: list[dict[str, Any]]) -> list[str]:
    """Each choice's text, from the chunks of a text completion."""
    said: dict[int, str] = {}
    for choice in (choice for chunk in found for choice in chunk["choices"]):
        said[choice["index"]] = said.get(choice["index"], "") + choice["text"]
    return [said[at] for at in sorted(said)]


# --- choices ---------------------------------------------------------------------------------------------------------


def test_three_choices(client: openai.OpenAI, server: Running) -> None:
    reply = client.chat.completions.with_raw_response.create(**ask("plain", n=3))
    made = reply.parse()
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    assert {choice.message.content for choice in made.choices} == {WORDS}
    row = server.row(reply.headers["x-request-id"])
    assert (row["choices"], row["completion_tokens"]) == (3, made.usage.completion_tokens)
    assert made.usage.completion_tokens == 3 * 10


def test_three_choices_in_a_stream(client: openai.OpenAI) -> None:
    said, ended = ["", "", ""], []
    with client.chat.completions.create(
        **ask("plain", n=3), stream=True, stream_options={"include_usage": True}
    ) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                said[choice.index] += choice.delta.content or ""
                ended += [choice.index] if choice.finish_reason else []
    assert said == [WORDS] * 3
    assert sorted(ended) == [0, 1, 2]
    assert chunk.usage.completion_tokens == 30


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_are_numbered_in_their_order(server: Running, stream: bool) -> None:
    reply = complete(server, prompt=["one", "two words", "three"], n=2, echo=True, stream=stream)
    assert reply.status_code == 200, reply.text
    found = texts(chunks(reply)) if stream else [choice["text"] for choice in reply.json()["choices"]]
    prompts = ["one", "one", "two words", "two words", "three", "three"]
    assert found == [prompt + WORDS for prompt in prompts]
    row = server.row(reply.headers["x-request-id"])
    assert (row["choices"], row["prompt_tokens"], row["completion_tokens"]) == (6, 4, 60)


@pytest.mark.parametrize("prompt", [[5, 6, 7], [[5], [6, 7]]])
def test_prompts_of_tokens(server: Running, prompt: Any) -> None:
    made = complete(server, prompt=prompt).json()
    assert {choice["text"] for choice in made["choices"]} == {WORDS}
    assert made["usage"]["prompt_tokens"] == 3
    reply = complete(server, prompt=[1000])
    assert check_problem(server, reply, 400, "invalid_parameter")["error"]["param"] == "prompt"


@pytest.mark.parametrize("stream", [False, True])
def test_one_prompt_that_fails_fails_all(server: Running, stream: bool) -> None:
    """And the others' work ends with it."""
    reply = complete(server, model="small", prompt=["a", "b " * 20, "c"], max_tokens=2, stream=stream)
    if not stream or reply.status_code == 400:
        problem = check_problem(server, reply, 400, "context_length_exceeded")
        assert problem["error"]["param"] == "prompt"
    else:
        assert json.loads(reply.text.split("data: ")[-1])["error"]["code"] == "context_length_exceeded"
    assert complete(server, model="small", prompt="a", max_tokens=2).status_code == 200


def test_max_requests_counts_prompts(serve: Any) -> None:
    server: Running = serve(max_requests=3)
    assert complete(server, prompt=["a"] * 5).status_code == 200, "nothing else runs"
    with server.client.stream("POST", GENERATE[0], json=body("chat", "slow", stream=True)) as first:
        lines = first.iter_lines()
        next(lines)
        check_problem(server, complete(server, prompt=["a"] * 3), 503, "queue_full")
        assert complete(server, prompt=["a"] * 2).status_code == 200


def test_the_prompt_alone(server: Running) -> None:
    made = complete(server, echo=True, max_tokens=0).json()
    assert made["choices"][0]["text"] == "one two"
    assert made["choices"][0]["finish_reason"] == "length"
    assert made["usage"]["completion_tokens"] == 0


# --- reasoning and tools ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2])
def test_reasoning_is_apart(client: openai.OpenAI, server: Running, n: int) -> None:
    made = client.chat.completions.create(**ask("thinker", n=n))
    for choice in made.choices:
        assert choice.message.content == WORDS
        assert choice.message.reasoning_content.strip() == "Let me see."
    assert made.usage.completion_tokens_details.reasoning_tokens > 3 * n - 1
    said, thought = [""] * n, [""] * n
    for chunk in client.chat.completions.create(**ask("thinker", n=n), stream=True):
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            thought[choice.index] += getattr(choice.delta, "reasoning_content", None) or ""
    assert said == [WORDS] * n
    assert thought == [choice.message.reasoning_content for choice in made.choices]
    rows = server.client.get("/v1/admin/audit-logs", params={"model": "thinker"}).json()["rows"]
    assert rows[0]["reasoning_tokens"] == rows[1]["reasoning_tokens"] > 0


def test_calls_whole_and_streamed(client: openai.OpenAI, server: Running) -> None:
    asked = ask("caller", tools=[WEATHER])
    raw = client.chat.completions.with_raw_response.create(**asked)
    whole = raw.parse().choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content.strip() == "Let me look."
    calls = whole.message.tool_calls
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("weather", ARGUMENTS)
    ] * 2
    assert len({call.id for call in calls}) == 2
    row = server.row(raw.headers["x-request-id"])
    assert (row["tool_calls"], row["broken_tool_calls"], row["finish_reason"]) == (2, 0, "tool_calls")
    with client.chat.completions.stream(**asked) as stream:
        final = stream.until_done().get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls"
    assert final.message.content == whole.message.content
    assert [
        (call.type, call.function.name, call.function.arguments) for call in final.message.tool_calls
    ] == [(call.type, call.function.name, call.function.arguments) for call in calls]
    assert all(call.id.startswith("call_") and len(call.id) == 29 for call in final.message.tool_calls)


def test_a_call_alone_has_no_content(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(**ask("quiet caller", tools=[WEATHER])).choices[0].message
    assert message.content is None
    assert len(message.tool_calls) == 1


def test_without_tools_a_call_is_text(client: openai.OpenAI) -> None:
    for more in ({}, {"tools": [WEATHER], "tool_choice": "none"}):
        choice = client.chat.completions.create(**ask("quiet caller", **more)).choices[0]
        assert choice.message.content == CALL
        assert (choice.message.tool_calls, choice.finish_reason) == (None, "stop")


def test_a_broken_call_is_text_and_counted(server: Running) -> None:
    asked = ask("breaker", tools=[WEATHER])
    reply = server.client.post(GENERATE[0], json=asked)
    choice = reply.json()["choices"][0]
    assert choice["message"]["content"] == f"So: {BROKEN}"
    assert "tool_calls" not in choice["message"]
    assert (choice["finish_reason"], choice["unparsed_tool_calls"]) == ("stop", 1)
    assert reply.headers["x-unparsed-tool-calls"] == "1"
    assert server.row(reply.headers["x-request-id"])["broken_tool_calls"] == 1
    streamed = server.client.post(GENERATE[0], json=asked | {"stream": True})
    last = chunks(streamed)[-1]["choices"][0]
    assert (last["finish_reason"], last["unparsed_tool_calls"]) == ("stop", 1)
    assert server.row(streamed.headers["x-request-id"])["broken_tool_calls"] == 1


# --- log-probabilities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_chats_logprobs(client: openai.OpenAI, stream: bool) -> None:
    asked = ask("plain", logprobs=True, top_logprobs=2)
    if stream:
        made = client.chat.completions.create(**asked, stream=True)
        found = [
            one
            for chunk in made
            for choice in chunk.choices
            if choice.logprobs
            for one in choice.logprobs.content
        ]
    else:
        found = client.chat.completions.create(**asked).choices[0].logprobs.content
    assert "".join(bytes(one.bytes).decode() for one in found) == WORDS
    assert "".join(one.token for one in found) == WORDS
    assert all(one.logprob == one.top_logprobs[0].logprob == -0.5 for one in found)
    assert [len(one.top_logprobs) for one in found] == [2] * 8 + [1]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("echo", [False, True])
def test_a_completions_logprobs(server: Running, stream: bool, echo: bool) -> None:
    reply = complete(server, logprobs=2, stream=stream, echo=echo)
    parts = (
        [choice["logprobs"] for chunk in chunks(reply) for choice in chunk["choices"] if choice["logprobs"]]
        if stream
        else [reply.json()["choices"][0]["logprobs"]]
    )
    told = {name: [one for part in parts for one in part[name]] for name in parts[0]}
    text = ("one two" if echo else "") + WORDS
    for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
        assert text[offset : offset + len(token)] == token
    words = told["tokens"][-9:]
    assert "".join(words) == WORDS
    assert told["token_logprobs"][-9:] == [-0.5] * 9
    assert list(told["top_logprobs"][-9]) == words[:2]


def test_none_unless_asked(server: Running) -> None:
    assert server.chat().json()["choices"][0]["logprobs"] is None
    assert complete(server).json()["choices"][0]["logprobs"] is None


# --- the receipt -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", GENERATE)
@pytest.mark.parametrize("stream", [False, True])
def test_the_receipt_says_what_was_done(server: Running, route: str, stream: bool) -> None:
    asked = body(
        route, stream=stream, max_tokens=20, temperature=0.7, seed=3, n=2, stop=["secret"], regex="sec?ret"
    )
    reply = server.client.post(route, json=asked, headers={"Origin": "http://localhost:3000"})
    assert reply.headers["x-sampling"] == (
        "temperature=0.7; top_p=1; top_k=0; min_p=0; seed=3; max_tokens=20; n=2; stop=1; structure=regex"
    )
    assert "X-Sampling" in reply.headers["access-control-expose-headers"]
    assert server.row(reply.headers["x-request-id"])["structure"] == "regex"


def test_no_receipt_of_what_was_not_done(server: Running) -> None:
    assert "x-sampling" not in server.chat("failing").headers


# --- OpenAI's own document -------------------------------------------------------------------------------------------

SHAPES: list[tuple[str, dict[str, Any]]] = [
    ("plain", {"n": 2, "logprobs": True, "top_logprobs": 3}),
    ("thinker", {}),
    ("caller", {"tools": [WEATHER]}),
    ("quiet caller", {"tools": [WEATHER], "n": 2}),
    ("breaker", {"tools": [WEATHER]}),
    ("plain", {"deterministic": True, "regex": "a"}),
]


@needs_data
@pytest.mark.parametrize(("model", "more"), SHAPES)
def test_chats_conform(server: Running, document: dict[str, Any], model: str, more: dict[str, Any]) -> None:
    whole = server.client.post(GENERATE[0], json=ask(model, **more)).json()
    conforms(document, "CreateChatCompletionResponse", whole)
    ChatCompletion.model_validate(whole, strict=True)
    asked = ask(model, **more, stream=True, stream_options={"include_usage": True})
    for chunk in chunks(server.client.post(GENERATE[0], json=asked)):
        conforms(document, "CreateChatCompletionStreamResponse", chunk)
        ChatCompletionChunk.model_validate(chunk, strict=True)


@needs_data
@pytest.mark.parametrize(
    "more",
    [{"n": 2, "logprobs": 2}, {"prompt": ["a", "b"], "echo": True}, {"prompt": [1, 2]}, {"logprobs": 0}],
)
def test_completions_conform(server: Running, document: dict[str, Any], more: dict[str, Any]) -> None:
    whole = complete(server, **more).json()
    conforms(document, "CreateCompletionResponse", whole)
    for chunk in chunks(complete(server, **more, stream=True)):
        # The document wants a reason in every piece; the API itself sends null until the end.
        for choice in chunk["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        conforms(document, "CreateCompletionResponse", chunk)
