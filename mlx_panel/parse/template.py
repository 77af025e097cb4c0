"""A chat template as text: which of several is a model's, and which values it reads from outside. Nothing is rendered."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What every template may read: the conversation, and what the tokenizer hands it.
GIVEN = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "strftime_now", "raise_exception"}
)  # fmt: skip
SWITCHES = ("enable_thinking", "thinking")
# transformers knows one more statement, which marks the assistant's words.
MARKED = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")


def chosen(found: Any) -> str:
    """The template that counts of what a tokenizer has: a text, or several by name; "" where there is none."""
    if isinstance(found, Mapping):
        found = found.get("tool_use") or found.get("default") or next(iter(found.values()), "")
    return found if isinstance(found, str) else ""


def variables(template: str) -> set[str]:
    """The values a template reads from outside; none of one that jinja does not understand. It is parsed, never run."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"])
    try:
        return set(jinja2.meta.find_undeclared_variables(environment.parse(MARKED.sub("", template))))
    except (jinja2.TemplateError, RecursionError):
        return set()


def own(names: set[str], special: Collection[str] = ()) -> tuple[str, ...]:
    """Of these values those that are the template's own: neither given to every template nor special tokens' names."""
    return tuple(sorted(names - GIVEN - set(special)))


def switch(names: Collection[str]) -> str:
    """The value that turns reasoning on and off; "" where there is none."""
    return next((name for name in SWITCHES if name in names), "")
