"""What becomes of a model's text: pieces of answer, reasoning and tool calls, and the shape of what makes them."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Said(NamedTuple):
    """A piece of the answer."""

    text: str


class Thought(NamedTuple):
    """A piece of the reasoning, without the marks around it."""

    text: str


class Called(NamedTuple):
    """A piece of tool call number `call` (from 0). The first of a call has its `name`; `arguments` is the next piece of
    its JSON. The pieces of one call follow each other."""

    call: int
    name: str
    arguments: str


Piece = Said | Thought | Called


class Parser(Protocol):
    """Text in, pieces out, wherever the borders of the text's pieces lie: joined, the result is the same.

    `thinking` says whether the text so far ends inside reasoning. `calls` counts tool calls, `broken` what began like
    one and was none: that came as `Said`, byte for byte.
    """

    @property
    def thinking(self) -> bool: ...

    @property
    def calls(self) -> int: ...

    @property
    def broken(self) -> int: ...

    def feed(self, text: str) -> list[Piece]:
        """The pieces that became certain. None is empty, and two of the same kind and call are not neighbours."""
        ...

    def flush(self) -> list[Piece]:
        """No more text comes: the rest."""
        ...
