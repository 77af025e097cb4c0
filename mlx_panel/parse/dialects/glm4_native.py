"""GLM 4 in few words: `<tool_call>f<a>x</a></tool_call>`; also `<a="x"</a>` and `<a="x">`, as some write it."""

from __future__ import annotations

import re

from ..sections import Section
from ..source import Steps
from ..tagged import Tagged
from ..typed import Typed, decode
from ..values import quoted

_TAG = re.compile(r"[\w.-]+")


class _Glm4(Tagged, frozen=True, kw_only=True):
    def members(self, section: Section, typed: Typed) -> Steps[None]:
        source, before = section.source, ""
        section.put("{")
        while not (yield from source.follows("</")) and (length := (yield from source.follows("<"))):
            source.take(length)
            name = yield from source.word(_TAG)
            section.put(f"{before}{quoted(name)}: ")
            before = ", "
            yield from self._member(section, name, typed)

    def _member(self, section: Section, name: str, typed: Typed) -> Steps[None]:
        source, parts = section.source, list[str]()
        if (yield from source.expect(">", '="')) == ">":
            yield from self.content(section, typed.types(name), f"</{name}>")
            return
        yield from source.upto(parts.append, '"')
        section.put(decode("".join(parts), typed.types(name)))
        yield from source.expect(f"</{name}>", "/>", ">")

    def tag(self, key: str, kind: str) -> str:
        return f"<{key}>"

    def end(self, key: str) -> str:
        return f"</{key}>"


DIALECT = _Glm4(
    name="glm4_native",
    trigger="<tool_call>",
    head=("", ""),
    key=("<", ">"),
    value=("", ""),
    close="</tool_call>",
    gap="",
    free=False,
    markers=("<tool_call>", "</tool_call>"),
    repeats=True,
)
