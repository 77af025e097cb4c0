"""MiniMax M2: `<minimax:tool_call>\\n<invoke name="f">\\n<parameter name="a">x</parameter>\\n</invoke>\\n
</minimax:tool_call>`."""

from ..tagged import Tagged

DIALECT = Tagged(
    name="minimax_m2",
    trigger="<minimax:tool_call>",
    head=('<invoke name="', '">'),
    key=('<parameter name="', '">'),
    value=("", "</parameter>"),
    foot="</invoke>",
    close="</minimax:tool_call>",
    many=True,
    markers=("<minimax:tool_call>", "</minimax:tool_call>"),
)
