"""A request's text to token ids, and whether prompt and answer fit the model's context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jinja2
import msgspec

from ..errors import ContextLengthExceeded, EmptyPrompt, InvalidParameter, TemplateError
from ..messages import GenerateRequest, Message

# A chat template is a program from the model's folder: beside jinja's own errors it can meet these.
_TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Prompt(msgspec.Struct, frozen=True):
    """What the batch needs: the prompt's token ids and how many tokens may follow. `text` is what was encoded."""

    tokens: list[int]
    max_tokens: int
    text: str = ""


def build(
    request: GenerateRequest, tokenizer: Any, context_length: int, floor: Callable[[str], int]
) -> Prompt:
    """Render and encode a request. `floor` gives a number of tokens that a text has at least.

    Raises TemplateError, EmptyPrompt, ContextLengthExceeded or InvalidParameter; none holds text of the request.
    """
    field = "prompt" if request.messages is None else "messages"
    text = request.prompt or "" if request.messages is None else _chat(request.messages, tokenizer)
    if isinstance(text, str):
        # Encoding is slow, and nobody else's request moves meanwhile: what is certain not to fit ends here.
        fit(_floor(text, floor, field), request.max_tokens, context_length, field, "at least ")
        special = request.messages is None and request.add_special_tokens
        tokens = list(tokenizer.encode(text, add_special_tokens=special))
    else:
        tokens = text
    if not tokens:
        raise EmptyPrompt(field=field)
    room = fit(len(tokens), request.max_tokens, context_length, field)
    return Prompt(tokens, room, text if isinstance(text, str) else "")


def fit(prompt_tokens: int, max_tokens: int | None, context_length: int, field: str, about: str = "") -> int:
    """How many tokens may be generated: `max_tokens`, or what the context leaves when it is None."""
    if max_tokens is not None and max_tokens < 1:
        raise InvalidParameter("max_tokens must be at least 1.", field="max_tokens")
    room = context_length - prompt_tokens
    if room >= max(max_tokens or 1, 1):
        return max_tokens or room
    more = "" if max_tokens is None else f" and asks for {max_tokens} more"
    raise ContextLengthExceeded(
        f"This model's maximum context length is {context_length} tokens, "
        f"the request has {about}{prompt_tokens} prompt tokens{more}.",
        field=field,
        context_length=context_length,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens or 0,
    )


def _floor(text: str, floor: Callable[[str], int], field: str) -> int:
    try:
        return floor(text)
    except UnicodeEncodeError:
        raise InvalidParameter("The text is not valid Unicode.", field=field) from None


def _chat(messages: tuple[Message, ...], tokenizer: Any) -> str | list[int]:
    """The conversation as the template writes it, BOS included; a tokenizer that renders to ids is taken at its word."""
    if not messages:
        raise EmptyPrompt(field="messages")
    if not tokenizer.has_chat_template:
        raise TemplateError("This model has no chat template; it only takes raw prompts.", field="messages")
    turns = [_turn(message) for message in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except _TEMPLATE_FAULTS:
        # The template's own words can quote the conversation, so they end here.
        raise TemplateError(field="messages") from None
    return text if isinstance(text, str) else list(text)


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
