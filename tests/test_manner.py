"""How a conversation reaches a model: through its template, and in words where the template knows no tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_panel.engine import loader, prompt
from mlx_panel.engine.manner import Manner, manner
from mlx_panel.errors import ContextLengthExceeded, InvalidParameter, UnsupportedParameter
from mlx_panel.messages import Function, GenerateRequest, Message, PastToolCall, Thinking, Tool, Tools
from mlx_panel.parse.template import variables

from .models import tiny_model

PLAIN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = (
    "{%- if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools> Answer with <tool_call>\n"
    '{"name": ...}</tool_call>{% endif %}'
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n"
    "{%- if message.reasoning_content is defined %}<think>{{ message.reasoning_content }}</think>{% endif %}"
    "{{- message.content }}"
    "{%- for tool_call in message.tool_calls %}<tool_call>{{ tool_call.function.name }} "
    "{{ tool_call.function.arguments | tojson }}</tool_call>{% endfor %}"
    "{%- if message.role == 'tool' %}<tool_response/>{% endif %}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n"
    "{%- if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
ADD = Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "number"}}})
CONVERSATION = (
    Message("system", "Be brief."),
    Message("user", "Add."),
    Message(
        "assistant",
        "First this, then that.",
        tool_calls=(
            PastToolCall("1", Function("add", '{"a": 1}')),
            PastToolCall("2", Function("add", '{"a": 2}')),
        ),
        reasoning_content="Two calls.",
    ),
    Message("tool", "result 1", tool_call_id="1"),
    Message("tool", "result 2", tool_call_id="2"),
    Message("user", "Thanks."),
)


def speaks(folder: Path, template: str) -> tuple[object, Manner]:
    loaded = loader.load(tiny_model(folder, template=template, marks=("<think>", "</think>")))
    return loaded.tokenizer, manner(loaded.tokenizer, "llama")


def rendered(folder: Path, jinja: str, **more) -> prompt.Prompt:
    tokenizer, found = speaks(folder, jinja)
    request = GenerateRequest("a", "tiny", messages=CONVERSATION, **more)
    found.check(request)
    return prompt.build(request, tokenizer, 4096, lambda text: 0, found)


def in_order(text: str, *parts: str) -> bool:
    places = [text.find(part) for part in parts]
    return -1 not in places and places == sorted(places)


def test_a_template_gets_tools_calls_results_and_reasoning_in_order(tmp_path: Path) -> None:
    text = rendered(tmp_path, QWEN, tools=Tools((ADD,))).text
    assert in_order(
        text, '"name": "add"', "Be brief.", "Two calls.", "First this", '{"a": 1}', '{"a": 2}', "result 1", "result 2",
        "Thanks.",
    )  # fmt: skip
    assert "add" not in rendered(tmp_path, QWEN).text.split("Be brief")[0]


def test_a_template_without_tools_gets_them_in_words(tmp_path: Path) -> None:
    _, found = speaks(tmp_path, PLAIN)
    assert not found.reads_tools
    assert not found.reads_calls
    text = rendered(tmp_path, PLAIN, tools=Tools((ADD,))).text
    system = text.split("<|im_end|>")[0]
    assert "Be brief." in system
    assert "Adds." in system
    assert "<tool_call>" in system
    assert in_order(text, "First this", '"a": 1', '"a": 2', "result 1", "result 2", "Thanks.")
    assert "<|im_start|>tool" not in text
    assert "Adds." not in rendered(tmp_path, PLAIN).text


def test_reasoning_is_switched_by_the_template(tmp_path: Path) -> None:
    off = rendered(tmp_path, QWEN, thinking=Thinking(enabled=False)).text
    on = rendered(tmp_path, QWEN, thinking=Thinking(enabled=True, effort="high")).text
    assert off.endswith("<think>\n\n</think>\n\n")
    assert not on.endswith("</think>\n\n")
    assert rendered(tmp_path, QWEN, template={"enable_thinking": False}).text == off
    assert rendered(tmp_path, PLAIN + "{% if add_generation_prompt %}<think>\n{% endif %}").thinking
    assert not rendered(tmp_path, QWEN).thinking


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("chat_template_kwargs", {"template": {"chat_template": "x"}}),
        ("chat_template_kwargs", {"template": {"messages": []}}),
        ("reasoning_effort", {"thinking": Thinking(effort="low")}),
        ("reasoning_effort", {"thinking": Thinking(enabled=False)}),
    ],
)
def test_what_the_template_does_not_read_is_refused(tmp_path: Path, field: str, more: dict) -> None:
    thinks = PLAIN + "{% if add_generation_prompt %}<think>{% endif %}{# </think> #}"
    with pytest.raises(UnsupportedParameter) as refused:
        rendered(tmp_path, thinks, **more)
    assert refused.value.field == field


def test_variables_are_those_read_from_outside() -> None:
    assert variables("{% set a = 1 %}{{ a }}{{ b }}{% generation %}{{ c }}{% endgeneration %}") == {"b", "c"}
    assert variables("{%- generation -%}{{ a }}{%- endgeneration -%}") == {"a"}
    assert variables("{% broken") == set()


def test_a_request_may_name_what_its_answer_is_read_with(tmp_path: Path) -> None:
    _, found = speaks(tmp_path, QWEN)
    asked = found.asked(
        GenerateRequest("a", "m", tool_dialect="mistral_native", reasoning_style="seed_think")
    )
    assert (asked.dialect.name, asked.style and asked.style.name) == ("mistral_native", "seed_think")
    assert asked.reads_tools  # the template shows the functions itself
    assert found.asked(GenerateRequest("a", "m")) is found
    with pytest.raises(InvalidParameter, match="hermes_json") as refused:
        found.asked(GenerateRequest("a", "m", tool_dialect="morse"))
    assert refused.value.field == "tool_dialect"


def test_a_template_without_tools_teaches_the_dialect_that_is_asked_for(tmp_path: Path) -> None:
    tokenizer, found = speaks(tmp_path, PLAIN)
    request = GenerateRequest(
        "a", "m", messages=CONVERSATION, tools=Tools((ADD,)), tool_dialect="qwen3_coder_xml"
    )
    text = prompt.build(request, tokenizer, 4096, lambda text: 0, found.asked(request)).text
    assert "<function=" in text.split("<|im_end|>")[0]


def test_the_context_of_a_request_is_the_shorter_one() -> None:
    for wanted, cut, room in ((None, False, 3), (2, False, 2), (9, True, 3)):
        request = GenerateRequest("a", "m", max_tokens=wanted, cut_to_context=cut, context_length=13)
        assert prompt.fit(10, request, 100, "prompt") == room
        assert prompt.fit(10, request, 12, "prompt") == min(room, 2)
    with pytest.raises(ContextLengthExceeded) as full:
        prompt.fit(
            13, GenerateRequest("a", "m", max_tokens=5, cut_to_context=True, context_length=13), 100, "prompt"
        )
    assert full.value.numbers["context_length"] == 13
