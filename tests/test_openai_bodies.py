"""OpenAI's request bodies into requests: what each field becomes, and every refusal by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_panel.errors import (
    BadRequest,
    GenerationFailed,
    InvalidParameter,
    UnknownField,
    UnsupportedParameter,
)
from mlx_panel.http import openai_chat, openai_completions, suitable
from mlx_panel.http.generation import Call
from mlx_panel.http.inference import raise_failure
from mlx_panel.http.openai_format import MAX_SCHEMA
from mlx_panel.messages import (
    Failed,
    GenerateRequest,
    ModelInfo,
    Sampling,
    Structure,
    Thinking,
    Tool,
    Tools,
)

OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": OBJECT}}


def function(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {
        "type": "allowed_tools",
        "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]},
    }


def chat(*, refuse: bool = True, **fields: Any) -> Call:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]} | fields
    return openai_chat.decode(json.dumps(body).encode(), id="i", refuse_unknown=refuse)


def text(**fields: Any) -> Call:
    body = {"model": "m", "prompt": "x"} | fields
    return openai_completions.decode(json.dumps(body).encode(), id="i", refuse_unknown=True)


# --- what fields become ----------------------------------------------------------------------------------------------

BECOMES: list[tuple[dict[str, Any], str, Any]] = [
    ({}, "n", 1),
    ({"n": 128}, "n", 128),
    ({"max_tokens": 5}, "max_tokens", 5),
    ({"max_completion_tokens": 5}, "max_tokens", 5),
    ({"min_tokens": 3}, "min_tokens", 3),
    ({"ignore_eos": True}, "ignore_eos", True),
    ({"stop": ["a", "b"]}, "stop", ("a", "b")),
    ({"logprobs": True}, "logprobs", 0),
    ({"logprobs": True, "top_logprobs": 20}, "logprobs", 20),
    ({"logprobs": False}, "logprobs", None),
    ({"temperature": 0}, "sampling", Sampling(temperature=0.0)),
    ({"top_p": 0}, "sampling", Sampling(temperature=0.0)),
    ({"reasoning_effort": "none"}, "thinking", Thinking(False)),
    ({"reasoning_effort": "xhigh"}, "thinking", Thinking(True, "xhigh")),
    ({"reasoning_effort": "low", "enable_thinking": True}, "thinking", Thinking(True, "low")),
    ({"enable_thinking": False}, "thinking", Thinking(False)),
    ({"thinking_budget": 0}, "thinking", Thinking(budget=0)),
    ({"reasoning": {"effort": "low", "max_tokens": 9}}, "thinking", Thinking(True, "low", 9)),
    ({"reasoning": {"enabled": False}}, "thinking", Thinking(False)),
    ({"chat_template_kwargs": {"a": [1]}}, "template", {"a": [1]}),
    ({"response_format": {"type": "text"}}, "structure", None),
    ({"response_format": {"type": "json_object"}}, "structure", Structure("json_object")),
    ({"response_format": SCHEMA}, "structure", Structure("json_schema", schema=OBJECT)),
    ({"regex": "a+"}, "structure", Structure("regex", text="a+")),
    ({"choice": ["b", "a", "b"]}, "structure", Structure("choice", choices=("b", "a"))),
    ({"grammar": "start: /a/"}, "structure", Structure("grammar", text="start: /a/")),
    ({"structured_outputs": {"regex": "a"}}, "structure", Structure("regex", text="a")),
    ({"structured_outputs": {"choice": ["a"]}}, "structure", Structure("choice", choices=("a",))),
    ({"structured_outputs": {"grammar": "x"}}, "structure", Structure("grammar", text="x")),
    ({"structured_outputs": {"json": OBJECT}}, "structure", Structure("json_schema", schema=OBJECT)),
    ({"structured_outputs": {"json": json.dumps(OBJECT)}}, "structure", Structure("json_schema", schema=OBJECT)),
    ({"structured_outputs": {"json_object": True}}, "structure", Structure("json_object")),
    ({"tools": []}, "tools", None),
    ({"tools": [function()]}, "tools", Tools((Tool("f"),))),
    ({"tools": [function()], "tool_choice": "none"}, "tools", None),
    ({"tools": [function()], "tool_choice": "required"}, "tools", Tools((Tool("f"),), "required")),
    ({"tools": [function()], "parallel_tool_calls": False}, "tools", Tools((Tool("f"),), parallel=False)),
    (
        {"tools": [function("g", description="G", parameters=OBJECT, strict=True), function()], "tool_choice": named("f")},
        "tools",
        Tools((Tool("g", "G", OBJECT, True), Tool("f")), "required", "f"),
    ),
    (
        {"tools": [function(name) for name in "abc"], "tool_choice": allowed("required", "c", "a")},
        "tools",
        Tools((Tool("a"), Tool("c")), "required"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "name", "value"), BECOMES)
def test_what_a_field_becomes(fields: dict[str, Any], name: str, value: Any) -> None:
    call = chat(**fields)
    assert getattr(call.first, name) == value
    assert call.ignored == []


@pytest.mark.parametrize(
    ("fields", "requests"),
    [
        ({"prompt": "a"}, [("a", None)]),
        ({"prompt": ["a", "b"]}, [("a", None), ("b", None)]),
        ({"prompt": [1, 2, 3]}, [(None, (1, 2, 3))]),
        ({"prompt": [[1, 2], [3]]}, [(None, (1, 2)), (None, (3,))]),
    ],
)
def test_the_forms_of_a_prompt(fields: dict[str, Any], requests: list[Any]) -> None:
    call = text(**fields, n=2, best_of=2, echo=True, logprobs=3, max_tokens=0)
    assert [(request.prompt, request.tokens) for request in call.requests] == requests
    assert len({request.id for request in call.requests}) == len(requests)
    assert {(one.n, one.echo, one.logprobs, one.max_tokens) for one in call.requests} == {(2, True, 3, 0)}


def test_a_completion_takes_what_holds_an_answer() -> None:
    call = text(regex="a", min_tokens=2, ignore_eos=True)
    assert (call.first.structure, call.first.min_tokens) == (Structure("regex", text="a"), 2)
    assert (call.first.ignore_eos, call.first.max_tokens) == (True, 16)


def test_a_replayed_turn_keeps_its_reasoning_and_the_order_of_its_calls() -> None:
    calls = [
        {"id": f"c{at}", "type": "function", "function": {"name": f"f{at}", "arguments": f'{{"at":{at}}}'}}
        for at in (2, 1)
    ]
    turns = [
        {"role": "assistant", "content": "Look:", "reasoning_content": "Hm.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "unheard of", "content": "two"},
        {"role": "assistant", "reasoning": "So."},
    ]  # fmt: skip
    made = chat(messages=turns).first.messages
    assert made is not None
    assert [(call.id, call.function.name, call.function.arguments) for call in made[0].tool_calls] == [
        ("c2", "f2", '{"at":2}'),
        ("c1", "f1", '{"at":1}'),
    ]
    assert (made[0].content, made[0].reasoning_content) == ("Look:", "Hm.")
    assert [turn.tool_call_id for turn in made] == [None, "c1", "unheard of", None]
    assert (made[3].content, made[3].reasoning_content) == (None, "So.")


# --- what is refused -------------------------------------------------------------------------------------------------

FORMAT = "response_format"
DEEP: dict[str, Any] = {}
for _ in range(70):
    DEEP = {"a": [DEEP]}
REFUSED: list[tuple[dict[str, Any], type[BadRequest], str]] = [
    ({"n": 0}, InvalidParameter, "n"),
    ({"n": 129}, InvalidParameter, "n"),
    ({"top_logprobs": 2}, InvalidParameter, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, InvalidParameter, "top_logprobs"),
    ({"logprobs": 3}, InvalidParameter, "logprobs"),
    ({"max_tokens": 0}, InvalidParameter, "max_tokens"),
    ({"max_tokens": 4, "min_tokens": 5}, InvalidParameter, "min_tokens"),
    ({"max_tokens": 4, "max_completion_tokens": 5}, InvalidParameter, "max_completion_tokens"),
    ({"reasoning_effort": "some"}, InvalidParameter, "reasoning_effort"),
    ({"reasoning_effort": "none", "enable_thinking": True}, InvalidParameter, "reasoning_effort"),
    ({"reasoning_effort": "low", "enable_thinking": False}, InvalidParameter, "reasoning_effort"),
    ({"reasoning": {"effort": "low"}, "thinking_budget": 5}, InvalidParameter, "reasoning"),
    ({"reasoning": {"effort": "none", "enabled": True}}, InvalidParameter, "reasoning"),
    ({"reasoning": {"exclude": True}}, InvalidParameter, "reasoning"),
    ({"thinking_budget": -1}, InvalidParameter, "thinking_budget"),
    (
        {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"},
        InvalidParameter,
        "chat_template_kwargs",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 1025}]}, InvalidParameter, "messages[0].content"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}] * 257}]}, InvalidParameter, "messages[0].tool_calls"),
    ({"chat_template_kwargs": [1]}, InvalidParameter, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"a": "x" * 70_000}}, InvalidParameter, "chat_template_kwargs"),
    ({"chat_template_kwargs": DEEP}, InvalidParameter, "chat_template_kwargs"),
    ({"tools": [function(parameters=DEEP)]}, InvalidParameter, "tools[0].function.parameters"),
    ({FORMAT: {"type": "json_schema", "json_schema": {"name": "x", "schema": DEEP}}}, InvalidParameter, f"{FORMAT}.json_schema.schema"),
    ({FORMAT: {"type": "xml"}}, InvalidParameter, f"{FORMAT}.type"),
    ({FORMAT: {"type": "json_object", "schema": {}}}, InvalidParameter, FORMAT),
    ({FORMAT: {"type": "json_schema"}}, InvalidParameter, f"{FORMAT}.json_schema.schema"),
    ({FORMAT: {"type": "json_schema", "json_schema": {"schema": {}}}}, InvalidParameter, f"{FORMAT}.json_schema.name"),
    ({FORMAT: {"type": "json_schema", "json_schema": {"name": "x"}}}, InvalidParameter, f"{FORMAT}.json_schema.schema"),
    (
        {FORMAT: {"type": "json_schema", "json_schema": {"name": "x", "schema": {"description": "x" * MAX_SCHEMA}}}},
        InvalidParameter,
        f"{FORMAT}.json_schema.schema",
    ),
    ({"regex": ""}, InvalidParameter, "regex"),
    ({"regex": "a" * 70_000}, InvalidParameter, "regex"),
    ({"choice": []}, InvalidParameter, "choice"),
    ({"choice": ["a", ""]}, InvalidParameter, "choice"),
    ({"choice": ["a"] * 1025}, InvalidParameter, "choice"),
    ({"grammar": 5}, InvalidParameter, "grammar"),
    ({"regex": "a", "choice": ["a"]}, InvalidParameter, "choice"),
    ({"regex": "a", FORMAT: SCHEMA}, InvalidParameter, "regex"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, InvalidParameter, "structured_outputs.choice"),
    ({"structured_outputs": {"json": "{"}}, InvalidParameter, "structured_outputs.json"),
    ({"structured_outputs": {"structural_tag": "a"}}, InvalidParameter, "structured_outputs"),
    ({"tools": [function()] * 2}, InvalidParameter, "tools[1].function.name"),
    ({"tools": [function(f"f{at}") for at in range(257)]}, InvalidParameter, "tools"),
    ({"tools": [function("a b")]}, InvalidParameter, "tools[0].function.name"),
    ({"tools": [function("f\n")]}, InvalidParameter, "tools[0].function.name"),
    ({"tools": [{"type": "function"}]}, InvalidParameter, "tools[0].function"),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, UnsupportedParameter, "tools[0].type"),
    ({"tools": [function(parameters={"type": "string"})]}, InvalidParameter, "tools[0].function.parameters"),
    ({"tools": [function(parameters={"x": "y" * MAX_SCHEMA})]}, InvalidParameter, "tools[0].function.parameters"),
    ({"tool_choice": "required"}, InvalidParameter, "tool_choice"),
    ({"tool_choice": named("f")}, InvalidParameter, "tool_choice"),
    ({"tools": [function()], "tool_choice": "any"}, InvalidParameter, "tool_choice"),
    ({"tools": [function()], "tool_choice": named("g")}, InvalidParameter, "tool_choice"),
    ({"tools": [function()], "tool_choice": {"type": "custom", "custom": {"name": "f"}}}, InvalidParameter, "tool_choice"),
    ({"tools": [function()], "tool_choice": allowed("auto")}, InvalidParameter, "tool_choice"),
    ({"tools": [function()], "tool_choice": allowed("auto", "g")}, InvalidParameter, "tool_choice"),
    ({"messages": [{"role": "user", "content": "x", "reasoning_content": "y"}]}, InvalidParameter, "messages[0].reasoning_content"),
    ({"tools": [function() | {"mood": 1}]}, UnknownField, "tools[0].mood"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "kind", "field"), REFUSED)
def test_a_chat_body_is_refused_by_name(fields: dict[str, Any], kind: type[BadRequest], field: str) -> None:
    with pytest.raises(kind) as caught:
        chat(**fields)
    assert caught.value.field == field
    assert field.rpartition(".")[2] in str(caught.value)


TEXT_REFUSED: list[tuple[dict[str, Any], type[BadRequest], str]] = [
    ({"max_tokens": 0}, InvalidParameter, "max_tokens"),
    ({"best_of": 2}, UnsupportedParameter, "best_of"),
    ({"best_of": 3, "n": 2}, UnsupportedParameter, "best_of"),
    ({"suffix": "x"}, UnsupportedParameter, "suffix"),
    ({"logprobs": 21}, InvalidParameter, "logprobs"),
    ({"logprobs": True}, InvalidParameter, "logprobs"),
    ({"prompt": []}, InvalidParameter, "prompt"),
    ({"prompt": [[]]}, InvalidParameter, "prompt"),
    ({"prompt": ["a", 1]}, InvalidParameter, "prompt"),
    ({"prompt": [1, [2]]}, InvalidParameter, "prompt"),
    ({"prompt": ["a", [2]]}, InvalidParameter, "prompt"),
    ({"prompt": [True]}, InvalidParameter, "prompt[0]"),
    ({"prompt": [-1]}, InvalidParameter, "prompt[0]"),
    ({"prompt": [2**31]}, InvalidParameter, "prompt[0]"),
    ({"prompt": {"a": 1}}, InvalidParameter, "prompt"),
    ({"prompt": ["a"] * 129}, InvalidParameter, "prompt"),
    ({"prompt": ["a", "b"], "n": 65}, InvalidParameter, "n"),
    ({"guided_regex": "a"}, UnsupportedParameter, "guided_regex"),
]


@pytest.mark.parametrize(("fields", "kind", "field"), TEXT_REFUSED)
def test_a_text_body_is_refused_by_name(fields: dict[str, Any], kind: type[BadRequest], field: str) -> None:
    with pytest.raises(kind) as caught:
        text(**fields)
    assert caught.value.field == field


def test_an_old_name_is_told_the_new_one() -> None:
    for old, new in openai_chat.VOCABULARY.instead.items():
        with pytest.raises(UnsupportedParameter, match=f"use '{new}'"):
            chat(**{old: "x"})


def test_what_has_no_effect_is_named() -> None:
    tool = {"type": "function", "cache_control": {}, "function": {"name": "f", "returns": {}}}
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": True, "description": "y"}}
    assert chat(refuse=False, tools=[tool], response_format=format, user="me").ignored == [
        "user",
        "tools.cache_control",
        "tools.function.returns",
        "response_format.json_schema.description",
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats(-2, 3) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted(
    {*openai_chat.ChatBody.__struct_fields__, *openai_completions.CompletionBody.__struct_fields__}
)
TYPED = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["function", "custom", "json_schema", "json_object", "allowed_tools", 1]),
        "function": VALUES,
        "json_schema": st.fixed_dictionaries({"name": st.just("x"), "schema": VALUES}),
        "allowed_tools": VALUES,
        "effort": VALUES,
    },
)


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(st.sampled_from(FIELDS), VALUES | TYPED | st.lists(TYPED, max_size=2), max_size=4),
    st.booleans(),
)
def test_any_value_is_taken_or_refused(fields: dict[str, Any], refuse: bool) -> None:
    """Nothing comes out but a request or an error that says what is wrong."""
    faults = []
    for decode, base in (
        (openai_chat.decode, {"model": "m", "messages": [{"role": "user", "content": "x"}]}),
        (openai_completions.decode, {"model": "m", "prompt": "x"}),
    ):
        try:
            call = decode(json.dumps({**base, **fields}).encode(), id="i", refuse_unknown=refuse)
        except BadRequest as error:
            faults.append((str(error), error.field))
        else:
            assert isinstance(call.first, GenerateRequest)
    assert all(words and field != "" for words, field in faults)


# --- what only the model decides -------------------------------------------------------------------------------------


def info(**more: Any) -> ModelInfo:
    return ModelInfo("a", 9, 10, 0, 0, "", 1, True, **more)


UNSUITABLE: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"reasoning_effort": "low"}, {}, "reasoning_effort"),
    ({"enable_thinking": True}, {}, "enable_thinking"),
    ({"reasoning": {"enabled": True}}, {}, "reasoning"),
    ({"reasoning_effort": "none"}, {"reasoning": "think"}, "reasoning_effort"),
    ({"thinking_budget": 5}, {"template_variables": ("enable_thinking",)}, "thinking_budget"),
    ({"reasoning": {"max_tokens": 5}}, {}, "reasoning.max_tokens"),
    ({"chat_template_kwargs": {"mood": 1}}, {"template_variables": ("other",)}, "chat_template_kwargs"),
    ({"logit_bias": {"10": 1}}, {}, "logit_bias"),
]
SUITABLE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"reasoning_effort": "none"}, {}),
    ({"enable_thinking": False}, {}),
    ({"reasoning_effort": "low"}, {"template_variables": ("reasoning_effort",)}),
    ({"reasoning_effort": "low"}, {"reasoning": "think"}),
    ({"enable_thinking": False}, {"reasoning": "think", "template_variables": ("thinking",)}),
    ({"thinking_budget": 5}, {"reasoning": "think"}),
    ({"chat_template_kwargs": {"mood": 1}}, {"template_variables": ("mood",)}),
    ({"logit_bias": {"9": 1}}, {}),
]


@pytest.mark.parametrize(("fields", "model", "field"), UNSUITABLE)
def test_what_a_model_cannot_do(fields: dict[str, Any], model: dict[str, Any], field: str) -> None:
    call = chat(**fields)
    with pytest.raises(BadRequest) as caught:
        suitable.check(call.first, info(**model), call.fields)
    assert caught.value.field == field
    assert f"'{field}'" in str(caught.value)


@pytest.mark.parametrize(("fields", "model"), SUITABLE)
def test_what_a_model_can_do(fields: dict[str, Any], model: dict[str, Any]) -> None:
    call = chat(**fields)
    suitable.check(call.first, info(**model), call.fields)


def test_a_prompt_of_tokens_the_model_does_not_have() -> None:
    with pytest.raises(InvalidParameter) as caught:
        suitable.check(text(prompt=[9, 10]).first, info(), {})
    assert caught.value.field == "prompt"


# --- what a worker says ------------------------------------------------------------------------------------------------


def test_a_workers_refusal_names_the_callers_field() -> None:
    call = chat(structured_outputs={"regex": "("})
    for code, words in (
        ("invalid_grammar", "compiled"),
        ("unsupported_parameter", "'structured_outputs.regex' is"),
    ):
        with pytest.raises(BadRequest, match=words) as caught:
            raise_failure([Failed("i", code, field="regex")], "messages", call.fields)
        assert caught.value.field == "structured_outputs.regex"
    with pytest.raises(BadRequest) as unnamed:
        raise_failure([Failed("i", "template_error")], "messages", call.fields)
    assert unnamed.value.field == "messages"
    with pytest.raises(GenerationFailed) as own:
        raise_failure([Failed("i", "generation_failed", field="regex")], "messages", call.fields)
    assert own.value.field is None
