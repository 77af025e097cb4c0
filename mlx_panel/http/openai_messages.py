"""OpenAI's conversation turns into messages, and token counts into its `usage`.

Source: the OpenAI API document, `ChatCompletionRequestMessage` and `CompletionUsage`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from ..errors import InvalidParameter, UnknownField, UnsupportedParameter
from ..messages import Function, Message, PastToolCall, Usage
from .decode import printable

MAX_MESSAGES = 1024
MAX_PARTS = 1024  # of a message
MAX_CALLS = 256  # of a message
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
MESSAGE_FIELDS = {
    "role",
    "content",
    "name",
    "tool_calls",
    "tool_call_id",
    "refusal",
    "reasoning_content",
    "reasoning",
}
PART_FIELDS = {"type", "text", "refusal"}
CALL_FIELDS = {"id", "type", "function"}
FUNCTION_FIELDS = {"name", "arguments"}
MESSAGE_UNSUPPORTED = {"function_call", "audio"}
OTHER_PARTS = {"image_url", "input_audio", "file", "image", "video_url"}


class Part(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: str = "{}"


class ToolCall(msgspec.Struct, frozen=True):
    id: str
    function: CalledFunction


class Turn(msgspec.Struct, frozen=True):
    """A message as it comes in."""

    role: str
    content: str | Annotated[list[Part], msgspec.Meta(max_length=MAX_PARTS)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[ToolCall], msgspec.Meta(max_length=MAX_CALLS)] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # the same, as other servers call it


def conversation(turns: list[Turn]) -> tuple[Message, ...]:
    """Turns as the engine takes them. Raises InvalidParameter or UnsupportedParameter naming the turn."""
    if not 0 < len(turns) <= MAX_MESSAGES:
        raise InvalidParameter(f"'messages' takes 1 to {MAX_MESSAGES} messages.", field="messages")
    return tuple(_message(turn, f"messages[{place}]") for place, turn in enumerate(turns))


def _message(turn: Turn, field: str) -> Message:
    if turn.role not in ROLES:
        raise InvalidParameter(f"'{field}.role' must be one of {', '.join(ROLES)}.", field=f"{field}.role")
    content = _text(turn.content, f"{field}.content")
    calls = tuple(
        PastToolCall(call.id, Function(call.function.name, call.function.arguments))
        for call in turn.tool_calls or ()
    )
    thought = turn.reasoning_content if turn.reasoning_content is not None else turn.reasoning
    _check_assistant(turn, field)
    if content is None and not (turn.role == "assistant" and (calls or turn.refusal or thought)):
        raise InvalidParameter(f"'{field}.content' is required.", field=f"{field}.content")
    if turn.role == "tool" and not turn.tool_call_id:
        raise InvalidParameter(
            f"'{field}.tool_call_id' is required for a tool message.", field=f"{field}.tool_call_id"
        )
    return Message(
        role=ROLES[turn.role],  # type: ignore[arg-type]
        content=content if content is not None else turn.refusal,
        name=turn.name,
        tool_calls=calls,
        tool_call_id=turn.tool_call_id,
        reasoning_content=thought,
    )


def _check_assistant(turn: Turn, field: str) -> None:
    """What only a model's own turn has. Raises InvalidParameter."""
    for name in ("tool_calls", "reasoning_content", "reasoning"):
        if turn.role != "assistant" and getattr(turn, name):
            raise InvalidParameter(
                f"'{field}.{name}' belongs to messages of the role assistant.", field=f"{field}.{name}"
            )


def _text(content: str | list[Part] | None, field: str) -> str | None:
    """Text parts are joined by a line break, so that none runs into the next."""
    if content is None or isinstance(content, str):
        return content
    if not content:
        raise InvalidParameter(f"'{field}' is an empty list.", field=field)
    return "\n".join(_part(part, f"{field}[{place}]") for place, part in enumerate(content))


def _part(part: Part, field: str) -> str:
    if part.type in OTHER_PARTS:
        raise UnsupportedParameter(
            f"'{field}': this model reads text only, not '{part.type}'.", field=f"{field}.type"
        )
    text = part.text if part.type == "text" else part.refusal if part.type == "refusal" else None
    if text is None:
        raise InvalidParameter(f"'{field}' must be a text part: {{type: text, text: ...}}.", field=field)
    return text


def turn_fields(raw: dict[str, Any], refuse: bool) -> list[str]:
    """Names of fields inside messages that have no effect; `raw` is a body that has been checked.

    Raises UnsupportedParameter for one of the API's own, UnknownField for any other where that is asked for.
    """
    found: set[str] = set()
    for place, path in _strange(raw["messages"]):
        name = path.rpartition(".")[2]
        shown = printable([name])[0]
        if name in MESSAGE_UNSUPPORTED:
            raise UnsupportedParameter(
                f"'messages[{place}].{name}' is not supported here.", field=f"messages[{place}]"
            )
        if refuse:
            raise UnknownField(
                f"The field '{shown}' of 'messages[{place}]' is not part of this API.",
                field=f"messages[{place}].{shown}",
            )
        found.add(path)
    return printable(found)


def _strange(turns: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """Each field outside the vocabulary that is set: the message's place and the field's path."""
    for place, turn in enumerate(turns):
        parts = turn.get("content")
        calls = turn.get("tool_calls") or ()
        yield from ((place, f"messages.{name}") for name in _beyond(turn, MESSAGE_FIELDS))
        for part in parts if isinstance(parts, list) else ():
            yield from ((place, f"messages.content.{name}") for name in _beyond(part, PART_FIELDS))
        for call in calls:
            yield from ((place, f"messages.tool_calls.{name}") for name in _beyond(call, CALL_FIELDS))
            yield from (
                (place, f"messages.tool_calls.function.{name}")
                for name in _beyond(call["function"], FUNCTION_FIELDS)
            )


def _beyond(value: dict[str, Any], known: set[str]) -> list[str]:
    return [name for name, one in value.items() if name not in known and one is not None]


def usage(counts: Usage) -> dict[str, Any]:
    """OpenAI's `CompletionUsage`."""
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.total_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": counts.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
