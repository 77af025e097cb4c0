"""Kimi K3: between `<|open|>tools<|sep|>` and `<|close|>tools<|sep|>` calls like `<|open|>call tool="f" index="1"<|sep|>
<|open|>argument key="a" type="string"<|sep|>x<|close|>argument<|sep|><|close|>call<|sep|>`; all arguments may stand in one
`<|open|>json type="object"<|sep|>{…}<|close|>json<|sep|>`."""

from __future__ import annotations

from ..sections import Section
from ..source import Steps
from ..tagged import Tagged, told_kinds
from ..typed import Typed
from ..values import arguments


class _KimiK3(Tagged, frozen=True, kw_only=True):
    def headed(self, section: Section) -> Steps[None]:
        yield from section.source.inside("<|sep|>")

    def members(self, section: Section, typed: Typed) -> Steps[None]:
        source = section.source
        length = yield from source.follows("<|open|>json")
        if not length:
            yield from super().members(section, typed)
            return
        source.take(length)
        yield from source.inside("<|sep|>")
        parts: list[str] = []
        yield from arguments(source, parts.append)
        section.put("".join(parts)[:-1])
        yield from source.space()
        yield from source.expect("<|close|>json<|sep|>")

    def named(self, inner: str, typed: Typed) -> tuple[str, tuple[str, ...]]:
        name, _, rest = inner.partition('"')
        name = name.replace("&quot;", '"').replace("&amp;", "&")
        kind = rest.partition('type="')[2].partition('"')[0]
        return name, told_kinds(kind, typed.types(name))

    def opening(self, name: str, number: int) -> str:
        return f'<|open|>call tool="{name}" index="{number}"<|sep|>'

    def tag(self, key: str, kind: str) -> str:
        return f'<|open|>argument key="{key}" type="{"number" if kind == "integer" else kind}"<|sep|>'


DIALECT = _KimiK3(
    name="kimi_k3",
    trigger="<|open|>tools<|sep|>",
    head=('<|open|>call tool="', '"'),
    key=('<|open|>argument key="', "<|sep|>"),
    value=("", "<|close|>argument<|sep|>"),
    foot="<|close|>call<|sep|>",
    close="<|close|>tools<|sep|>",
    many=True,
    gap="",
    markers=("<|open|>", "<|close|>", "<|sep|>"),
)
