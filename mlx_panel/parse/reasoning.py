"""Reasoning that a model writes before it answers, and its marks.

It is recognised only as the first thing of an answer; the same marks later are text. Neither the marks belong to the
reasoning, nor one line break after the first and one before the last; the white space between reasoning and answer
belongs to neither.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from .pieces import Parser, Piece, Thought
from .sections import merged
from .source import SPACE, Broken, Source, Steps


class Style(msgspec.Struct, frozen=True):
    """Reasoning stands between `open` and `close`. `frame` are marks around the answer itself, which are not part of it;
    `tokens` are special tokens of which these marks consist."""

    name: str
    open: str
    close: str
    frame: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    @property
    def markers(self) -> tuple[str, ...]:
        """Strings that may be special tokens and have to be in the text for a parser to see them."""
        return (self.open, self.close, *self.frame, *self.tokens)


# Its parser is one of its own, see `harmony.py`.
HARMONY = Style(
    "harmony",
    "<|channel|>analysis<|message|>",
    "<|end|>",
    tokens=("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|call|>", "<|return|>"),
)
KIMI_K3 = Style(
    "kimi_k3",
    "<|open|>think<|sep|>",
    "<|close|>think<|sep|>",
    ("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
    ("<|open|>", "<|close|>", "<|sep|>"),
)
GEMMA4 = Style("gemma4", "<|channel>thought", "<channel|>", tokens=("<|channel>",))
MISTRAL = Style("mistral_think", "[THINK]", "[/THINK]")
# The first whose marks a template or a vocabulary has is the model's.
TAGS = (
    Style("think", "<think>", "</think>"),
    Style("longcat_think", "<longcat_think>", "</longcat_think>"),
    Style("think_start", "<|think:start|>", "<|think:end|>"),
    Style("seed_think", "<seed:think>", "</seed:think>"),
    Style("thinking", "<thinking>", "</thinking>"),
    Style("reasoning", "<reasoning>", "</reasoning>"),
    Style("reflection", "<reflection>", "</reflection>"),
)
STYLES = {style.name: style for style in (HARMONY, KIMI_K3, GEMMA4, MISTRAL, *TAGS)}


def find(template: str, vocabulary: Collection[str]) -> Style | None:
    """The style in which a model reasons, by its chat template and its vocabulary; None where it has none."""
    if "<|channel|>" in template and "<|message|>" in template:
        return HARMONY
    if all(mark in vocabulary for mark in ("<|channel|>", "<|message|>", "<|constrain|>")):
        return HARMONY
    if all(mark in vocabulary for mark in ("<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>")):
        return KIMI_K3
    for style in (MISTRAL, GEMMA4, *TAGS):
        if style.open in template or style.close in template:
            return style
    for style in (MISTRAL, *TAGS):
        if style.open in vocabulary and style.close in vocabulary:
            return style
    return GEMMA4 if "<|channel>" in vocabulary and "<channel|>" in vocabulary else None


def opened(style: Style, prompt: str) -> bool:
    """Whether the rendered prompt ends inside reasoning, so that the answer begins there."""
    return prompt.rstrip(SPACE).endswith(style.open)


class Reasoned:
    """The parser of a style. What follows the reasoning goes to `answer`, and what that says of it comes back."""

    def __init__(self, style: Style, answer: Parser, *, opened: bool = False):
        self.thinking = opened
        self._style = style
        self._answer = answer
        self._source = Source()
        self._source.keeping = False
        self._out: list[Piece] = []
        self._reading: Steps[None] | None = self._read()

    def __repr__(self) -> str:
        return f"<Reasoned {self._style.name}, thinking={self.thinking}, {self._answer!r}>"

    @property
    def calls(self) -> int:
        return self._answer.calls

    @property
    def broken(self) -> int:
        return self._answer.broken

    def feed(self, text: str) -> list[Piece]:
        if self._reading is None:
            return self._answer.feed(text)
        self._source.add(text)
        return merged(self._go())

    def flush(self) -> list[Piece]:
        self._source.ended = True
        out = self._go() if self._reading is not None else []
        self.thinking = False
        return merged([*out, *self._answer.flush()])

    def _go(self) -> list[Piece]:
        assert self._reading is not None
        try:
            next(self._reading)
        except StopIteration:
            self._reading = None
            self._out += self._answer.feed(self._source.unread())
        out, self._out = self._out, []
        return out

    def _read(self) -> Steps[None]:
        source, style = self._source, self._style
        # Some models write the mark once more that their prompt had.
        if length := (yield from source.follows(style.open)):
            source.take(length)
            self.thinking = True
        if not self.thinking:
            return
        yield from source.skip("\n")
        try:
            yield from source.upto(self._think, "\n" + style.close, style.close)
        except Broken:
            return
        self.thinking = False
        yield from source.space()

    def _think(self, text: str) -> None:
        if text:
            self._out.append(Thought(text))
