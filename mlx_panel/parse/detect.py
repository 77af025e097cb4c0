"""Which dialect a model calls tools in, by its chat template, its vocabulary and its kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from .dialect import Dialect
from .dialects import (
    deepseek,
    function_gemma,
    gemma4,
    glm4_native,
    glm4_xml,
    glm47,
    gpt_oss,
    hermes_json,
    kimi_k2,
    kimi_k3,
    liquid,
    lists,
    llama3_json,
    llama_python,
    llama_xml,
    minicpm5,
    minimax_m2,
    mistral,
    muse_spark,
    openai_json,
    qwen3_coder_xml,
    seed_oss,
    tool_code_python,
)

BY_NAME: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        *(hermes_json.DIALECT, qwen3_coder_xml.DIALECT, seed_oss.DIALECT),
        *(glm47.GLM47, glm47.LAGUNA, glm47.LONGCAT, glm4_native.DIALECT, glm4_xml.DIALECT),
        *(
            llama3_json.DIALECT,
            llama_xml.DIALECT,
            llama_python.DIALECT,
            liquid.DIALECT,
            tool_code_python.DIALECT,
        ),
        *(mistral.MISTRAL_NATIVE, mistral.DEVSTRAL, openai_json.DIALECT, gpt_oss.DIALECT),
        *(function_gemma.DIALECT, gemma4.DIALECT, kimi_k2.DIALECT, kimi_k3.DIALECT),
        *(minicpm5.DIALECT, minimax_m2.DIALECT, muse_spark.DIALECT),
        *(deepseek.DEEPSEEK_V3, deepseek.DEEPSEEK_V31, deepseek.DEEPSEEK_V32, deepseek.DEEPSEEK_V4),
        *(lists.COMMAND_R, lists.GRANITE, lists.NEMOTRON, lists.TOOL_CALLS),
    )
}


class _Rule(NamedTuple):
    """A dialect ("" for one that nobody here reads), and when it is the model's: all of `marks` are in its template (or,
    with `vocabulary`, all of these in its vocabulary), and its type begins with one of `kinds`, if there are any."""

    name: str
    marks: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()


# The first rule that holds decides: a dialect's own marks stand before marks that several share.
_RULES = (
    _Rule("harmony", ("<|channel|>", "<|message|>", "functions.")),
    _Rule("", ("]<]minimax[>[",)),
    _Rule("minimax_m2", ("<minimax:tool_call>",)),
    _Rule("gemma4", ("<|tool_call>", "<tool_call|>")),
    _Rule("function_gemma", ("<start_function_call>",)),
    _Rule("longcat", ("<longcat_tool_call>",)),
    _Rule("laguna", ("<arg_key>",), kinds=("laguna",)),
    _Rule("glm47", ("<arg_key>", "<tool_call>")),
    _Rule("liquid", ("<|tool_call_start|>",)),
    _Rule("liquid", ("<|tool_list_start|>",)),
    _Rule("seed_oss", ("<seed:tool_call>",)),
    _Rule("qwen3_coder_xml", ("<function=", "<parameter=", "<tool_call>")),
    _Rule("kimi_k2", ("<|tool_calls_section_begin|>",)),
    _Rule("minicpm5", ('<function name="', '<param name="')),
    _Rule("deepseek_v3", ("<｜tool▁calls▁begin｜>", "function<｜tool▁sep｜>")),
    _Rule("deepseek_v3", ("<｜tool▁calls▁begin｜>", "```json")),
    _Rule("deepseek_v31", ("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>")),
    _Rule("deepseek_v32", ("｜DSML｜", "function_calls>")),
    _Rule("deepseek_v4", ("｜DSML｜", "tool_calls>")),
    _Rule("devstral", ("[TOOL_CALLS]", "[ARGS]")),
    _Rule("mistral_native", ("[TOOL_CALLS]",)),
    _Rule("muse_spark", ("<atem:function_calls>",)),
    _Rule("glm4_xml", ("<tool_call>", "<name>", "<arguments>")),
    _Rule("nemotron", ("<TOOLCALL>",)),
    _Rule("tool_calls", ("<tool_calls>",)),
    _Rule("granite", ("<|tool_call|>",)),
    _Rule("command_r", ("<|START_ACTION|>", "tool_name")),
    _Rule("hermes_json", ("<tool_call>",)),
    _Rule("llama_xml", ("<function=",)),
    _Rule("tool_code_python", ("```tool_code",)),
    _Rule("llama3_json", ("<|python_tag|>",)),
    _Rule("llama3_json", ('{"name": function name, "parameters":',)),
    _Rule("kimi_k3", vocabulary=("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>")),
    _Rule("liquid", vocabulary=("<|tool_call_start|>", "<|tool_call_end|>")),
)


def dialect(template: str, vocabulary: Collection[str], model_type: str) -> Dialect | None:
    """None where nothing says how the model calls tools, or its template does not show it any: `instructions.py` then
    tells it how."""
    if "tools" not in template:
        return None
    for rule in _RULES:
        if (
            all(mark in template for mark in rule.marks)
            and all(mark in vocabulary for mark in rule.vocabulary)
            and (not rule.kinds or model_type.lower().startswith(rule.kinds))
        ):
            return BY_NAME.get(rule.name)
    return None
