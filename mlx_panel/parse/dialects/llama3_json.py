"""Llama 3.1 to 3.3: nothing but `{"name": "f", "parameters": {"a": 1}}`, also behind `<|python_tag|>`, where built-in
tools are called in Python as well."""

from __future__ import annotations

from ...request import Tool
from ..objects import Objects
from ..sections import Section
from ..source import Steps
from .llama_python import DIALECT as LLAMA_PYTHON


class _Llama3(Objects, frozen=True, kw_only=True):
    def read(self, section: Section, tools: dict[str, Tool]) -> Steps[None]:
        if section.trigger == LLAMA_PYTHON.trigger:
            yield from LLAMA_PYTHON.read(section, tools)
        else:
            yield from super().read(section, tools)


DIALECT = _Llama3(
    name="llama3_json",
    trigger="",
    also=("{", LLAMA_PYTHON.trigger),
    close="<|eom_id|>",
    final=True,
    key="parameters",
    markers=LLAMA_PYTHON.markers,
    at_line=True,
)
