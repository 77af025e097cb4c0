"""A conversation as a chat template takes it; what the template cannot write is put into words."""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import InvalidParameter
from ..messages import GenerateRequest, Message
from ..parse import instructions
from .manner import Manner


def turns(request: GenerateRequest, manner: Manner | None) -> list[dict[str, Any]]:
    """The request's messages as dicts, in their order. Raises InvalidParameter."""
    messages = request.messages or ()
    if manner is None:
        return [_turn(message) for message in messages]
    said = [_turn(_put(message, manner)) for message in messages]
    if request.tools is None or manner.reads_tools:
        return said
    return _taught(said, instructions.instructions(request.tools, manner.dialect))


def _put(message: Message, manner: Manner) -> Message:
    """The message with what the template cannot take as part of its text."""
    if message.tool_calls and not manner.reads_calls:
        written = manner.dialect.write(message.tool_calls)
        text = "\n".join(part for part in (message.content, written) if part)
        return msgspec.structs.replace(message, content=text, tool_calls=())
    if message.role == "tool" and not manner.reads_results:
        return Message("user", instructions.result(message.content or ""))
    return message


def _taught(said: list[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """With words for the model at the end of the system message, or in one of their own."""
    if said and said[0]["role"] == "system":
        first = said[0] | {"content": f"{said[0]['content']}\n\n{words}"}
        return [first, *said[1:]]
    return [{"role": "system", "content": words}, *said]


def _turn(message: Message) -> dict[str, Any]:
    """A message as templates expect it: content always a string, arguments an object where they are JSON."""
    turn = msgspec.to_builtins(message) | {"content": message.content or ""}
    for call in turn.get("tool_calls", ()):
        function = call["function"]
        function["arguments"] = _arguments(function.get("arguments", "{}"))
    return turn


def _arguments(text: str) -> dict[str, Any] | str:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except RecursionError:
        raise InvalidParameter(
            "The arguments of a tool call are nested too deeply.", field="messages"
        ) from None
    except msgspec.DecodeError:
        return text
