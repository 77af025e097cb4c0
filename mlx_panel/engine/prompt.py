"""A request's text to token ids, and whether prompt and answer fit the model's context."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jinja2
import msgspec

from ..errors import ContextLengthExceeded, EmptyPrompt, InvalidParameter, TemplateError
from ..messages import GenerateRequest
from ..parse import reasoning
from .manner import Manner
from .turns import turns

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
    """What the batch needs: the prompt's token ids and how many tokens may follow. `text` is what was encoded.

    `thinking` says that the prompt ends inside reasoning: the model goes on with it. `max_tokens` may grow to `most`
    where that is more.
    """

    tokens: list[int]
    max_tokens: int
    text: str = ""
    thinking: bool = False
    most: int = 0


def build(
    request: GenerateRequest,
    tokenizer: Any,
    context_length: int,
    floor: Callable[[str], int],
    manner: Manner | None = None,
) -> Prompt:
    """Render and encode a request. `floor` gives a number of tokens that a text has at least.

    Raises TemplateError, EmptyPrompt, ContextLengthExceeded or InvalidParameter; none holds text of the request.
    """
    field = "prompt" if request.messages is None else "messages"
    text = _text(request, tokenizer, manner)
    if isinstance(text, str):
        # Encoding is slow, and nobody else's request moves meanwhile: what is certain not to fit ends here.
        fit(_floor(text, floor, field), request, context_length, field, "at least ")
        special = request.messages is None and request.add_special_tokens
        tokens = list(tokenizer.encode(text, add_special_tokens=special))
    else:
        tokens = text
    if not tokens:
        raise EmptyPrompt(field=field)
    room = fit(len(tokens), request, context_length, field)
    words = text if isinstance(text, str) else ""
    style = manner.style if manner is not None and request.messages is not None else None
    return Prompt(tokens, room, words, style is not None and reasoning.opened(style, words))


def fit(
    prompt_tokens: int, request: GenerateRequest, context_length: int, field: str, about: str = ""
) -> int:
    """How many tokens may be generated: the request's `max_tokens`, or what the context leaves when it is None.

    The context is the model's, or the request's own where that is shorter.
    """
    wanted, least = request.max_tokens, 0 if request.echo else 1
    if wanted is not None and wanted < least:
        raise InvalidParameter(f"max_tokens must be at least {least}.", field="max_tokens")
    context_length = min(context_length, request.context_length or context_length)
    room = context_length - prompt_tokens
    if wanted is not None and request.cut_to_context:
        wanted = max(least, min(wanted, room))
    if room >= (least if wanted is None else wanted):
        return room if wanted is None else wanted
    more = "" if wanted is None else f" and asks for {wanted} more"
    raise ContextLengthExceeded(
        f"This model's maximum context length is {context_length} tokens, "
        f"the request has {about}{prompt_tokens} prompt tokens{more}.",
        field=field,
        context_length=context_length,
        prompt_tokens=prompt_tokens,
        max_tokens=wanted or 0,
    )


def _floor(text: str, floor: Callable[[str], int], field: str) -> int:
    try:
        return floor(text)
    except UnicodeEncodeError:
        raise InvalidParameter("The text is not valid Unicode.", field=field) from None


def _text(request: GenerateRequest, tokenizer: Any, manner: Manner | None) -> str | list[int]:
    if request.tokens is not None:
        return list(request.tokens)
    return request.prompt or "" if request.messages is None else _chat(request, tokenizer, manner)


def _chat(request: GenerateRequest, tokenizer: Any, manner: Manner | None) -> str | list[int]:
    """The conversation as the template writes it, BOS included; a tokenizer that renders to ids is taken at its word."""
    if not request.messages:
        raise EmptyPrompt(field="messages")
    if not tokenizer.has_chat_template:
        raise TemplateError("This model has no chat template; it only takes raw prompts.", field="messages")
    said = turns(request, manner)
    values = _values(request, manner)
    try:
        text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, **values)
    except _TEMPLATE_FAULTS:
        # The template's own words can quote the conversation, so they end here.
        raise TemplateError(field="messages") from None
    return text if isinstance(text, str) else list(text)


def _values(request: GenerateRequest, manner: Manner | None) -> dict[str, Any]:
    """What the template is given beside the conversation."""
    values: dict[str, Any] = {}
    thinking = request.thinking
    switch = "enable_thinking" if manner is None else manner.switch
    if thinking.enabled is not None and switch is not None:
        values[switch] = thinking.enabled
    if thinking.effort is not None and (manner is None or "reasoning_effort" in manner.variables):
        values["reasoning_effort"] = thinking.effort
    if request.tools is not None and manner is not None and manner.reads_tools:
        values["tools"] = [_function(tool) for tool in request.tools.tools]
    return values | request.template


def _function(tool: Any) -> dict[str, Any]:
    """A tool as templates expect it, in OpenAI's form."""
    parameters = tool.parameters if tool.parameters is not None else {"type": "object", "properties": {}}
    said = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": said}
