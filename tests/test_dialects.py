"""Tool calls in every dialect: read wherever the borders of the text lie, never lost, never leaked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_panel.parse import detect
from mlx_panel.parse.answer import answer
from mlx_panel.parse.dialect import Dialect
from mlx_panel.parse.instructions import instructions, result
from mlx_panel.parse.pieces import Called, Piece, Said
from mlx_panel.parse.source import SPACE
from mlx_panel.parse.typed import decode, types
from mlx_panel.parse.values import PYTHON, settle
from mlx_panel.request import Function, PastToolCall, Tool, Tools

from .tool_calls import FRAGMENTS, TOOLS, WEATHER, call, calls, cut, fed, fragments, said, told

ALL = pytest.mark.parametrize("dialect", detect.BY_NAME.values(), ids=list(detect.BY_NAME))
BORDERS = st.lists(st.integers(0, 10_000), max_size=40)
FEW = settings(max_examples=15, deadline=None)


def read(
    dialect: Dialect, text: str, borders: list[int] | None = None, *, eager: bool = False
) -> list[Piece]:
    return fed(dialect.parser(TOOLS, eager=eager), cut(text, borders or []))


def around(dialect: Dialect) -> st.SearchStrategy[str]:
    """Text in which no call begins."""
    return fragments((dialect.trigger or "{", *dialect.also, "to=functions.", "<|start|>", "<|channel|>"))


# --- what holds for all ------------------------------------------------------------------------------------


@ALL
@FEW
@given(data=st.data())
def test_calls_and_the_text_around_them_are_told_apart(dialect: Dialect, data: st.DataObject) -> None:
    """In both modes, wherever the borders lie: the same calls, in order, and text without the white space before them."""
    wanted = data.draw(calls(dialect))
    before, after = data.draw(around(dialect)), data.draw(around(dialect))
    before += "\n" if dialect.at_line and before else ""
    text = before + dialect.write(wanted) + after
    whole = read(dialect, text)
    assert told(whole) == [(one.function.name, json.loads(one.function.arguments)) for one in wanted]
    texts = [Said(before.rstrip(SPACE))] * bool(before.strip(SPACE)), [Said(after)] * bool(after.strip(SPACE))
    assert [piece for piece in whole if isinstance(piece, Said)] == [*texts[0], *texts[1]]
    for eager in (False, True):
        parser = dialect.parser(TOOLS, eager=eager)
        assert fed(parser, cut(text, data.draw(BORDERS))) == whole
        assert (parser.calls, parser.broken) == (len(wanted), 0)


@ALL
@FEW
@given(data=st.data())
def test_garbage_is_text(dialect: Dialect, data: st.DataObject) -> None:
    """Pieces of calls in any order: nothing raises, borders make no difference, and what is no call is not lost."""
    example = dialect.write([call("f", {"city": 'a "b"', "days": 5, "tags": [None]}), call("nobody", {})])
    pieces = [example[at : at + 6] for at in range(0, len(example), 3)]
    marks = [
        *filter(None, (dialect.trigger, *dialect.also, *dialect.markers)),
        *FRAGMENTS,
        "f",
        "call:f{",
        '"name"',
    ]
    text = "".join(data.draw(st.lists(st.sampled_from([*pieces, *marks, example]), max_size=12)))
    for eager in (False, True):
        parser = dialect.parser(TOOLS, eager=eager)
        whole = fed(parser, [text])
        assert read(dialect, text, data.draw(BORDERS), eager=eager) == whole
        found = [piece for piece in whole if isinstance(piece, Called)]
        assert [piece.call for piece in found] == list(range(parser.calls))
        assert all(piece.name in {tool.name for tool in TOOLS.tools} for piece in found)
        # What frames a message is not part of it.
        if not found and "<|message|>" not in text:
            assert said(whole) == text
        if not eager:
            assert all(isinstance(json.loads(piece.arguments), dict) for piece in found)


@ALL
def test_an_answer_cut_short_loses_nothing(dialect: Dialect) -> None:
    """Held calls come back as text; told ones keep the arguments that came, and that is no broken call."""
    text = "Hm.\n" + dialect.write([call("f", {"city": "Åre <b>", "days": 5})])
    full = told(read(dialect, text))
    for end in range(len(text)):
        held = dialect.parser(TOOLS, eager=False)
        pieces = fed(held, [text[:end]])
        assert told(pieces) in ([], full)
        if not held.calls:
            assert said(pieces) == text[:end]
        eager = dialect.parser(TOOLS, eager=True)
        pieces = fed(eager, [text[:end]])
        assert eager.calls == sum(isinstance(piece, Called) for piece in pieces) >= held.calls
        assert not (eager.calls and eager.broken)
        if eager.calls:
            assert said(pieces) == "Hm."


@ALL
def test_eager_arguments_come_as_they_are_written(dialect: Dialect) -> None:
    text = dialect.write([call("f", {"city": "one two three four five six seven"})])
    parser = dialect.parser(TOOLS, eager=True)
    pieces = [piece for char in text for piece in parser.feed(char) if isinstance(piece, Called)]
    assert (pieces[0].name, pieces[0].arguments.strip("{")) == ("f", "")
    assert len(pieces) > 30
    assert told(fed(dialect.parser(TOOLS, eager=True), [text])) == [
        ("f", {"city": "one two three four five six seven"})
    ]


@ALL
def test_calls_of_unknown_functions_are_text(dialect: Dialect) -> None:
    text = "So: \n" + dialect.write([call("nobody", {"a": 1})])
    for eager in (False, True):
        parser = dialect.parser(TOOLS, eager=eager)
        assert said(fed(parser, cut(text, range(0, len(text), 3)))) == text
        assert (parser.calls, parser.broken > 0) == (0, True)
    # The known ones among them are calls all the same.
    mixed = dialect.write([call("nobody", {"a": 1}), call("f", {"city": "x"})])
    assert told(read(dialect, mixed)) == [("f", {"city": "x"})]


@ALL
def test_equal_calls_stay_apart(dialect: Dialect) -> None:
    twice = [call("f", {"city": "Oslo"})] * 2
    assert told(read(dialect, dialect.write(twice))) == [("f", {"city": "Oslo"})] * 2


@ALL
def test_depth_has_a_limit(dialect: Dialect) -> None:
    """A value nested more deeply than readers can follow makes no call, and no error."""
    deep: Any = "x"
    for _ in range(90):
        deep = [deep]
    inner = json.dumps(deep)
    text = dialect.write([call("f", {"city": "y", "tags": deep})])
    assert told(read(dialect, text))[0][1]["tags"] == deep
    deeper = text.replace(inner, "[" * 100_000 + inner + "]" * 100_000)
    if deeper == text:
        return
    pieces = read(dialect, deeper)
    assert said(pieces) == deeper or isinstance(told(pieces)[0][1]["tags"], str)


def test_names_within_names_have_a_limit() -> None:
    for name in ("hermes_json", "openai_json"):
        dialect = detect.BY_NAME[name]
        text = dialect.trigger + '{"function": ' * 100_000
        assert said(read(dialect, text)) == text


def test_without_tools_text_is_text() -> None:
    text = 'a <tool_call>{"name": "f", "arguments": {}}</tool_call> '
    for tools in (None, Tools(())):
        parser = answer(
            style=None, opened=False, dialect=detect.BY_NAME["hermes_json"], tools=tools, eager=False
        )
        assert fed(parser, [text]) == [Said(text)]


# --- spellings ---------------------------------------------------------------------------------------------

LOOSE = [
    ("hermes_json", '<tool_call>{"name": "f", "arguments": {"city": "x"}}', {"city": "x"}),
    ("hermes_json", '<tool_call>{"arguments": {"city": "x"}, "name": "f"}</tool_call>', {"city": "x"}),
    ("hermes_json", '<tool_call>{"name": "f", "arguments": "{\\"city\\": \\"x\\"}"}</tool_call>', {"city": "x"}),
    ("hermes_json", "<tool_call>{'name': 'f', 'arguments': {'city': 'it\\'s', 'sure': True,}}</tool_call>", {"city": "it's", "sure": True}),
    ("hermes_json", '<tool_call>{"name": "f", "arguments": {"city": "a\nb\\d"}}</tool_call>', {"city": "a\nb\\d"}),
    ("hermes_json", '<tool_call>{"id": 1, "type": "function", "function": {"name": "f", "arguments": {}}}</tool_call>', {}),
    ("hermes_json", '<tool_call>{"name": "f"}</tool_call>', {}),
    ("openai_json", '[{"type": "function", "function": {"name": "f", "arguments": {"city": "x"}}}]', {"city": "x"}),
    ("llama3_json", '<|python_tag|>{"name": "f", "parameters": {"city": "x"}}<|eom_id|>', {"city": "x"}),
    ("llama3_json", '<|python_tag|>f.call(city="x")<|eom_id|>', {"city": "x"}),
    ("mistral_native", "[TOOL_CALLS] [{'name': 'f', 'arguments': {'city': 'x'}, 'id': 'abc'}]", {"city": "x"}),
    ("mistral_native", '[TOOL_CALLS]f[CALL_ID]abc123[ARGS]{"city": "x"}', {"city": "x"}),
    ("devstral", '[TOOL_CALLS][{"name": "f", "arguments": {"city": "x"}}]', {"city": "x"}),
    ("liquid", "<|tool_call_start|>f(city='x', options={'a': (1, None)})<|tool_call_end|>", {"city": "x", "options": {"a": [1, None]}}),
    ("liquid", '<|tool_call_start|>[f(city="x", sure=true)]', {"city": "x", "sure": True}),
    ("tool_code_python", '```tool_code\nf(city="""a\n"b" c""", days=1_000)\n```', {"city": 'a\n"b" c', "days": 1000}),
    ("glm47", "<tool_call>f\n<arg_key>city</arg_key>\n<arg_value>5</arg_value>\n<arg_key>days</arg_key><arg_value>5</arg_value></tool_call>", {"city": "5", "days": 5}),
    ("glm47", '<tool_call>{"name": "f", "arguments": {"city": "x"}}</tool_call>', {"city": "x"}),
    ("glm4_native", '<tool_call>f<city="x"</city><days="5"></tool_call>', {"city": "x", "days": 5}),
    ("qwen3_coder_xml", "<function=f>\n<parameter=city>\nx\n</parameter>\n</function>\n</tool_call>", {"city": "x"}),
    ("qwen3_coder_xml", "<tool_call>\n<function=f>\n<parameter=sure>True</parameter>\n</function>", {"sure": True}),
    ("minimax_m2", '<minimax:tool_call>\n<invoke name="f">\n<parameter name="tags">["a"]</parameter>\n</invoke>', {"tags": ["a"]}),
    ("minicpm5", '<function name="f"><param name="city"><![CDATA[a <b>]]></param></function>', {"city": "a <b>"}),
    ("kimi_k3", '<|open|>tools<|sep|><|open|>call tool="f" index="1"<|sep|><|open|>json type="object"<|sep|>{"city": "x"}<|close|>json<|sep|><|close|>call<|sep|>', {"city": "x"}),
    ("kimi_k2", '<|tool_calls_section_begin|><|tool_call_begin|>f<|tool_call_argument_begin|>{"city": "x"}', {"city": "x"}),
    ("function_gemma", "<start_function_call>call:f{city:Oslo,days:5,tags:[1,<escape>a,b<escape>]}", {"city": "Oslo", "days": 5, "tags": [1, "a,b"]}),
    ("harmony", '<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"city": "x"}', {"city": "x"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "wanted"), LOOSE, ids=[f"{name}-{number}" for number, (name, *_) in enumerate(LOOSE)])  # fmt: skip
def test_spellings_that_models_use(name: str, text: str, wanted: dict[str, Any]) -> None:
    for eager in (False, True):
        parser = detect.BY_NAME[name].parser(TOOLS, eager=eager)
        pieces = fed(parser, text)
        assert told(pieces) == [("f", wanted)]
        assert (said(pieces), parser.broken) == ("", 0)


@pytest.mark.parametrize(
    "text", ['{"name": "Bob", "age": 3}', '{"a": [1]} {"b": 2}', "x {y} z", "[1, 2]", '{"name": "f"}!']
)
def test_json_that_calls_nothing_is_an_answer(text: str) -> None:
    for name in ("llama3_json", "openai_json"):
        parser = detect.BY_NAME[name].parser(TOOLS, eager=False)
        assert fed(parser, text) == [Said(text)]
        assert parser.broken == ('"f"' in text)


def test_what_breaks_after_its_name_was_told_is_counted() -> None:
    parser = detect.BY_NAME["hermes_json"].parser(TOOLS, eager=True)
    pieces = fed(parser, '<tool_call>{"name": "f", "arguments": {"city": "a", oops}}</tool_call>')
    assert pieces == [Called(0, "f", '{"city": "a", '), Said("oops}}</tool_call>")][:1] + pieces[1:]
    assert (parser.calls, parser.broken, said(pieces)) == (1, 1, "oops}}</tool_call>")


# --- types -------------------------------------------------------------------------------------------------

VALUES = [
    ("5", {"type": "integer"}, "5"),
    ("5", {"type": "string"}, '"5"'),
    ("5.0", {"type": "integer"}, "5"),
    ("5.5", {"type": "integer"}, '"5.5"'),
    (" 1e3 ", {"type": "number"}, "1e3"),
    ("True", {"type": "boolean"}, "true"),
    ("null", {"type": ["string", "null"]}, "null"),
    ("none of it", {"type": ["null", "string"]}, '"none of it"'),
    ("7", {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "7"),
    ("7", {"$ref": "#/$defs/number"}, "7"),
    ("7", {"$ref": "#/$defs/self"}, "7"),
    ("b", {"enum": ["a", "b"]}, '"b"'),
    ("2", {"enum": [1, 2]}, "2"),
    ("{'a': None}", {"type": "object"}, '{"a": null}'),
    ("[1, 2", {"type": "array"}, '"[1, 2"'),
    ("12", None, "12"),
    ("false", None, "false"),
    ('{"a": 1}', None, '{"a": 1}'),
    ('"quoted"', None, '"\\"quoted\\""'),
    ("plain", None, '"plain"'),
]


@pytest.mark.parametrize(("text", "schema", "wanted"), VALUES)
def test_arguments_get_the_types_of_their_schema(text: str, schema: Any, wanted: str) -> None:
    root = {"$defs": {"number": {"type": "integer"}, "self": {"$ref": "#/$defs/self"}}}
    assert decode(text, types(schema, root)) == wanted


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))  # fmt: skip
def test_values_become_json(value: Any) -> None:
    """JSON stays as it is, to the byte; Python's literals become JSON of the same value."""
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False, indent=2)):
        assert settle(text) == text
    python = settle(repr(value), PYTHON)
    if python is not None:
        assert json.loads(python) == value
    else:
        assert "\\" in repr(value)


# --- detection ---------------------------------------------------------------------------------------------

TEMPLATES = [
    ("{{ tools }}<tool_call>\n{\"name\": <function-name>}\n</tool_call>", "hermes_json"),
    ("{{ tools }}<tool_call>\n<function=example>\n<parameter=a>", "qwen3_coder_xml"),
    ("{{ tools }}<seed:tool_call>\n<function=example>\n<parameter=a>", "seed_oss"),
    ("{{ tools }}<tool_call>{name}<arg_key>{key}</arg_key>", "glm47"),
    ("{{ tools }}<longcat_tool_call>{name}<longcat_arg_key>", "longcat"),
    ("{{ tools }}[TOOL_CALLS]{{ name }}[ARGS]", "devstral"),
    ("{{ tools }}[AVAILABLE_TOOLS][TOOL_CALLS] [", "mistral_native"),
    ("{{ tools }}<|python_tag|>{\"name\": function name, \"parameters\": ", "llama3_json"),
    ("{{ tools }}<function={{ name }}>", "llama_xml"),
    ("{{ tools }}<|tool_list_start|>", "liquid"),
    ("{{ tools }}<|tool_calls_section_begin|><|tool_call_begin|>", "kimi_k2"),
    ("{{ tools }}<function name=\"a\"><param name=\"b\">", "minicpm5"),
    ("{{ tools }}<minimax:tool_call>", "minimax_m2"),
    ("{{ tools }}<atem:function_calls>", "muse_spark"),
    ("{{ tools }}<|tool_call>call:{{ name }}<tool_call|>", "gemma4"),
    ("{{ tools }}<start_function_call>call:", "function_gemma"),
    ("{{ tools }}<|channel|>commentary to=functions.f<|message|>", "harmony"),
    ("{{ tools }}<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>", "deepseek_v31"),
    ("{{ tools }}<｜tool▁calls▁begin｜>function<｜tool▁sep｜>f\n```json", "deepseek_v3"),
    ("{{ tools }}<｜DSML｜function_calls>", "deepseek_v32"),
    ("{{ tools }}```tool_code", "tool_code_python"),
    ("{{ tools }}<TOOLCALL>[", "nemotron"),
    ("{{ tools }}]<]minimax[>[<tool_call>", None),
    ("{{ messages }}<tool_call>", None),
    ("{{ tools }}", None),
]  # fmt: skip


@pytest.mark.parametrize(("template", "name"), TEMPLATES)
def test_a_template_tells_its_dialect(template: str, name: str | None) -> None:
    found = detect.dialect(template, (), "llama")
    assert (found and found.name) == name


def test_a_vocabulary_tells_a_dialect_that_no_template_shows() -> None:
    found = detect.dialect("{{ tools }}", {"<|tool_call_start|>", "<|tool_call_end|>"}, "lfm2")
    assert found is detect.BY_NAME["liquid"]
    assert detect.dialect("{{ tools }}<arg_key><tool_call>", (), "laguna") is detect.BY_NAME["laguna"]


@ALL
def test_the_words_for_other_models_show_a_call(dialect: Dialect) -> None:
    tools = Tools((Tool("get_weather", "Says it", WEATHER),), "required", "get_weather", False)
    words = instructions(tools, dialect)
    assert json.dumps(WEATHER) in words
    assert "Call get_weather now" in words
    assert dialect.trigger in words
    example = words.split("arguments:\n")[1].split("\n\n")[0]
    parser = dialect.parser(Tools((Tool("FUNCTION_NAME"),)), eager=False)
    assert told(fed(parser, [example])) == [("FUNCTION_NAME", {"PARAMETER": "VALUE"})]
    assert "sunny" in result("sunny")


@ALL
def test_past_calls_with_broken_arguments_can_be_written(dialect: Dialect) -> None:
    assert "oops" in dialect.write([PastToolCall("1", Function("f", "oops"))])
