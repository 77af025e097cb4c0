"""What a row may say next: masks over the vocabulary that hold for one draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint32]


class Guide(Protocol):
    """Follows one answer and says which tokens it may go on with.

    A mask has a bit for each token of the vocabulary: token t is allowed if bit t % 32 of word t // 32 is set.
    """

    def mask(self) -> Mask | None:
        """The tokens allowed now, (words,) uint32; None allows all. Valid until the next `accept`."""
        ...

    def accept(self, token: int) -> None:
        """The token that was drawn. Raises GuideLost where the answer cannot go on."""
        ...

    def copy(self) -> Guide:
        """Another of the same state, for a choice of its own."""
        ...


class GuideLost(Exception):
    """A guide has no way on: a limit of its grammar's parser was met."""


def stuck(guide: Guide) -> bool:
    """Whether a guide has no way on."""
    try:
        mask = guide.mask()
    except GuideLost:
        return True
    return mask is not None and not mask.any()


def words(vocabulary: int) -> int:
    """The words of a mask over so many tokens."""
    return -(-vocabulary // 32)


def only(tokens: Sequence[int], vocabulary: int) -> Mask:
    """The mask that allows these tokens alone."""
    mask = np.zeros(words(vocabulary), np.uint32)
    for token in tokens:
        mask[token // 32] |= np.uint32(1 << token % 32)
    return mask


class Together:
    """Several guides at once: what all of them allow; where that is nothing, what the last of them allows."""

    def __init__(self, guides: Sequence[Guide]):
        self._guides = tuple(guides)

    def __repr__(self) -> str:
        return f"<Together {', '.join(map(repr, self._guides))}>"

    def mask(self) -> Mask | None:
        masks = [mask for guide in self._guides if (mask := guide.mask()) is not None]
        if len(masks) < 2:
            return masks[0] if masks else None
        allowed: Mask = np.bitwise_and.reduce(masks)
        return allowed if allowed.any() else masks[-1]

    def accept(self, token: int) -> None:
        for guide in self._guides:
            guide.accept(token)

    def copy(self) -> Together:
        return Together([guide.copy() for guide in self._guides])


class Unended:
    """No end of sequence before `least` tokens, as `min_tokens` asks."""

    def __init__(self, eos: Sequence[int], least: int, vocabulary: int):
        self._left = least
        self._mask = ~only(eos, vocabulary)

    def __repr__(self) -> str:
        return f"<Unended for {self._left} tokens>"

    def mask(self) -> Mask | None:
        return self._mask if self._left > 0 else None

    def accept(self, token: int) -> None:
        self._left -= 1

    def copy(self) -> Unended:
        return copy(self)


class Budget:
    """Ends reasoning after `budget` tokens by saying its closing mark.

    `piece` gives a token's bytes, marks included; `open` and `close` are the marks, `closing` the tokens of the second.
    `thinking` says that the answer begins inside reasoning.
    """

    def __init__(
        self,
        budget: int,
        *,
        open: bytes,
        close: bytes,
        closing: Sequence[int],
        piece: Callable[[int], bytes],
        thinking: bool,
        vocabulary: int,
    ):
        self._left = budget
        self._open, self._close, self._closing, self._piece = open, close, tuple(closing), piece
        self._thinking: bool | None = thinking or None  # None: it has not begun to speak
        self._said = b""
        self._forced = 0
        self._vocabulary = vocabulary

    def __repr__(self) -> str:
        return f"<Budget {self._left} tokens left, thinking={self._thinking}>"

    def mask(self) -> Mask | None:
        if not self._thinking or self._left > 0:
            return None
        return only([self._closing[self._forced]], self._vocabulary)

    def accept(self, token: int) -> None:
        if self._thinking is False:
            return
        if self._thinking and self._left <= 0 and token == self._closing[self._forced]:
            self._forced += 1
            self._thinking = self._forced < len(self._closing)
            return
        # Another guide may have the last word, inside a character for one: the mark is then begun anew.
        self._forced = 0
        self._said += self._piece(token)
        if self._thinking is None:
            self._begin()
        if self._thinking:
            self._left -= 1
            self._thinking = self._close not in self._said
            self._said = self._said[-len(self._close) :]

    def copy(self) -> Budget:
        return copy(self)

    def _begin(self) -> None:
        """Whether the first words are the opening mark; undecided while they may become it."""
        said = self._said.lstrip()
        if said.startswith(self._open):
            self._thinking, self._said = True, said[len(self._open) :]
        elif not self._open.startswith(said):
            self._thinking = False
