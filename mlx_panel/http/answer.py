"""What a request's events add up to, choice by choice, and events that leave together put together. No dialect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..messages import (
    Done,
    Echo,
    Event,
    FinishReason,
    GenerateRequest,
    Reasoning,
    Text,
    TokenLogprob,
    ToolCall,
)

Piece = Text | Reasoning | ToolCall
PIECES = frozenset({Text, Reasoning, ToolCall})
TELLING = (Echo, Text, Reasoning, ToolCall, Done)


class Places:
    """The number of each choice in the reply: all of the first prompt, then those of the next.

    `first` is that of each request's first choice, by the request's id.
    """

    def __init__(self, requests: Sequence[GenerateRequest]):
        self.first: dict[str, int] = {}
        self.count = 0
        for request in requests:
            self.first[request.id] = self.count
            self.count += request.n
        self._each = requests[0].n

    def __repr__(self) -> str:
        return f"<Places {self.count} of {len(self.first)} prompts>"

    def of(self, event: Piece | Done) -> int:
        return self.first[event.id] + event.index

    def echoed(self, event: Echo) -> range:
        """The choices that begin with this prompt."""
        first = self.first[event.id]
        return range(first, first + self._each)


class Choice:
    """One answer: what was said, thought and called so far. Of each call there is its first piece and all arguments."""

    def __init__(self) -> None:
        self.said: list[Echo | Text] = []
        self.thoughts: list[str] = []
        self.calls: list[tuple[ToolCall, list[str]]] = []
        self.finish_reason: FinishReason | None = None
        self.broken = 0

    def __repr__(self) -> str:
        return f"<Choice {len(self.said)} pieces, {len(self.calls)} calls, {self.finish_reason or 'open'}>"

    @property
    def text(self) -> str:
        return "".join([piece.text for piece in self.said])

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [one for piece in self.said for one in piece.logprobs]

    def add(self, event: Piece | Echo | Done) -> None:
        if isinstance(event, Text | Echo):
            self.said.append(event)
        elif isinstance(event, Reasoning):
            self.thoughts.append(event.text)
        elif isinstance(event, ToolCall):
            self._call(event)
        else:
            self.finish_reason, self.broken = event.finish_reason, event.broken

    def _call(self, event: ToolCall) -> None:
        while len(self.calls) <= event.call:
            self.calls.append((event, []))
        self.calls[event.call][1].append(event.arguments)


class Answer:
    """All choices of a reply, filled by `add`."""

    def __init__(self, places: Places):
        self._places = places
        self.choices = [Choice() for _ in range(places.count)]

    def __repr__(self) -> str:
        return f"<Answer {self.choices!r}>"

    @property
    def broken(self) -> int:
        """What began like a tool call and came as text, in all choices."""
        return sum(choice.broken for choice in self.choices)

    def add(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Echo):
                for number in self._places.echoed(event):
                    self.choices[number].add(event)
            elif isinstance(event, Text | Reasoning | ToolCall | Done):
                self.choices[self._places.of(event)].add(event)


def together(events: Sequence[Event]) -> list[Piece | Echo | Done]:
    """What events tell a client, in the order that each choice has; pieces of one kind become one.

    Those with log-probabilities stay as they are.
    """
    groups: list[list[Piece | Echo | Done]] = []
    last: dict[tuple[str, int], int] = {}
    for event in events:
        if not isinstance(event, TELLING):
            continue
        key = (event.id, -1 if isinstance(event, Echo) else event.index)
        place = last.get(key)
        if place is not None and _alike(groups[place][0], event):
            groups[place].append(event)
        else:
            last[key] = len(groups)
            groups.append([event])
    return [group[0] if len(group) == 1 else _joined(group) for group in groups]


def _alike(one: Piece | Echo | Done, other: Piece | Echo | Done) -> bool:
    """Whether two pieces of one choice may leave as one."""
    if type(one) is Text and type(other) is Text:
        return not (one.logprobs or other.logprobs)
    if type(one) is ToolCall and type(other) is ToolCall:
        return one.call == other.call
    return type(one) is Reasoning and type(other) is Reasoning


def _joined(group: list[Any]) -> Piece:
    name = "arguments" if type(group[0]) is ToolCall else "text"
    said = "".join([getattr(piece, name) for piece in group])
    return msgspec.structs.replace(group[0], **{name: said}, tokens=sum([piece.tokens for piece in group]))
