"""Seed-OSS: `<seed:tool_call>\\n<function=f>\\n<parameter=a>x</parameter>\\n</function>\\n</seed:tool_call>`."""

from ..tagged import Tagged

DIALECT = Tagged(
    name="seed_oss",
    trigger="<seed:tool_call>",
    head=("<function=", ">"),
    key=("<parameter=", ">"),
    value=("", "</parameter>"),
    foot="</function>",
    close="</seed:tool_call>",
    markers=("<seed:tool_call>", "</seed:tool_call>"),
    repeats=True,
)
