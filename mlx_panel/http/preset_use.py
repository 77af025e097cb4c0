"""A request as its preset has it: what the body did not say is the preset's. Structs to structs, nothing that acts."""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import InvalidParameter
from ..preset import Preset
from ..request import GenerateRequest, Message

# The sampling values that a body says or does not say; None and 0 are different things.
NUMBERS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)
SAID = (*NUMBERS, "max_tokens", "stop")
SWITCHES = {"enable_thinking", "thinking", "reasoning_effort"}


def use(request: GenerateRequest, preset: Preset, said: frozenset[str]) -> GenerateRequest:
    """The request with the preset's values for what its body left open; `said` names those of `SAID` it did not.

    Of a raw prompt only sampling and context length are the preset's: the rest is about conversations. Raises
    InvalidParameter where the body contradicts the preset.
    """
    changes: dict[str, Any] = {
        "sampling": _sampling(request, preset, said),
        "context_length": preset.context_length,
    }
    if preset.sampling.stop and "stop" not in said:
        changes["stop"] = preset.sampling.stop
    most = preset.sampling.max_tokens
    if most is not None and "max_tokens" not in said:
        if request.min_tokens > most:
            raise InvalidParameter(
                f"'min_tokens' is more than the {most} tokens of the preset {preset.name!r}; send 'max_tokens' too.",
                field="min_tokens",
            )
        changes |= {"max_tokens": most, "cut_to_context": True}
    if request.messages is not None:
        changes |= _conversation(request, preset)
    return msgspec.structs.replace(request, **changes)


def blamed(request: GenerateRequest, preset: Preset) -> dict[str, str]:
    """What to call a value that the model cannot take where it is the preset's, by the names of `suitable.py`."""
    names = {f"template.{name}": f"preset.template.{name}" for name in _template(request, preset)}
    return (
        names if preset.thinking is None or _switched(request) else {**names, "thinking": "preset.thinking"}
    )


def _sampling(request: GenerateRequest, preset: Preset, said: frozenset[str]) -> Any:
    values = {name: getattr(preset.sampling, name) for name in NUMBERS if name not in said}
    given = {name: value for name, value in values.items() if value is not None}
    return msgspec.structs.replace(request.sampling, **given)


def _conversation(request: GenerateRequest, preset: Preset) -> dict[str, Any]:
    messages, thinking = request.messages or (), request.thinking
    if preset.system_prompt and all(message.role != "system" for message in messages):
        messages = (Message("system", preset.system_prompt), *messages)
    if preset.thinking is not None and not _switched(request):
        thinking = msgspec.structs.replace(thinking, enabled=preset.thinking)
    return {
        "messages": messages,
        "thinking": thinking,
        "template": _template(request, preset) | request.template,
        "tool_dialect": preset.tools,
        "reasoning_style": preset.reasoning,
    }


def _switched(request: GenerateRequest) -> bool:
    """Whether the request itself says if the model is to reason."""
    asked = request.thinking
    return asked.enabled is not None or asked.effort is not None or bool(SWITCHES & request.template.keys())


def _template(request: GenerateRequest, preset: Preset) -> dict[str, Any]:
    """The preset's values for the template's variables that the request does not set itself."""
    own = request.template.keys() | (SWITCHES if _switched(request) else set())
    return {name: value for name, value in preset.template.items() if name not in own}
