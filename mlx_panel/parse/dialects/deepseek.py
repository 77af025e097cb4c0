"""DeepSeek V3 and R1: `<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\\n```json\\n{"a": 1}\\n```
<｜tool▁call▁end｜><｜tool▁calls▁end｜>`; V3.1 leaves "function" and the fences out. V3.2 and V4 write tags: `<｜DSML｜tool_calls>\\n<｜DSML｜invoke name="f">\\n
<｜DSML｜parameter name="a" string="true">x</｜DSML｜parameter>\\n</｜DSML｜invoke>\\n</｜DSML｜tool_calls>`."""

from __future__ import annotations

from ..named import Named
from ..tagged import Tagged, told_kinds
from ..typed import Typed

_MARKS = (
    *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
    "<｜tool▁sep｜>",
)
DEEPSEEK_V3 = Named(
    name="deepseek_v3",
    trigger="<｜tool▁calls▁begin｜>",
    before="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    between=("\n```json\n",),
    after="\n```<｜tool▁call▁end｜>",
    close="<｜tool▁calls▁end｜>",
    many=True,
    markers=_MARKS,
)
DEEPSEEK_V31 = Named(
    name="deepseek_v31",
    trigger="<｜tool▁calls▁begin｜>",
    before="<｜tool▁call▁begin｜>",
    between=("<｜tool▁sep｜>",),
    after="<｜tool▁call▁end｜>",
    close="<｜tool▁calls▁end｜>",
    many=True,
    markers=_MARKS,
)


class _Dsml(Tagged, frozen=True, kw_only=True):
    def named(self, inner: str, typed: Typed) -> tuple[str, tuple[str, ...]]:
        name, _, rest = inner.partition('"')
        return name, told_kinds("string" if 'string="true"' in rest else "", typed.types(name))

    def tag(self, key: str, kind: str) -> str:
        return f'{self.key[0]}{key}" string="{"true" if kind == "string" else "false"}"{self.key[1]}'


def _dsml(name: str, section: str) -> _Dsml:
    return _Dsml(
        name=name,
        trigger=f"<｜DSML｜{section}>",
        head=('<｜DSML｜invoke name="', '">'),
        key=('<｜DSML｜parameter name="', ">"),
        value=("", "</｜DSML｜parameter>"),
        foot="</｜DSML｜invoke>",
        close=f"</｜DSML｜{section}>",
        many=True,
        markers=("｜DSML｜",),
    )


DEEPSEEK_V32 = _dsml("deepseek_v32", "function_calls")
DEEPSEEK_V4 = _dsml("deepseek_v4", "tool_calls")
