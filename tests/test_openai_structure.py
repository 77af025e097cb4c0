"""Structure, forced calls and log-probabilities through the released OpenAI client, with a real (tiny, random) model."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from .models import tiny_model
from .server import Running, running
from .test_doors import GENERATE, check_problem


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=6)
    age: int = Field(ge=0, le=120)
    mood: Literal["good", "bad"]


class Team(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lead: Person
    others: list[Person] = Field(max_length=2)


class GetWeather(BaseModel):
    """Tells the weather."""

    model_config = ConfigDict(extra="forbid")
    city: Literal["Rome", "Paris"]
    days: int = Field(ge=1, le=9)


class AskTeam(BaseModel):
    model_config = ConfigDict(extra="forbid")
    team: Team


TOOLS = [openai.pydantic_function_tool(kind) for kind in (GetWeather, AskTeam)]
KINDS = {"GetWeather": GetWeather, "AskTeam": AskTeam}
CHOICES: list[tuple[Any, set[str]]] = [
    ("required", {"GetWeather", "AskTeam"}),
    ({"type": "function", "function": {"name": "GetWeather"}}, {"GetWeather"}),
    ({"type": "function", "function": {"name": "AskTeam"}}, {"AskTeam"}),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("structure")
    tiny_model(folder / "models" / "tiny", context=4096)
    with running(folder, models="tiny") as started:
        yield started


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one


def ask(**more: Any) -> dict[str, Any]:
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 1500,
        **more,
    }


# --- pydantic models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Person, Team])
@pytest.mark.parametrize("n", [1, 3])
def test_parse(client: openai.OpenAI, kind: type[BaseModel], n: int) -> None:
    made = client.chat.completions.parse(**ask(response_format=kind, n=n))
    assert [type(choice.message.parsed) for choice in made.choices] == [kind] * n
    assert {choice.finish_reason for choice in made.choices} == {"stop"}


@pytest.mark.parametrize("kind", [Person, Team])
def test_parse_a_stream(client: openai.OpenAI, kind: type[BaseModel]) -> None:
    with client.chat.completions.stream(**ask(response_format=kind)) as stream:
        for event in stream:
            assert event.type != "error"
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, kind)


async def test_parse_async(server: Running) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        plain = client.chat.completions.create(**ask(max_tokens=40))
        many = [client.chat.completions.parse(**ask(response_format=Team)) for _ in range(6)]
        made, *_ = await asyncio.gather(asyncio.gather(*many), plain)
        async with client.chat.completions.stream(
            **ask(tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
        ) as stream:
            final = await stream.get_final_completion()
    assert all(isinstance(one.choices[0].message.parsed, Team) for one in made)
    check_calls(final.choices[0], set(KINDS))


def check_calls(choice: Any, names: set[str]) -> None:
    """There is a call, of one of these functions, and its arguments are what the function takes."""
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    for call in choice.message.tool_calls:
        assert call.function.name in names
        assert isinstance(call.function.parsed_arguments, KINDS[call.function.name])


@pytest.mark.parametrize(("choice", "names"), CHOICES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_has_to_be(client: openai.OpenAI, choice: Any, names: set[str], stream: bool) -> None:
    asked = ask(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    if stream:
        with client.chat.completions.stream(**asked) as events:
            made = events.get_final_completion()
    else:
        made = client.chat.completions.parse(**asked)
    check_calls(made.choices[0], names)
    assert len(made.choices[0].message.tool_calls) == 1
    assert made.choices[0].message.content is None


# --- expressions, answers and grammars ---------------------------------------------------------------------------------

HELD: list[tuple[dict[str, Any], str]] = [
    ({"regex": "[a-c]{3}-[0-9]{2}"}, "[a-c]{3}-[0-9]{2}"),
    ({"choice": ["yes", "no", "naïve 😀"]}, "yes|no|naïve 😀"),
    ({"grammar": 'start: "x" NUMBER\nNUMBER: /[0-9]{1,3}/'}, "x[0-9]{1,3}"),
    ({"structured_outputs": {"regex": "[xy]{4}"}}, "[xy]{4}"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": [1, "b"]}}}}, '1|"b"'),
]  # fmt: skip


@pytest.mark.parametrize(("held", "form"), HELD)
@pytest.mark.parametrize("route", GENERATE)
def test_an_answer_is_held_to_it(server: Running, held: dict[str, Any], form: str, route: str) -> None:
    asked = ask(max_tokens=200, n=3, **held)
    if "chat" not in route:
        asked |= {"prompt": ["Say", "it"]}
        del asked["messages"]
    made = server.client.post(route, json=asked)
    assert made.status_code == 200, made.text
    said = [choice.get("text") or choice["message"]["content"] for choice in made.json()["choices"]]
    assert len(said) == (3 if "chat" in route else 6)
    assert [text for text in said if not re.fullmatch(form, text)] == []


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"regex": "("}, "invalid_grammar", "regex"),
    ({"grammar": "start: nothing"}, "invalid_grammar", "grammar"),
    ({"structured_outputs": {"regex": "("}}, "invalid_grammar", "structured_outputs"),
    ({"logit_bias": {"100000": 1}}, "invalid_parameter", "logit_bias"),
    ({"reasoning_effort": "high"}, "unsupported_parameter", "reasoning_effort"),
    ({"thinking_budget": 5}, "unsupported_parameter", "thinking_budget"),
    ({"chat_template_kwargs": {"mood": 1}}, "unsupported_parameter", "chat_template_kwargs"),
]


@pytest.mark.parametrize(("fields", "code", "field"), WRONG)
@pytest.mark.parametrize("stream", [False, True])
def test_what_only_the_model_can_refuse(
    server: Running, fields: dict[str, Any], code: str, field: str, stream: bool
) -> None:
    reply = server.client.post(GENERATE[0], json=ask(stream=stream, **fields))
    problem = check_problem(server, reply, 400, code)
    assert problem["error"]["param"].startswith(field)


KEYWORDS: list[tuple[dict[str, Any], str]] = [
    ({"type": "object", "properties": {"a": {"not": {"type": "string"}}}}, "properties.a"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
]


@pytest.mark.parametrize(("schema", "place"), KEYWORDS)
def test_a_keyword_that_cannot_be_enforced_is_named(
    server: Running, schema: dict[str, Any], place: str
) -> None:
    bodies: list[tuple[dict[str, Any], str]] = [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}, "response_format"),
        ({"structured_outputs": {"json": schema}}, "structured_outputs.json"),
    ]  # fmt: skip
    if schema["type"] == "object":
        tool = {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}}
        bodies.append(({"tools": [tool]}, "tools[0].function.parameters"))
    for fields, head in bodies:
        reply = server.client.post(GENERATE[0], json=ask(**fields))
        problem = check_problem(server, reply, 400, "unsupported_parameter")
        assert problem["error"]["param"].startswith(head)
        assert place in problem["detail"]


def test_a_cut_answer_says_so(client: openai.OpenAI) -> None:
    asked = ask(extra_body={"regex": "[a-c]{30,40}"}, max_tokens=3)
    assert client.chat.completions.create(**asked).choices[0].finish_reason == "length"
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**ask(response_format=Team, max_tokens=3))


# --- choices, echoes and log-probabilities -------------------------------------------------------------------------------


def test_a_choice_draws_with_the_seed_and_its_number(client: openai.OpenAI) -> None:
    several = client.chat.completions.create(**ask(n=3, seed=7, max_tokens=12)).choices
    for at, choice in enumerate(several):
        alone = client.chat.completions.create(**ask(seed=7 + at, max_tokens=12)).choices[0]
        assert alone.message.content == choice.message.content
    assert len({choice.message.content for choice in several}) > 1


def test_min_tokens_and_ignore_eos(client: openai.OpenAI) -> None:
    bias = {"2": 100}  # the end of sequence
    short = client.chat.completions.create(**ask(logit_bias=bias, max_tokens=20)).usage
    longer = client.chat.completions.create(
        **ask(logit_bias=bias, max_tokens=20), extra_body={"min_tokens": 7}
    )
    full = client.chat.completions.create(
        **ask(logit_bias=bias, max_tokens=20), extra_body={"ignore_eos": True}
    )
    counts = [short.completion_tokens, longer.usage.completion_tokens, full.usage.completion_tokens]
    assert counts[0] < 3
    assert counts[1] in (7, 8)
    assert (counts[2], full.choices[0].finish_reason) == (20, "length")


def test_a_chats_logprobs_are_probabilities(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(
        **ask(temperature=0, logprobs=True, top_logprobs=20, max_tokens=12)
    ).choices[0]
    found = choice.logprobs.content
    assert b"".join(bytes(one.bytes) for one in found).decode(errors="replace") == choice.message.content
    for one in found:
        tops = [top.logprob for top in one.top_logprobs]
        assert len(tops) == 20
        assert tops == sorted(tops, reverse=True)
        assert sum(map(math.exp, tops)) <= 1.0001
        assert (one.token, one.logprob) == (one.top_logprobs[0].token, pytest.approx(tops[0]))


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_with_logprobs(server: Running, stream: bool) -> None:
    asked = {"model": "tiny", "prompt": "Once upon naïve 😀", "echo": True, "logprobs": 2, "temperature": 0, "max_tokens": 8, "stream": stream}  # fmt: skip
    reply = server.client.post(GENERATE[1], json=asked)
    if stream:
        lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line][:-1]
        choices = [choice for line in lines for choice in json.loads(line)["choices"]]
    else:
        choices = reply.json()["choices"]
    text = "".join(choice["text"] for choice in choices)
    parts = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    told = {name: [one for part in parts for one in part[name]] for name in parts[0]}
    assert text.startswith(asked["prompt"])
    assert len({len(entries) for entries in told.values()}) == 1
    assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
    assert all(number < 0 for number in told["token_logprobs"][1:])
    assert told["text_offset"] == sorted(told["text_offset"])
    for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
        assert token.startswith("bytes:\\x") or text[offset:].startswith(token)
    assert all(2 <= len(top) <= 3 for top in told["top_logprobs"][1:])


def test_a_prompts_logprobs_alone(client: openai.OpenAI) -> None:
    """Scoring: nothing is generated."""
    for prompt, count in ((["Once upon a time"], None), ([[5, 6, 7], [8, 9]], 3)):
        made = client.completions.create(model="tiny", prompt=prompt, echo=True, logprobs=0, max_tokens=0)  # type: ignore[arg-type]
        first = made.choices[0]
        assert len(made.choices) == len(prompt)
        assert made.usage.completion_tokens == 0
        assert count or first.text == prompt[0]
        assert len(first.logprobs.token_logprobs) == count or not count
        assert all(len(top) == 1 for top in first.logprobs.top_logprobs[1:])


def test_tokens_are_the_text_they_stand_for(client: openai.OpenAI) -> None:
    """A prompt's own tokens, read off an echo's usage, ask for the same answer as its text."""
    text = client.completions.create(model="tiny", prompt="A", temperature=0, max_tokens=8)
    found = [
        client.completions.create(model="tiny", prompt=[token], temperature=0, max_tokens=8, echo=True)
        for token in range(3, 300, 1)
        if token in range(30, 70)
    ]
    same = [one.choices[0].text for one in found if one.choices[0].text.startswith("A")]
    assert same == ["A" + text.choices[0].text]


async def test_a_plain_a_penalised_a_held_a_streamed_and_a_failing_request_share_a_batch(
    server: Running,
) -> None:
    """Each gets what it gets alone; the one that fails has no say in it."""
    held = {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "p", "schema": Person.model_json_schema()},
        }
    }
    asked: dict[str, dict[str, Any]] = {
        "plain": {},
        "penalised": {"presence_penalty": 1.5, "repetition_penalty": 1.4, "logit_bias": {"40": 2}},
        "held": held,
        "streamed": {"stream": True},
        "failing": {"regex": "(unclosed"},
    }

    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

        async def one(name: str) -> str:
            more = {
                "temperature": 1,
                "seed": len(name),
                "max_tokens": 300 if name == "held" else 40,
                **asked[name],
            }
            extra = {key: more.pop(key) for key in ("repetition_penalty", "regex") if key in more}
            try:
                reply = await client.chat.completions.create(**ask(**more), extra_body=extra)
            except openai.BadRequestError as error:
                return str(error.code)
            if more.get("stream"):
                return "".join([chunk.choices[0].delta.content or "" async for chunk in reply])
            return str(reply.choices[0].message.content)

        alone = {name: await one(name) for name in asked}
        together = await asyncio.gather(*map(one, [*asked, *asked]))
    assert together == [*alone.values(), *alone.values()]
    assert alone["failing"] == "invalid_grammar"
    Person.model_validate_json(alone["held"])
