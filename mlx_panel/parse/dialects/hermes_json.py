"""Hermes, Qwen 2.5 and 3 and many others: `<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>`."""

from ..objects import Objects

DIALECT = Objects(
    name="hermes_json",
    trigger="<tool_call>",
    close="</tool_call>",
    markers=("<tool_call>", "</tool_call>"),
    repeats=True,
)
