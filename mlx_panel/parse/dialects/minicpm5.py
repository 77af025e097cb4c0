"""MiniCPM 5: `<function name="f"><param name="a">x</param></function>`, long values as `<![CDATA[…]]>`."""

from ..tagged import Tagged

DIALECT = Tagged(
    name="minicpm5",
    trigger='<function name="',
    head=('<function name="', '">'),
    key=('<param name="', '">'),
    value=("", "</param>"),
    foot="</function>",
    gap="",
    cdata=True,
    markers=("<function", "</function>", "<param", "</param>"),
    repeats=True,
)
