"""Events into OpenAI's objects: what a stream's deltas add up to is what a whole reply says, however they were cut."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_panel.http.answer import Answer, Places, together
from mlx_panel.http.generation import Call
from mlx_panel.http.openai_chat import ChatReply
from mlx_panel.http.openai_completions import CompletionReply
from mlx_panel.http.openai_logprobs import TextLogprobs, _ends, chat_logprobs, offsets, spelled
from mlx_panel.http.receipt import receipt
from mlx_panel.messages import (
    Done,
    Echo,
    Event,
    GenerateRequest,
    Reasoning,
    Sampling,
    Structure,
    Text,
    Thinking,
    TokenLogprob,
    Tool,
    ToolCall,
    Tools,
    Usage,
)

WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)


def asked(ids: list[str], **more: Any) -> Call:
    return Call(tuple(GenerateRequest(id, "m", **more) for id in ids), stream=True, usage=True)


def objects(data: bytes) -> list[dict[str, Any]]:
    """The objects of a stream, which has to end as streams do."""
    *lines, last, rest = data.split(b"\n\n")
    assert (last, rest) == (b"data: [DONE]", b"")
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


def streamed(reply: Any, frames: list[list[Event]]) -> bytes:
    data = b"".join(reply.chunk(event) for frame in frames for event in together(frame))
    return reply.opening() + data + reply.closing(Usage())


def whole(reply: Any, call: Call, frames: list[list[Event]]) -> dict[str, Any]:
    answer = Answer(Places(call.requests))
    for frame in frames:
        answer.add(frame)
    return json.loads(reply.whole(answer, Usage()))


def messages(chunks: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What a client makes of chat deltas: as the API describes it, strings are joined and calls go by their index."""
    found: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            said = found.setdefault(choice["index"], {"content": "", "calls": {}, "thought": "", "end": None})
            delta = choice["delta"]
            said["content"] += delta.get("content") or ""
            said["thought"] += delta.get("reasoning_content") or ""
            said["end"] = said["end"] or choice["finish_reason"]
            said["unparsed"] = choice.get("unparsed_tool_calls", 0)
            for call in delta.get("tool_calls", []):
                one = said["calls"].setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
                one["id"] += call.get("id", "")
                one["name"] += call["function"].get("name", "")
                one["arguments"] += call["function"]["arguments"]
    return found


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[str], int, list[list[Event]]]:
    """Requests, their number of choices, and the events of all, mixed and cut into frames."""
    ids, n = ["a", "b", "c"][: draw(st.integers(1, 3))], draw(st.integers(1, 3))
    queues = [draw(_choice(id, index, n)) for id in ids for index in range(n)]
    mixed: list[Event] = []
    while any(queues):
        mixed.append(draw(st.sampled_from([queue for queue in queues if queue])).pop(0))
    cuts = sorted(draw(st.lists(st.integers(0, len(mixed)), max_size=6)))
    edges = [0, *cuts, len(mixed)]
    return ids, n, [mixed[one:other] for one, other in itertools.pairwise(edges)]


@st.composite
def _choice(draw: st.DrawFn, id: str, index: int, n: int) -> list[Event]:
    events: list[Event] = [Reasoning(id, text, 1, index) for text in draw(st.lists(WORDS, max_size=3))]
    events += [Text(id, text, 1, (), index) for text in draw(st.lists(WORDS, max_size=3))]
    calls = draw(st.lists(st.lists(WORDS, max_size=3), max_size=2))
    for number, pieces in enumerate(calls):
        events.append(ToolCall(id, number, f"f{number}", "", 1, index))
        events += [ToolCall(id, number, "", piece, 1, index) for piece in pieces]
    reason = "tool_calls" if calls else "stop"
    return [*events, Done(id, reason, Usage(), index, calls=len(calls), broken=draw(st.integers(0, 2)))]  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(answers())
def test_a_chat_stream_adds_up_to_the_whole(given: tuple[list[str], int, list[list[Event]]]) -> None:
    ids, n, frames = given
    call = asked(ids, n=n)
    reply = ChatReply(call, Places(call.requests), id="x", created=1)
    said = messages(objects(streamed(reply, frames)))
    choices = whole(reply, call, frames)["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(ids) * n)) == sorted(said)
    for choice in choices:
        one, message = said[choice["index"]], choice["message"]
        assert one["content"] == (message["content"] or "")
        assert one["thought"] == message.get("reasoning_content", "")
        assert (one["end"], one["unparsed"]) == (
            choice["finish_reason"],
            choice.get("unparsed_tool_calls", 0),
        )
        calls = [{"id": call["id"], **call["function"]} for call in message.get("tool_calls", [])]
        assert [one["calls"][at] for at in range(len(one["calls"]))] == calls
        assert len({call["id"] for call in calls}) == len(calls)
        assert (message["content"] is None) == bool(calls and not one["content"])


@settings(max_examples=100, deadline=None)
@given(answers(), st.booleans())
def test_a_text_stream_adds_up_to_the_whole(
    given: tuple[list[str], int, list[list[Event]]], echo: bool
) -> None:
    ids, n, frames = given
    call = asked(ids, n=n, echo=echo)
    told: list[Event] = [Echo(id, f"prompt {id} ") for id in ids] if echo else []
    frames = [told, *([event for event in frame if isinstance(event, Text | Done)] for frame in frames)]
    reply = CompletionReply(call, Places(call.requests), id="x", created=1)
    said = ["" for _ in range(len(ids) * n)]
    for chunk in objects(streamed(reply, frames)):
        for choice in chunk["choices"]:
            said[choice["index"]] += choice["text"]
    assert [choice["text"] for choice in whole(reply, call, frames)["choices"]] == said
    assert all(text.startswith(f"prompt {ids[at // n]} ") for at, text in enumerate(said) if echo)


def test_the_first_piece_of_a_call_alone_has_its_id_and_name() -> None:
    call = asked(["a"])
    reply = ChatReply(call, Places(call.requests), id="x", created=1)
    pieces = [ToolCall("a", 0, "f", ""), ToolCall("a", 0, "", "{"), ToolCall("a", 0, "", "}")]
    deltas = [
        one["choices"][0]["delta"] for one in objects(streamed(reply, [[piece] for piece in pieces]))[1:-1]
    ]
    first, *rest = [delta["tool_calls"][0] for delta in deltas]
    assert len(first["id"]) == len("call_") + 24
    assert first["type"] == "function"
    assert rest == [{"index": 0, "function": {"arguments": text}} for text in "{}"]


# --- log-probabilities ---------------------------------------------------------------------------------------------


def token(piece: bytes, logprob: float | None = -1.0, *top: tuple[bytes, float]) -> TokenLogprob:
    return TokenLogprob(0, piece, logprob, tuple(TokenLogprob(1, other, value) for other, value in top))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(WORDS, st.integers(1, 9)), max_size=8))
def test_each_token_begins_at_its_offset(spans: list[tuple[str, int]]) -> None:
    """Also tokens that are a part of a character, in pieces and at once."""
    text, pieces, at = "".join(word for word, _ in spans), [], 0
    for word, size in spans:
        data = word.encode()
        cut = [data[place : place + size] for place in range(0, len(data), size)]
        pieces.append(Text("a", word, len(cut), tuple(token(one) for one in cut)))
    told = TextLogprobs().all(pieces)
    assert len(told["text_offset"]) == len(told["tokens"])
    raw = text.encode()
    for spelling, offset in zip(told["tokens"], told["text_offset"], strict=True):
        size = len(
            bytes.fromhex(spelling[6:].replace("\\x", ""))
            if spelling.startswith("bytes:\\x")
            else spelling.encode()
        )
        assert offset == len(raw[:at].decode(errors="ignore"))
        at += size
    one = Text("a", text, 1, tuple(one for piece in pieces for one in piece.logprobs))
    assert offsets(one) == told["text_offset"]


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.binary(max_size=5), max_size=6))
@example([b"\xed\xa0", b"\0"])
def test_offsets_of_bytes_that_are_no_text(pieces: list[bytes]) -> None:
    """Each token's own text stands at its offset; what U+FFFD stands for is counted once."""
    text = b"".join(pieces).decode(errors="replace")
    found = offsets(Text("a", text, 1, tuple(map(token, pieces))))
    assert found == sorted(found)
    assert len(_ends(b"".join(pieces))) == len(text)
    for piece, offset in zip(pieces, found, strict=True):
        whole = piece.decode(errors="ignore")
        if whole.encode() == piece:
            assert text[offset:].startswith(whole)


def test_a_character_that_never_came_whole_is_before_the_next_token() -> None:
    pieces = [Text("a", "f", 1, (token(b"f\xc3"),)), Text("a", "\ufffdE", 1, (token(b"E"),))]
    assert TextLogprobs().all(pieces)["text_offset"] == [0, 2]


def test_a_token_that_is_no_text() -> None:
    half = token("é".encode()[:1], -0.5, ("é".encode()[:1], -0.5), (b"e", -1.0), (b"e", -2.0))
    assert spelled(half.piece) == "bytes:\\xc3"
    told = TextLogprobs().add(Text("a", "é", 2, (half, token("é".encode()[1:]))))
    assert told["tokens"] == ["bytes:\\xc3", "bytes:\\xa9"]
    assert told["top_logprobs"][0] == {"bytes:\\xc3": -0.5, "e": -1.0}, (
        "of two spelled alike the likelier stands"
    )
    chat = chat_logprobs([half])["content"][0]
    assert (chat["token"], chat["bytes"]) == ("\ufffd", [0xC3])
    assert [one["bytes"] for one in chat["top_logprobs"]] == [[0xC3], [101], [101]]


def test_marks_and_the_impossible() -> None:
    """A BOS is a token of the prompt and none of its text; nothing predicts the first token; JSON knows no infinity."""
    echo = Echo("a", "Hi", (token(b"<s>", None), token(b"H", float("-inf")), token(b"i")))
    told = TextLogprobs().add(echo)
    assert told["text_offset"] == [0, 0, 1]
    assert told["token_logprobs"] == [None, -9999.0, -1.0]
    assert told["top_logprobs"][0] is None


def test_log_probabilities_are_not_joined_into_one_chunk() -> None:
    call = asked(["a"], logprobs=1)
    texts: list[Event] = [Text("a", word, 1, (token(word.encode()),)) for word in ("x", "yz")]
    frames = [[*texts, Done("a", "stop", Usage())]]
    for reply, kind in ((ChatReply, "chat"), (CompletionReply, "text")):
        made = reply(call, Places(call.requests), id="x", created=1)
        assert not made.plain
        chunks = [one["choices"][0]["logprobs"] for one in objects(streamed(made, frames))[:-1]]
        found = [one for one in chunks if one]
        fresh = reply(call, Places(call.requests), id="x", created=1)
        complete = whole(fresh, call, frames)["choices"][0]["logprobs"]
        name = "content" if kind == "chat" else "text_offset"
        assert [entry for one in found for entry in one[name]] == complete[name]
        assert len(found) == 2


# --- the receipt -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "temperature=1; top_p=1; top_k=0; min_p=0; seed=none; max_tokens=context; n=1"),
        ({"sampling": Sampling(temperature=0.0), "max_tokens": 5}, "temperature=0; max_tokens=5; n=1"),
        (
            {"sampling": Sampling(0.7, 0.9, 40, 0.05, 1.1, 64, 0.5, -0.25, {3: 1.0}, 7), "n": 2},
            "temperature=0.7; top_p=0.9; top_k=40; min_p=0.05; repetition_penalty=1.1; repetition_context_size=64; "
            "presence_penalty=0.5; frequency_penalty=-0.25; logit_bias=1; seed=7; max_tokens=context; n=2",
        ),
        (
            {
                "sampling": Sampling(temperature=0.0), "stop": ("secret",), "ignore_eos": True, "echo": True, "logprobs": 0,
                "thinking": Thinking(True, "low", 9), "tools": Tools((Tool("secret"),), "required", "secret", False),
                "structure": Structure("regex", text="secret"), "deterministic": True, "min_tokens": 2, "max_tokens": 3,
            },
            "temperature=0; max_tokens=3; min_tokens=2; n=1; stop=1; ignore_eos=true; echo=true; logprobs=0; "
            "enable_thinking=true; reasoning_effort=low; thinking_budget=9; tools=1; tool_choice=named; "
            "parallel_tool_calls=false; structure=regex; deterministic=true",
        ),
    ],
)  # fmt: skip
def test_the_receipt(more: dict[str, Any], words: str) -> None:
    assert receipt(GenerateRequest("a", "m", **more)) == words
