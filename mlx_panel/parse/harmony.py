"""The channels of gpt-oss ("harmony"): an answer is messages, each to a channel; reasoning goes to "analysis", the answer
to "final", calls to "commentary" with a function as recipient.

`<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{…}<|call|>`
(OpenAI's harmony response format). Text of several messages of one kind is joined by an empty line.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from ..request import PastToolCall, Tool, Tools
from .dialect import Dialect, JsonRule, Literal
from .lark import either
from .pieces import Parser, Said, Thought
from .sections import Opening, Section, Sections
from .source import Broken, Steps
from .typed import parameters
from .values import arguments

_ENDS = ("<|end|>", "<|return|>", "<|call|>", "<|start|>", "<|channel|>")
_OPENINGS = ("<|start|>", "<|channel|>", "to=functions.")
_CHANNEL = re.compile(r"<\|channel\|>\s*+(\w+)")
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([\w.-]+)")


class Channels:
    """Reads the messages of one answer."""

    def __init__(self) -> None:
        self._spoken: set[type[Said] | type[Thought]] = set()

    def __repr__(self) -> str:
        return f"<Channels {len(self._spoken)} spoken in>"

    def read(self, section: Section, inside: type[Said] | type[Thought] | None = None) -> Steps[None]:
        """Messages from behind the first mark of one on, or from `inside` one, while no other text comes between."""
        mark = section.trigger
        if inside is not None:
            mark = yield from self._message(section, inside)
        while mark in _OPENINGS:
            head, _ = yield from section.source.inside("<|message|>")
            head = mark + head
            recipient, channel = _RECIPIENT.search(head), _CHANNEL.search(head)
            if recipient is not None:
                mark = yield from self._call(section, recipient[1])
            else:
                reasons = channel is not None and channel[1] == "analysis"
                mark = yield from self._message(section, Thought if reasons else Said)

    def _call(self, section: Section, name: str) -> Steps[str]:
        section.begin(name)
        yield from arguments(section.source, section.put)
        section.end()
        yield from section.source.space()
        mark = yield from section.source.skip(*_ENDS)
        if not mark:
            yield from section.source.close("<|call|>")
        return mark

    def _message(self, section: Section, kind: type[Said] | type[Thought]) -> Steps[str]:
        """The text of a message; returns the mark that ended it."""
        section.hand_on(kind("\n\n" if kind in self._spoken else ""))
        self._spoken.add(kind)
        try:
            mark = yield from section.source.upto(lambda text: section.hand_on(kind(text)), *_ENDS)
        except Broken:
            return ""
        section.hand_on(Said(""))
        return mark


class Harmony(Dialect, frozen=True, kw_only=True):
    """The dialect; its parser also tells reasoning from answer."""

    def parser(self, tools: Tools, *, eager: bool) -> Parser:
        return harmony([tool.name for tool in tools.tools], eager=eager)

    def rules(self, tools: Sequence[Tool], *, literal: Literal, json: JsonRule, several: bool) -> str:
        lines = []
        for number, tool in enumerate(tools):
            head = literal(f"{tool.name} <|constrain|>json<|message|>")
            lines.append(f"call_{number}: {head} {json(parameters(tool))}")
        return "\n".join([f"calls: {either([f'call_{number}' for number in range(len(tools))])}", *lines, ""])

    def write(self, calls: Sequence[PastToolCall]) -> str:
        return "<|start|>assistant".join(
            f"{self.trigger}{call.function.name} <|constrain|>json<|message|>{call.function.arguments or '{}'}<|call|>"
            for call in calls
        )


def harmony(names: Collection[str], *, eager: bool, opened: bool = False) -> Parser:
    """The parser of an answer in channels. `opened` says that the prompt ends inside the reasoning."""
    channels = Channels()
    parser = Sections(channels.read, Opening(_OPENINGS), names, eager=eager)
    if opened:
        parser.thinking = True
        parser.enter("", lambda section: channels.read(section, Thought))
    return parser
