"""The released OpenAI client against a real server with a real, tiny model; every body validated strictly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from .models import tiny_model
from .server import Running, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("openai")
    tiny_model(folder / "models" / "tiny")
    with running(folder, models="tiny") as running_server:
        yield running_server


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one


def ask(text: str = "Hello", **more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 24, **more}


def strict(kind: Any, body: Any) -> None:
    """The client never validates; a strictly typed one does."""
    kind.model_validate(body.model_dump(exclude_unset=True), strict=True)


def test_models(client: openai.OpenAI) -> None:
    models = list(client.models.list())
    for model in models:
        strict(Model, model)
    assert "tiny" in [model.id for model in models]
    strict(Model, client.models.retrieve("tiny"))


def test_a_chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(**ask())
    strict(ChatCompletion, reply)
    assert reply.choices[0].finish_reason in ("length", "stop")
    assert reply.usage
    assert reply.usage.completion_tokens <= 24
    assert reply._request_id


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_streaming_says_the_same(client: openai.OpenAI, temperature: float) -> None:
    whole = client.chat.completions.create(**ask(temperature=0))
    chunks = list(
        client.chat.completions.create(
            **ask(temperature=temperature), stream=True, stream_options={"include_usage": True}
        )
    )
    for chunk in chunks:
        strict(ChatCompletionChunk, chunk)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-2].choices[0].finish_reason
    if temperature == 0:
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_no_usage_unless_asked(client: openai.OpenAI) -> None:
    assert all(
        chunk.usage is None and chunk.choices
        for chunk in client.chat.completions.create(**ask(), stream=True)
    )


def test_greedy_is_greedy(client: openai.OpenAI) -> None:
    answers = {
        client.chat.completions.create(**ask(temperature=0)).choices[0].message.content for _ in range(3)
    }
    narrow = client.chat.completions.create(**ask(temperature=1.5), extra_body={"top_k": 1})
    assert answers == {narrow.choices[0].message.content}
    assert (
        len(
            {
                client.chat.completions.create(**ask(temperature=2)).choices[0].message.content
                for _ in range(3)
            }
        )
        > 1
    )


def test_max_tokens_and_stop(client: openai.OpenAI) -> None:
    full = client.chat.completions.create(**ask(temperature=0)).choices[0].message.content
    short = client.chat.completions.create(**ask(temperature=0) | {"max_tokens": 5})
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (5, "length")
    stop = full[len(full) // 2 :][:3]
    cut = client.chat.completions.create(**ask(temperature=0, stop=[stop]))
    assert cut.choices[0].message.content == full[: full.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_roles_and_parts(client: openai.OpenAI) -> None:
    turns: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "two"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "user", "content": "And?"},
    ]
    parts = client.chat.completions.create(**ask() | {"messages": turns})
    joined = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "One\ntwo"}, *turns[2:]]
    assert (
        client.chat.completions.create(**ask() | {"messages": joined}).usage.prompt_tokens
        == parts.usage.prompt_tokens
    )


@pytest.mark.parametrize("stream", [False, True])
def test_completions(client: openai.OpenAI, stream: bool) -> None:
    whole = client.completions.create(model="tiny", prompt="Once", temperature=0)
    strict(Completion, whole)
    assert whole.usage.completion_tokens <= 16
    if stream:
        chunks = list(client.completions.create(model="tiny", prompt="Once", temperature=0, stream=True))
        # The API sends null until the end, which its own client's type does not know; all the rest is strict.
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        for chunk in chunks:
            chunk.choices[0].finish_reason = chunk.choices[0].finish_reason or "stop"
            strict(Completion, chunk)
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


ERRORS: list[tuple[dict[str, Any], type[openai.APIStatusError], str]] = [
    ({"model": "nothing"}, openai.NotFoundError, "model_not_found"),
    ({"temperature": 9}, openai.BadRequestError, "invalid_parameter"),
    ({"functions": [{"name": "f"}]}, openai.BadRequestError, "unsupported_parameter"),
    ({"max_tokens": 100_000}, openai.BadRequestError, "context_length_exceeded"),
    ({"model": "failing"}, openai.InternalServerError, "generation_failed"),
    ({"model": "broken"}, openai.InternalServerError, "model_load_failed"),
]


@pytest.mark.parametrize(("change", "kind", "code"), ERRORS, ids=[code for _, _, code in ERRORS])
def test_its_exception_classes(
    client: openai.OpenAI, change: dict[str, Any], kind: type[openai.APIStatusError], code: str
) -> None:
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**ask() | change)
    assert caught.value.code == code
    assert caught.value.request_id


def test_an_error_in_a_stream_is_raised(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError) as caught:
        list(client.chat.completions.create(**ask() | {"model": "failing"}, stream=True))
    assert caught.value.code == "generation_failed"


async def test_async_in_parallel(server: Running) -> None:
    import asyncio

    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        alone = await client.chat.completions.create(**ask(temperature=0))
        many = await asyncio.gather(*(client.chat.completions.create(**ask(temperature=0)) for _ in range(8)))
        stream = await client.chat.completions.create(**ask(temperature=0), stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert {reply.choices[0].message.content for reply in [*many, alone]} == {text}


def test_two_requests_may_share_an_id(client: openai.OpenAI, server: Running) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        work = [
            pool.submit(
                client.chat.completions.create, **ask(temperature=0), extra_headers={"X-Request-ID": "twin"}
            )
            for _ in range(4)
        ]
        assert len({one.result().choices[0].message.content for one in work}) == 1
    assert len(server.rows("twin")) == 4
