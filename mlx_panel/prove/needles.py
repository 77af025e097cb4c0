"""Finds thousands of byte strings at once, whichever and however many they are, at some 100 MB/s."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from . import canary as canaries
from .canary import Canary

# Canaries are told apart by their number; runs of tokens take so many of a canary's, its ends left out, since what
# stands beside a text changes how its ends are cut.
TOKENS, TOKEN_STEP, TOKEN_ENDS = 6, 3, 2
BITS = 20
PRIME = np.uint32(2654435761)  # Knuth's multiplicative hash
SHORTEST = 8
PIECE = 1 << 20

Tokenise = Callable[[str], list[int]]


class Hit(NamedTuple):
    """A canary by its number, and the form it was found in."""

    canary: int
    form: str


class Needles:
    """Every form of every window of some canaries. `tokenise` adds those in a model's token numbers."""

    def __init__(self, sought: Sequence[Canary], tokenise: Tokenise | None = None):
        self._hits: dict[bytes, Hit] = {}
        for number, canary in enumerate(sought):
            for window in canaries.windows(canary):
                self._add(number, canaries.forms(window))
            if tokenise is not None:
                for run in _runs(canary, tokenise):
                    self._add(number, canaries.token_forms(run))
        self._by_start: dict[bytes, list[bytes]] = defaultdict(list)
        for needle in self._hits:
            self._by_start[needle[:SHORTEST]].append(needle)
        self.longest = max(map(len, self._hits), default=0)
        self._first, self._second = _table(self._by_start, 0), _table(self._by_start, 4)

    def __repr__(self) -> str:
        return f"<Needles {len(self._hits)}>"

    def _add(self, number: int, forms: dict[bytes, str]) -> None:
        for needle, form in forms.items():
            if len(needle) >= SHORTEST:
                self._hits.setdefault(needle, Hit(number, form))

    def forms(self, number: int) -> set[str]:
        """The forms that are sought of a canary."""
        return {hit.form for hit in self._hits.values() if hit.canary == number}

    def find(self, data: bytes) -> set[Hit]:
        """What is in these bytes."""
        found: set[Hit] = set()
        for start in range(0, len(data), PIECE):
            found |= self._find(data[start : start + PIECE + self.longest])
        return found

    def _find(self, data: bytes) -> set[Hit]:
        if len(data) < SHORTEST:
            return set()
        words = _words(np.frombuffer(data, np.uint8))
        places = np.flatnonzero(self._first[_hash(words[:-4])])
        places = places[self._second[_hash(words[places + 4])]]
        found = set()
        for place in places.tolist():
            for needle in self._by_start.get(data[place : place + SHORTEST], ()):
                if data.startswith(needle, place):
                    found.add(self._hits[needle])
        return found


def _words(data: np.ndarray) -> np.ndarray:
    """The four bytes from each place on as a number; shape (length - 3,), uint32."""
    wide = data.astype(np.uint32)
    return wide[:-3] | wide[1:-2] << 8 | wide[2:-1] << 16 | wide[3:] << 24


def _hash(words: np.ndarray) -> np.ndarray:
    return (words * PRIME) >> np.uint32(32 - BITS)


def _table(starts: Iterable[bytes], offset: int) -> np.ndarray:
    """Which hashes some needle has for its four bytes from `offset` on; shape (2^20,), bool."""
    table = np.zeros(1 << BITS, bool)
    words = [int.from_bytes(start[offset : offset + 4], "little") for start in starts]
    table[_hash(np.array(words, np.uint32))] = True
    return table


def _runs(canary: Canary, tokenise: Tokenise) -> list[list[int]]:
    """Runs of the canary's tokens, as it is cut at the start of a line and after a space."""
    runs = []
    for text in (canary.text, f" {canary.text}"):
        inner = tokenise(text)[TOKEN_ENDS:-TOKEN_ENDS]
        last = len(inner) - TOKENS
        runs += [inner[start : start + TOKENS] for start in range(0, last + 1, TOKEN_STEP)]
    return runs
