"""Tools for models whose chat template knows none, said in words."""

from __future__ import annotations

import json

from ..request import Function, PastToolCall, Tool, Tools
from .dialect import Dialect

_EXAMPLE = PastToolCall("", Function("FUNCTION_NAME", '{"PARAMETER": "VALUE"}'))


def instructions(tools: Tools, dialect: Dialect) -> str:
    """What the system message says of these tools: their schemas as JSON, one a line, and how to call them."""
    return "\n\n".join(
        [
            "You can call functions. Each line is one, with the JSON Schema of its parameters:",
            "\n".join(_described(tool) for tool in tools.tools),
            f"To call one, answer with exactly this, with the function's name and its arguments:\n{dialect.write([_EXAMPLE])}",
            _choice(tools),
        ]
    )


def _described(tool: Tool) -> str:
    described = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return json.dumps({key: value for key, value in described.items() if value}, ensure_ascii=False)


def _choice(tools: Tools) -> str:
    first = "Call functions only where they help; else answer in words."
    if tools.choice == "required":
        first = f"Call {tools.name or 'a function'} now."
    count = "You may make several calls, one after the other." if tools.parallel else "Make at most one call."
    return f"{first} {count} The results come in the next message."


def result(content: str, name: str = "") -> str:
    """A function's result, as the text of a user message."""
    head = f'<tool_response name="{name}">' if name else "<tool_response>"
    return f"{head}\n{content}\n</tool_response>"
