"""OpenAI's streaming dialect as a client hears it: the body to send, and what a chunk means for a clock.

Source: the OpenAI API document, `CreateChatCompletionStreamResponse` and `CreateCompletionResponse`; the names
`reasoning_content` and `reasoning` are those of vLLM and others. Only what is measured is decoded.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .prompts import Ask, Like
from .records import Workload
from .trace import Trace

PATHS = {"chat": "/chat/completions", "completions": "/completions"}
DONE = b"[DONE]"
LONGEST_MESSAGE = 300


class Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class Choice(msgspec.Struct):
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class Details(msgspec.Struct):
    cached_tokens: int | None = None


class Counts(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None


class Whole(msgspec.Struct):
    """An answer that was not streamed."""

    choices: list[Choice]
    usage: Counts | None = None


class Chunk(msgspec.Struct):
    choices: list[Choice] | None = None
    usage: Counts | None = None
    error: msgspec.Raw = msgspec.Raw()


class Fault(msgspec.Struct):
    """An error's object, as OpenAI documents it; others send some of it, or only a text."""

    message: str | None = None
    code: str | int | None = None
    type: str | None = None


_chunk = msgspec.json.Decoder(Chunk).decode
_whole = msgspec.json.Decoder(Whole).decode


def body(workload: Workload, model: str, ask: Ask, more: dict[str, Any]) -> bytes:
    """The request, streamed but where a replayed one was not. `more` are the fields a server was found to take."""
    asked: dict[str, Any] = {"model": model}
    if workload.endpoint == "chat":
        asked["messages"] = [{"role": "user", "content": ask.prompt}]
    else:
        asked["prompt"] = ask.prompt
    if ask.like is not None:
        return msgspec.json.encode(asked | _alike(ask.like, more))
    asked |= {"max_tokens": workload.output_tokens, "temperature": workload.temperature, "stream": True}
    if workload.temperature:
        asked["top_p"] = workload.top_p
    return msgspec.json.encode(asked | more)


def _alike(like: Like, more: dict[str, Any]) -> dict[str, Any]:
    """The fields of a replayed request; those of a stream are left out where it was none."""
    values = {"temperature": like.temperature, "top_p": like.top_p, "top_k": like.top_k or None}
    asked: dict[str, Any] = {"max_tokens": like.output_tokens, "stream": like.stream}
    asked |= {"model": like.model} if like.model else {}
    asked |= {name: value for name, value in values.items() if value is not None}
    kept = more if like.stream else {name: value for name, value in more.items() if name != "stream_options"}
    return asked | kept


def take_whole(trace: Trace, content: bytes) -> None:
    """Note what an answer says that came in one piece; when its tokens came is not known."""
    try:
        answer = _whole(content)
    except msgspec.DecodeError:
        return trace.fail("bad_answer", "The answer is not what OpenAI's API documents.")
    for choice in answer.choices:
        trace.finish_reason = choice.finish_reason or trace.finish_reason or "done"
    if answer.usage is not None:
        _count(trace, answer.usage)
    return None


def take(trace: Trace, data: bytes, now: float) -> bool:
    """Note what an event says; True when it is the stream's last."""
    if data == DONE:
        trace.finish_reason = trace.finish_reason or "done"
        return True
    try:
        chunk = _chunk(data)
    except msgspec.DecodeError:
        trace.fail("bad_chunk", "A chunk of the stream is not what OpenAI's API documents.")
        return True
    if chunk.error and bytes(chunk.error) != b"null":
        trace.fail(*fault(bytes(chunk.error)))
        return True
    for choice in chunk.choices or ():
        if choice.text or (choice.delta is not None and _says(choice.delta)):
            trace.hear(now)
        trace.finish_reason = choice.finish_reason or trace.finish_reason
    if chunk.usage is not None:
        _count(trace, chunk.usage)
    return False


def _says(delta: Delta) -> bool:
    return bool(delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls)


def _count(trace: Trace, counts: Counts) -> None:
    trace.prompt_tokens = counts.prompt_tokens or trace.prompt_tokens
    trace.completion_tokens = (
        trace.completion_tokens if counts.completion_tokens is None else counts.completion_tokens
    )
    details = counts.prompt_tokens_details
    trace.cached_tokens = (details.cached_tokens if details else None) or trace.cached_tokens


def fault(error: bytes) -> tuple[str, str]:
    """An error's code and message; either may be empty. The message is for a person, one line, cut short."""
    try:
        found = msgspec.json.decode(error, type=Fault | str)
    except msgspec.DecodeError:
        return "error", ""
    if isinstance(found, str):
        return "error", _line(found)
    return str(found.code or found.type or "error"), _line(found.message or "")


def refusal(status: int, content: bytes) -> tuple[str, str]:
    """Code and message of an answer that is no stream."""
    code, message = "error", ""
    try:
        given = msgspec.json.decode(content)
    except msgspec.DecodeError:
        given = None
    if isinstance(given, dict):
        code, message = fault(msgspec.json.encode(given.get("error", given)))
        message = message or _line(str(given.get("detail") or given.get("message") or ""))
    return (f"http_{status}" if code in ("error", "None") else f"http_{status}_{code}"), message


def _line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)[:LONGEST_MESSAGE]
