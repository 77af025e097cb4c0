"""What a row may say next: masks over the vocabulary that hold for one draw."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Several guides at once: what all of them allow."""

    def __init__(self, guides: Sequence[Guide]):
        self._guides = tuple(guides)

    def __repr__(self) -> str:
        return f"<Together {', '.join(map(repr, self._guides))}>"

    def mask(self) -> Mask | None:
        masks = [mask for guide in self._guides if (mask := guide.mask()) is not None]
        return np.bitwise_and.reduce(masks) if len(masks) > 1 else masks[0] if masks else None

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
        other = object.__new__(Unended)
        other._left, other._mask = self._left, self._mask
        return other
