"""Kimi K2: `<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"a": 1}
<|tool_call_end|><|tool_calls_section_end|>`."""

from ..named import Named

DIALECT = Named(
    name="kimi_k2",
    trigger="<|tool_calls_section_begin|>",
    before="<|tool_call_begin|>",
    between=("<|tool_call_argument_begin|>",),
    after="<|tool_call_end|>",
    close="<|tool_calls_section_end|>",
    many=True,
    numbered=True,
    markers=(
        *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
        *("<|tool_call_end|>", "<|tool_call_argument_begin|>"),
    ),
)
