"""What OpenAI's chat and text completions share: sampling fields, stop strings, usage, conversation turns.

Source: the OpenAI API document, `CreateChatCompletionRequest` and `CreateCompletionRequest`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from ..errors import InvalidParameter, UnknownField, UnsupportedParameter
from ..messages import Done, Function, Message, PastToolCall, Sampling
from .decode import printable

MAX_STOPS = 16
MAX_MESSAGES = 1024
MAX_BIASES = 1024
TOKEN_ID = re.compile(r"0|[1-9][0-9]{0,8}")
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
MESSAGE_FIELDS = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal"}
PART_FIELDS = {"type", "text", "refusal"}
CALL_FIELDS = {"id", "type", "function"}
FUNCTION_FIELDS = {"name", "arguments"}
MESSAGE_UNSUPPORTED = {"function_call", "audio"}
OTHER_PARTS = {"image_url", "input_audio", "file", "image", "video_url"}
NO_EFFECT = frozenset(
    {
        "user",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
        "verbosity",
    }
)

Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
TopK = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Repetition = Annotated[float, msgspec.Meta(ge=0.01, le=10)]  # a logit divided by less overflows
Bias = Annotated[float, msgspec.Meta(ge=-100, le=100)]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Common(msgspec.Struct, frozen=True):
    """Fields both endpoints take; null means the default."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: TopK | None = None
    min_p: Fraction | None = None
    max_tokens: Count | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Repetition | None = None
    repetition_context_size: TopK | None = None
    logit_bias: dict[str, Bias] | None = None
    deterministic: bool | None = None

    def sampling(self) -> Sampling:
        """OpenAI allows `top_p` 0: nothing but the likeliest token is left then, which is greedy."""
        temperature = 1.0 if self.temperature is None else self.temperature
        greedy = temperature == 0 or self.top_p == 0
        return Sampling(
            temperature=0.0 if greedy else temperature,
            top_p=self.top_p or 1.0,
            top_k=self.top_k or 0,
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            repetition_context=self.repetition_context_size or 0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=self.biases(),
            seed=self.seed,
        )

    def biases(self) -> dict[int, float]:
        """By token id. Whether the model has such tokens is not known here."""
        given = self.logit_bias or {}
        if len(given) > MAX_BIASES or not all(map(TOKEN_ID.fullmatch, given)):
            raise InvalidParameter(
                f"'logit_bias' takes up to {MAX_BIASES} token ids, each with a number from -100 to 100.",
                field="logit_bias",
            )
        return {int(token): bias for token, bias in given.items()}

    def stops(self) -> tuple[str, ...]:
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stops) > MAX_STOPS or not all(stops):
            raise InvalidParameter(
                f"'stop' takes up to {MAX_STOPS} strings, none of them empty.", field="stop"
            )
        return stops

    def without_effect(self) -> list[str]:
        """Obfuscation pads chunks against eavesdroppers on the way; there is none on one machine."""
        given = self.stream_options is not None and self.stream_options.include_obfuscation is not None
        return ["stream_options.include_obfuscation"] if given else []

    def wants_usage(self) -> bool:
        if self.stream_options is not None and not self.stream:
            raise InvalidParameter(
                "'stream_options' is only allowed when 'stream' is true.", field="stream_options"
            )
        return bool(self.stream_options and self.stream_options.include_usage)


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
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None


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
    if content is None and not (turn.role == "assistant" and (calls or turn.refusal)):
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


def usage(done: Done) -> dict[str, Any]:
    """OpenAI's `CompletionUsage`."""
    counts = done.usage
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
