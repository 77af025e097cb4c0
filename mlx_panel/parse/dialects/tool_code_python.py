"""Gemma 3 and others that were shown Python: a fenced block ```` ```tool_code ```` with a call a line."""

from ..pythonic import Pythonic

DIALECT = Pythonic(
    name="tool_code_python",
    trigger="```tool_code",
    close="```",
    listing=False,
    between="\n",
    line="\n",
    at_line=True,
    repeats=True,
)
