"""Reasoning told apart from the answer: at its beginning only, from the state the prompt leaves, wherever borders lie."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_panel.parse import detect, reasoning
from mlx_panel.parse.answer import answer
from mlx_panel.parse.pieces import Called, Parser, Piece, Said, Thought
from mlx_panel.parse.reasoning import STYLES, Style
from mlx_panel.request import Tools

from .tool_calls import TOOLS, call, cut, fed, fragments

PLAIN = [style for style in STYLES.values() if style.name != "harmony"]
EACH = pytest.mark.parametrize("style", PLAIN, ids=lambda style: style.name)
HERMES = detect.BY_NAME["hermes_json"]


def parser(
    style: Style | None, *, opened: bool = False, tools: Tools | None = None, eager: bool = False
) -> Parser:
    dialect = detect.BY_NAME["harmony"] if style is STYLES["harmony"] else HERMES
    return answer(style=style, opened=opened, dialect=dialect, tools=tools, eager=eager)


@EACH
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_reasoning_and_answer_are_told_apart(style: Style, data: st.DataObject) -> None:
    """Marks, one line break inside them and white space behind them belong to neither; all else stays."""
    without = (style.open, style.close, *style.frame)
    thought, said = data.draw(fragments(without)), data.draw(fragments(without))
    opened = data.draw(st.booleans())
    before = data.draw(st.sampled_from(["", " \n"])) if not opened else ""
    text = f"{before}{'' if opened else style.open}\n{thought}\n{style.close}\n\n{said}"
    pieces = fed(
        parser(style, opened=opened), cut(text, data.draw(st.lists(st.integers(0, 999), max_size=30)))
    )
    rest = said.lstrip(" \t\r\n")
    wanted: list[Piece] = [Thought(thought)] * bool(thought)
    assert pieces == [*wanted, *[Said(rest)] * bool(rest)]


@EACH
@given(text=fragments(), place=st.integers(0, 99))
def test_an_answer_without_reasoning_is_text(style: Style, text: str, place: int) -> None:
    """The marks of reasoning further on are text too."""
    text = f"Well {text}{style.open} x {style.close}"
    assert fed(parser(style), cut(text, [place])) == [Said(text)]


@EACH
def test_reasoning_cut_short_is_reasoning(style: Style) -> None:
    for end in range(1, len(style.close)):
        text = f"{style.open}because{style.close[:end]}"
        one = parser(style)
        pieces = [piece for char in text for piece in one.feed(char)]
        assert one.thinking
        assert fed(parser(style), text) == [Thought("because" + style.close[:end])]
        assert all(isinstance(piece, Thought) for piece in pieces)
    for end in range(1, len(style.open)):
        assert fed(parser(style), style.open[:end]) == [Said(style.open[:end])]


@EACH
def test_thinking_is_said_token_by_token(style: Style) -> None:
    one = parser(style)
    assert not one.thinking
    one.feed(style.open)
    assert one.thinking
    assert one.feed("why") == [Thought("why")]
    one.feed(style.close)
    assert not one.thinking
    assert one.feed("\nso") == [Said("so")]
    repeated = parser(style, opened=True)
    assert repeated.thinking
    assert fed(repeated, style.open + "again" + style.close + "so") == [Thought("again"), Said("so")]


def test_a_call_may_follow_reasoning() -> None:
    text = "<think>I call <tool_call> soon</think>\n\n" + HERMES.write([call("f", {"city": "x"})])
    for eager in (False, True):
        one = parser(STYLES["think"], tools=TOOLS, eager=eager)
        assert fed(one, text) == [Thought("I call <tool_call> soon"), Called(0, "f", '{"city": "x"}')]
        assert (one.calls, one.broken) == (1, 0)


def test_white_space_alone_is_text() -> None:
    assert fed(parser(STYLES["think"]), " \n") == [Said(" \n")]


# --- harmony -----------------------------------------------------------------------------------------------

START = "<|start|>assistant"
CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"city": "x"}<|call|>'
HARMONY = [
    ("<|channel|>analysis<|message|>why<|end|>" + START + "<|channel|>final<|message|>so <b", False, [Thought("why"), Said("so <b")]),
    ("why<|end|>" + START + "<|channel|>final<|message|>so<|return|>", True, [Thought("why"), Said("so")]),
    ("<|channel|>analysis<|message|>one<|end|>" + START + "<|channel|>analysis<|message|>two<|end|>", False, [Thought("one\n\ntwo")]),
    ("<|channel|>commentary<|message|>I look.<|end|>" + START + CALL, False, [Said("I look."), Called(0, "f", '{"city": "x"}')]),
    ("<|channel|>analysis<|message|>why<|end|>" + CALL, False, [Thought("why"), Called(0, "f", '{"city": "x"}')]),
    ("no channel at all", False, [Said("no channel at all")]),
    ("<|channel|>analysis<|message|>cut <|en", False, [Thought("cut <|en")]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "opened", "wanted"), HARMONY)
def test_channels_are_reasoning_answer_and_calls(text: str, opened: bool, wanted: list[Piece]) -> None:
    for eager in (False, True):
        for size in (1, 3, 1000):
            one = parser(STYLES["harmony"], opened=opened, tools=TOOLS, eager=eager)
            assert fed(one, [text[at : at + size] for at in range(0, len(text), size)]) == wanted
    if not any(isinstance(piece, Called) for piece in wanted):
        assert fed(parser(STYLES["harmony"], opened=opened), text) == wanted


def test_channels_say_when_they_are_reasoning() -> None:
    one = parser(STYLES["harmony"])
    states = []
    for part in (
        "<|channel|>analysis<|message|>",
        "why",
        "<|end|>",
        START,
        "<|channel|>final<|message|>",
        "so",
    ):
        one.feed(part)
        states.append(one.thinking)
    assert states == [True, True, False, False, False, False]


def test_a_frame_is_no_part_of_the_answer() -> None:
    text = "<|open|>think<|sep|>why<|close|>think<|sep|><|open|>response<|sep|>so<|close|>response<|sep|><|close|>message<|sep|>"
    for size in (1, 5, 1000):
        one = answer(style=STYLES["kimi_k3"], opened=False, dialect=None, tools=None, eager=False)
        assert fed(one, [text[at : at + size] for at in range(0, len(text), size)]) == [
            Thought("why"),
            Said("so"),
        ]


# --- which style, which state ------------------------------------------------------------------------------

FOUND = [
    ("{{ content.split('</think>')[-1] }}", (), "think"),
    ("", ("<think>", "</think>"), "think"),
    ("{{ messages }}", ("<think>",), None),
    ("[THINK]{{ thinking }}[/THINK]", (), "mistral_think"),
    ("", ("[THINK]", "[/THINK]", "<think>", "</think>"), "mistral_think"),
    ("<seed:think>x</seed:think>", (), "seed_think"),
    ("", ("<longcat_think>", "</longcat_think>"), "longcat_think"),
    ("", ("<|think:start|>", "<|think:end|>"), "think_start"),
    ("", ("<|channel>", "<channel|>"), "gemma4"),
    ("", ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"), "kimi_k3"),
    ("<|channel|>analysis<|message|>", (), "harmony"),
    ("{{ messages }}", (), None),
]


@pytest.mark.parametrize(("template", "vocabulary", "name"), FOUND)
def test_template_and_vocabulary_tell_the_style(
    template: str, vocabulary: tuple[str, ...], name: str | None
) -> None:
    found = reasoning.find(template, vocabulary)
    assert (found and found.name) == name


def test_the_prompt_tells_the_state() -> None:
    think, harmony = STYLES["think"], STYLES["harmony"]
    assert reasoning.opened(think, "<|im_start|>assistant\n<think>\n")
    assert not reasoning.opened(think, "<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not reasoning.opened(think, "<|im_start|>user\nwhat is <think><|im_end|>\n<|im_start|>assistant\n")
    assert reasoning.opened(harmony, "<|start|>assistant<|channel|>analysis<|message|>")
    assert not reasoning.opened(harmony, "<|start|>assistant")
