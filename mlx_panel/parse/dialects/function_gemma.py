"""FunctionGemma: `<start_function_call>call:f{a:<escape>x<escape>}<end_function_call>`."""

from ..gemma import Gemma

DIALECT = Gemma(
    name="function_gemma",
    trigger="<start_function_call>",
    close="<end_function_call>",
    quote="<escape>",
    markers=("<start_function_call>", "<end_function_call>", "<escape>"),
    repeats=True,
)
