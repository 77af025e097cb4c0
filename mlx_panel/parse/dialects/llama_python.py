"""Llama 3.x with built-in tools: `<|python_tag|>f.call(a=1)<|eom_id|>`. Of a function `f` also `f.call(…)` is a call."""

from ..pythonic import Pythonic

DIALECT = Pythonic(
    name="llama_python",
    trigger="<|python_tag|>",
    close="<|eom_id|>",
    final=True,
    listing=False,
    between="; ",
    dotted=True,
    markers=("<|python_tag|>", "<|eom_id|>"),
)
