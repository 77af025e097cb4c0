"""How a model speaks, read off its chat template and its vocabulary: reasoning, tool calls, the template's own values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import UnsupportedParameter
from ..messages import GenerateRequest, Thinking
from ..parse import detect, reasoning
from ..parse.dialect import Dialect

# What every template may read: the conversation, and what the tokenizer hands it.
GIVEN = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "strftime_now", "raise_exception"}
)  # fmt: skip
SWITCHES = ("enable_thinking", "thinking")
# The dialect that models without one of their own are taught in the system message.
TAUGHT = "hermes_json"


class Manner(NamedTuple):
    """`style` is how it reasons, None when it does not; `dialect` how it calls tools.

    `reads_tools`, `reads_calls` and `reads_results` say whether the template takes functions, past calls and their
    results itself; where it does not they are put into words. `variables` are the template's own values.
    """

    style: reasoning.Style | None
    dialect: Dialect
    reads_tools: bool
    reads_calls: bool
    reads_results: bool
    variables: tuple[str, ...]

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
        return next((name for name in SWITCHES if name in self.variables), None)


def manner(tokenizer: Any, model_type: str) -> Manner:
    """Of a tokenizer of mlx-lm's. A template that is a program of the tokenizer's own is taken to read everything."""
    template = template_text(tokenizer)
    vocabulary = tokenizer.get_vocab()
    style = reasoning.find(template, vocabulary)
    found = detect.dialect(template, vocabulary, model_type)
    names = variables(template)
    own = bool(tokenizer.has_chat_template and not template)
    return Manner(
        style,
        found or detect.BY_NAME[TAUGHT],
        own or (found is not None and "tools" in names),
        own or "tool_calls" in template,
        own or _mentions_results(template),
        tuple(sorted(names - GIVEN - set(_special_names(tokenizer)))),
    )


def template_text(tokenizer: Any) -> str:
    """The chat template's source; "" where there is none, or where it is a program."""
    found = getattr(tokenizer, "chat_template", None)
    if isinstance(found, Mapping):
        found = found.get("tool_use") or found.get("default") or next(iter(found.values()), "")
    return found if isinstance(found, str) else ""


def variables(template: str) -> set[str]:
    """The values a template reads from outside; none of one that jinja does not understand."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"])
    environment.extend(generation="")
    # transformers knows one more statement, which marks the assistant's words.
    plain = template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    try:
        return set(jinja2.meta.find_undeclared_variables(environment.parse(plain)))
    except (jinja2.TemplateError, RecursionError):
        return set()


def _mentions_results(template: str) -> bool:
    return any(word in template for word in ("'tool'", '"tool"', "tool_response", "ipython", "'observation'"))


def _special_names(tokenizer: Any) -> tuple[str, ...]:
    return tuple(getattr(tokenizer, "special_tokens_map", None) or ())
