"""Mistral's two formats behind `[TOOL_CALLS]`, of which either is read where the other is the model's own:
`[{"name": "f", "arguments": {"a": 1}}]` up to tokenizer v7, `f[ARGS]{"a": 1}` from v11 on (Devstral, Mistral Small 3.2).
"""

from __future__ import annotations

from ...request import Tool
from ..named import Named
from ..objects import Objects
from ..sections import Section
from ..source import Steps

_MARKS = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")


class _Devstral(Named, frozen=True, kw_only=True):
    def read(self, section: Section, tools: dict[str, Tool]) -> Steps[None]:
        if (yield from section.source.follows("[")):
            yield from MISTRAL_NATIVE.read(section, tools)
            return
        yield from super().read(section, tools)

    def named(self, section: Section) -> Steps[None]:
        if (yield from section.source.skip("[CALL_ID]")):
            yield from section.source.inside("[ARGS]")
        else:
            yield from section.source.expect("[ARGS]")


class _Native(Objects, frozen=True, kw_only=True):
    def read(self, section: Section, tools: dict[str, Tool]) -> Steps[None]:
        yield from section.source.space()
        if (yield from section.source.peek()) in ("[", "{"):
            yield from super().read(section, tools)
        else:
            yield from DEVSTRAL.read(section, tools)


MISTRAL_NATIVE = _Native(name="mistral_native", trigger="[TOOL_CALLS]", listing=True, markers=_MARKS)
DEVSTRAL = _Devstral(
    name="devstral", trigger="[TOOL_CALLS]", between=("[ARGS]",), markers=_MARKS, repeats=True
)
