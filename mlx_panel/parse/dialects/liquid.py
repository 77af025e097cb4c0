"""LFM2: `<|tool_call_start|>[f(a="x")]<|tool_call_end|>`."""

from ..pythonic import Pythonic

DIALECT = Pythonic(
    name="liquid",
    trigger="<|tool_call_start|>",
    close="<|tool_call_end|>",
    markers=("<|tool_call_start|>", "<|tool_call_end|>"),
    repeats=True,
)
