"""Gemma 4: `<|tool_call>call:f{a:<|"|>x<|"|>}<tool_call|>`."""

from ..gemma import Gemma

DIALECT = Gemma(
    name="gemma4",
    trigger="<|tool_call>",
    close="<tool_call|>",
    quote='<|"|>',
    markers=("<|tool_call>", "<tool_call|>", '<|"|>'),
    repeats=True,
)
