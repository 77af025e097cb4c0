"""GLM 4 in full: `<tool_call><name>f</name><arguments>{"a": 1}</arguments></tool_call>`."""

from ..named import Named

DIALECT = Named(
    name="glm4_xml",
    trigger="<tool_call>",
    before="<name>",
    between=("</name><arguments>", "</name>\n<arguments>"),
    after="</arguments>",
    close="</tool_call>",
    line="\n",
    markers=("<tool_call>", "</tool_call>"),
    repeats=True,
)
