"""Llama 3.x as Meta's prompts ask for custom functions: `<function=f>{"a": 1}</function>`."""

from ..named import Named

DIALECT = Named(
    name="llama_xml",
    trigger="<function=",
    between=(">",),
    after="</function>",
    markers=("<function=", "</function>"),
    repeats=True,
)
