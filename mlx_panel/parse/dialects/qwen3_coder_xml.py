"""Qwen3-Coder, Qwen 3.5, Nemotron 3, Step 3.5:
`<tool_call>\\n<function=f>\\n<parameter=a>\\nx\\n</parameter>\\n</function>\\n</tool_call>`; models forget the outer tag."""

from ..tagged import Tagged

DIALECT = Tagged(
    name="qwen3_coder_xml",
    trigger="<tool_call>",
    also=("<function=",),
    head=("<function=", ">"),
    key=("<parameter=", ">"),
    value=("", "</parameter>"),
    foot="</function>",
    close="</tool_call>",
    pad="\n",
    markers=("<tool_call>", "</tool_call>"),
    repeats=True,
)
