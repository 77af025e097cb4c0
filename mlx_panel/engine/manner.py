"""How a model speaks, read off its chat template and its vocabulary: reasoning, tool calls, the template's own values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from ..errors import InvalidParameter, UnsupportedParameter
from ..messages import GenerateRequest, Thinking
from ..parse import detect, reasoning, template
from ..parse.dialect import Dialect

# The dialect that models without one of their own are taught in the system message.
TAUGHT = "hermes_json"
T = TypeVar("T")


class Manner(NamedTuple):
    """`style` is how it reasons, None when it does not; `dialect` how it calls tools.

    `reads_tools`, `reads_calls` and `reads_results` say whether the template takes functions, past calls and their
    results itself; where it does not they are put into words. `variables` are the template's own values. `shows_tools` is
    a template that shows functions at all, also where it does not say how they are called.
    """

    style: reasoning.Style | None
    dialect: Dialect
    reads_tools: bool
    reads_calls: bool
    reads_results: bool
    variables: tuple[str, ...]
    shows_tools: bool = False

    def asked(self, request: GenerateRequest) -> Manner:
        """This, with the dialect and the style that a request names instead. Raises InvalidParameter for unknown ones."""
        if not (request.tool_dialect or request.reasoning_style):
            return self
        style = named(reasoning.STYLES, request.reasoning_style, "reasoning_style") or self.style
        dialect = named(detect.BY_NAME, request.tool_dialect, "tool_dialect")
        if dialect is None:
            return self._replace(style=style)
        return self._replace(style=style, dialect=dialect, reads_tools=self.reads_tools or self.shows_tools)

    def check(self, request: GenerateRequest) -> None:
        """Raise UnsupportedParameter, naming the field, for what this model's template cannot be told."""
        wrong = {
            "chat_template_kwargs": not request.template.keys() <= set(self.variables),
            "thinking_budget": request.thinking.budget is not None and self.style is None,
            "reasoning_effort": not self._obeys(request.thinking),
        }
        for field in (name for name, bad in wrong.items() if bad):
            raise UnsupportedParameter(f"This model does not take {field}.", field=field)

    def _obeys(self, thinking: Thinking) -> bool:
        """Whether reasoning can be switched as asked: a model that never reasons, or always, need not be told to."""
        if thinking.effort is not None and "reasoning_effort" in self.variables:
            return True
        if thinking.enabled is None:
            return thinking.effort is None
        return self.switch is not None or thinking.enabled == (self.style is not None)

    @property
    def switch(self) -> str | None:
        """The template's value that switches reasoning on and off."""
        return template.switch(self.variables) or None


def manner(tokenizer: Any, model_type: str) -> Manner:
    """Of a tokenizer of mlx-lm's. A template that is a program of the tokenizer's own is taken to read everything."""
    source = template.chosen(getattr(tokenizer, "chat_template", None))
    vocabulary = tokenizer.get_vocab()
    style = reasoning.find(source, vocabulary)
    found = detect.dialect(source, vocabulary, model_type)
    names = template.variables(source)
    program = bool(tokenizer.has_chat_template and not source)
    return Manner(
        style,
        found or detect.BY_NAME[TAUGHT],
        program or (found is not None and "tools" in names),
        program or "tool_calls" in source,
        program or _mentions_results(source),
        template.own(names, _special_names(tokenizer)),
        program or "tools" in names,
    )


def named(known: Mapping[str, T], name: str, field: str) -> T | None:
    """What has that name; None without one. Raises InvalidParameter."""
    if name and name not in known:
        raise InvalidParameter(f"{field} is one of {', '.join(known)}.", field=field)
    return known.get(name)


def _mentions_results(source: str) -> bool:
    return any(word in source for word in ("'tool'", '"tool"', "tool_response", "ipython", "'observation'"))


def _special_names(tokenizer: Any) -> tuple[str, ...]:
    return tuple(getattr(tokenizer, "special_tokens_map", None) or ())
