"""Muse Spark and Glimmer: `<atem:function_calls>\\n<atem:invoke name="f">\\n<atem:parameter name="a">x</atem:parameter>\\n
</atem:invoke>\\n</atem:function_calls>`."""

from ..tagged import Tagged

DIALECT = Tagged(
    name="muse_spark",
    trigger="<atem:function_calls>",
    head=('<atem:invoke name="', '">'),
    key=('<atem:parameter name="', '">'),
    value=("", "</atem:parameter>"),
    foot="</atem:invoke>",
    close="</atem:function_calls>",
    many=True,
    repeats=True,
    markers=("<atem:function_calls>", "</atem:function_calls>"),
)
