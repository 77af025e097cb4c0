"""GLM 4.5 to 4.7, Ling 3: `<tool_call>f<arg_key>a</arg_key><arg_value>x</arg_value></tool_call>`, and the same with other
tags: Laguna (equal), LongCat (`longcat_` before each)."""

import msgspec

from ..tagged import Tagged

GLM47 = Tagged(
    name="glm47",
    trigger="<tool_call>",
    head=("", ""),
    key=("<arg_key>", "</arg_key>"),
    value=("<arg_value>", "</arg_value>"),
    close="</tool_call>",
    markers=("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    repeats=True,
)
LAGUNA = msgspec.structs.replace(GLM47, name="laguna")
LONGCAT = Tagged(
    name="longcat",
    trigger="<longcat_tool_call>",
    head=("", ""),
    key=("<longcat_arg_key>", "</longcat_arg_key>"),
    value=("<longcat_arg_value>", "</longcat_arg_value>"),
    close="</longcat_tool_call>",
    markers=(
        *("<longcat_tool_call>", "</longcat_tool_call>", "<longcat_arg_key>", "</longcat_arg_key>"),
        *("<longcat_arg_value>", "</longcat_arg_value>"),
    ),
    repeats=True,
)
