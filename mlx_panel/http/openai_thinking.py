"""Whether and how much a model reasons first: OpenAI's `reasoning_effort` and this server's switch and budget."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ..errors import InvalidParameter
from ..messages import Thinking

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Budget = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]


class Reasoning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All three in one object, as other servers take them."""

    enabled: bool | None = None
    effort: Effort | None = None
    max_tokens: Budget | None = None


def thinking(
    effort: Effort | None, enabled: bool | None, budget: int | None, reasoning: Reasoning | None
) -> tuple[Thinking, dict[str, str]]:
    """What is asked of the model, and what the caller called its two parts, "thinking" and "thinking_budget".

    Raises InvalidParameter for a contradiction.
    """
    if reasoning is not None:
        if (effort, enabled, budget) != (None, None, None):
            raise InvalidParameter(
                "'reasoning' says what 'reasoning_effort', 'enable_thinking' and 'thinking_budget' say; send one.",
                field="reasoning",
            )
        effort, enabled, budget = reasoning.effort, reasoning.enabled, reasoning.max_tokens
        names = {"thinking": "reasoning", "thinking_budget": "reasoning.max_tokens"}
    else:
        switch = "enable_thinking" if effort is None else "reasoning_effort"
        names = {"thinking": switch, "thinking_budget": "thinking_budget"}
    if effort is None:
        return Thinking(enabled, None, budget), names
    wanted = effort != "none"
    if enabled is not None and enabled != wanted:
        raise InvalidParameter(
            f"'{names['thinking']}' contradicts itself or the switch.", field=names["thinking"]
        )
    return Thinking(wanted, effort if wanted else None, budget), names
