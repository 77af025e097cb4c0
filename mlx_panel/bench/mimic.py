"""Prompts that share their beginnings as those of the past did, from keyed hashes alone.

Each hash stands for a block of tokens in its place; here it becomes a block of made-up words, the same for the same hash.
So prompts that had their first k blocks in common have k blocks in common again, and not a token more: what follows
begins with another word for each of those that go on differently, as long as there are words enough.
"""

from __future__ import annotations

import hashlib
import random
from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from ..inquiry import Past
from .prompts import WORDS, Ask, Like, asks, open_tokenizer
from .records import BenchmarkError, Workload
from .wire import PastFile

Words = array  # of unsigned short: words by their numbers
HASH_LETTERS = 16  # of a hash in hexadecimal
FEWEST, ENOUGH, MOST = 8, 256, 8192  # words
TRIED = 512  # words in the sentence that is encoded as a trial
REMEMBERED = 8  # continuations of a block whose words are kept
NOTHING: Words = array("H")
MARGIN = 64  # tokens that a caller who leaves does not wait for, at most


class Vocabulary:
    """Words that are one token each, also beside each other. `special` tokens come before a text by themselves.

    Without a tokenizer, and for one that has no such words (`exact` is False then), a word is taken for a token.
    """

    def __init__(self, tokenizer: Tokenizer | None = None):
        self.special, self.exact, self._first = 0, False, ""
        self.words: tuple[str, ...] = tuple(f" {word}" for word in WORDS)
        if tokenizer is not None:
            self._fit(tokenizer)

    def __repr__(self) -> str:
        return f"<Vocabulary of {len(self.words)} words{'' if self.exact else ', lengths about right'}>"

    def text(self, numbers: Sequence[int]) -> str:
        """The words of these numbers, which count from 0 and begin anew after the last."""
        words, count = self.words, len(self.words)
        text = "".join([words[number % count] for number in numbers])
        return text if self._first else text[1:]

    def _fit(self, tokenizer: Tokenizer) -> None:
        words = _single(tokenizer, self.words)
        if len(words) < ENOUGH:
            words = _single(tokenizer, (*self.words, *_known(tokenizer)))
        special = len(tokenizer.encode("").ids)
        draw = random.Random(0)
        trial = "".join(draw.choices(words, k=TRIED)) if len(words) >= FEWEST else ""
        for first in (" ", ""):
            text = trial if first else trial[1:]
            if trial and len(tokenizer.encode(text).ids) == TRIED + special:
                self.words, self.special, self.exact, self._first = tuple(words), special, True, first
                return


def _single(tokenizer: Tokenizer, words: Sequence[str]) -> list[str]:
    """Those of some words that are one token each when they stand in a row."""
    text = "".join(words)
    ends: dict[int, int] = {}
    for _, end in tokenizer.encode(text, add_special_tokens=False).offsets:
        ends[end] = ends.get(end, 0) + 1
    kept, at, before = [], 0, 0
    counts = sorted(ends)
    for word in words:
        at += len(word)
        inside = 0
        while before < len(counts) and counts[before] <= at:
            inside += ends[counts[before]]
            before += 1
        if inside == 1 and at in ends:
            kept.append(word)
    return list(dict.fromkeys(kept))


def _known(tokenizer: Tokenizer) -> list[str]:
    """Plain words of a tokenizer's own, each with the space before it, in the order of their ids."""
    names = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    found = [f" {name[1:]}" for name, _ in names if name[:1] in ("Ġ", "▁")]
    return [word for word in found if word[1:].isascii() and word[1:].isalpha() and word.islower()][:MOST]


class Mimic:
    """Makes a prompt of each request of the past. The same `salt` and the same past give the same prompts.

    Where more of a prompt came from the cache then than whole blocks explain, it goes on for as long like one that was
    asked before and shares those blocks.
    """

    def __init__(self, vocabulary: Vocabulary, salt: str = ""):
        self._vocabulary, self._salt = vocabulary, salt.encode()
        self._places: dict[str, int] = {}  # of a block among those that follow the same one
        self._begun: dict[str, Words] = {}  # how blocks begin that begin like another
        self._after: dict[str, _Followers] = {}

    def __repr__(self) -> str:
        return f"<Mimic {len(self._places)} blocks, {self._vocabulary!r}>"

    def prompt(self, past: Past) -> str:
        """A text of `prompt_tokens` tokens that begins like those before it that began like this one."""
        return self._vocabulary.text(self.numbers(past))

    def numbers(self, past: Past) -> Words:
        """The words of a prompt by their numbers. Tokens that come before a text by themselves are left out of its first
        block, so that all others end where they did."""
        found = array("H")
        parent, special = "", self._vocabulary.special
        for hashed in hashes(past):
            length = past.block_tokens - (0 if parent else special)
            if hashed not in self._places:
                self._place(parent, hashed, length, past.cached_tokens - special - len(found))
            found += self._words(hashed, length)
            parent = hashed
        rest = max(past.prompt_tokens - special - len(found), 0 if found else 1)
        if rest:
            found += self._place(parent, "", rest, past.cached_tokens - special - len(found))
        return found

    def _place(self, parent: str, hashed: str, length: int, alike: int) -> Words:
        """A new block, or the rest of a prompt, of which the first `alike` words are those of one with the same parent."""
        after = self._after.setdefault(parent, _Followers())
        name = hashed or f"{parent} {after.count}"
        self._places[name] = after.count
        # A block with a hash of its own is unlike all others, be it by its last token.
        if begun := after.like(min(alike, length - bool(hashed))):
            self._begun[name] = begun
        words = self._words(name, length)
        after.add(words)
        if not hashed:
            del self._places[name]  # it never comes again
            self._begun.pop(name, None)
        return words

    def _words(self, name: str, length: int) -> Words:
        """The words of a block: drawn by its name, but for two that say its place among those with the same parent."""
        count, place = len(self._vocabulary.words), self._places[name]
        drawn = array("H", hashlib.shake_128(self._salt + b"|" + name.encode()).digest(2 * length))
        words = array("H", [number % count for number in drawn])
        begun = self._begun.get(name, NOTHING)
        told = array("H", [place % count, place // count % count])
        return (begun + told + words[len(begun) + len(told) :])[:length]


class _Followers:
    """What came after a block: how many different continuations, and the words of the last few."""

    def __init__(self) -> None:
        self.count = 0
        self._last: deque[Words] = deque(maxlen=REMEMBERED)

    def add(self, words: Words) -> None:
        self.count += 1
        self._last.append(words)

    def like(self, length: int) -> Words:
        """The first `length` words of the latest that has so many; of the longest where none has."""
        if length <= 0 or not self._last:
            return NOTHING
        fitting = [words for words in self._last if len(words) >= length]
        return (fitting[-1] if fitting else max(self._last, key=len))[:length]


def hashes(past: Past) -> list[str]:
    """The hashes of a request's whole blocks, in hexadecimal."""
    if not past.block_tokens:
        return []
    most = min(len(past.blocks) // HASH_LETTERS, past.prompt_tokens // past.block_tokens)
    return [past.blocks[at : at + HASH_LETTERS] for at in range(0, most * HASH_LETTERS, HASH_LETTERS)]


def pasts(file: Path) -> Iterator[Past]:
    """The requests in a file of JSON lines. Raises BenchmarkError, which quotes nothing, and OSError."""
    decode = msgspec.json.Decoder(Past).decode
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield decode(line)
            except msgspec.DecodeError as error:
                raise BenchmarkError(f"{file.name}, line {number}, is no request of the past.") from error


class Mimics:
    """One `Mimic` a model, as each may have a tokenizer of its own; those that have none here get that of the target."""

    def __init__(self, tokenizer: Tokenizer | None, folders: Mapping[str, str], salt: str):
        self._usual = Vocabulary(tokenizer)
        self._folders, self._salt = folders, salt
        self._mimics: dict[str | None, Mimic] = {}

    def __repr__(self) -> str:
        return f"<Mimics of {len(self._mimics)} models>"

    def prompt(self, past: Past) -> str:
        """As `Mimic.prompt`. Raises BenchmarkError for a tokenizer that cannot be read."""
        mimic = self._mimics.get(past.model)
        if mimic is None:
            own = open_tokenizer(self._folders.get(past.model or "", ""))
            mimic = Mimic(Vocabulary(own) if own is not None else self._usual, self._salt)
            self._mimics[past.model] = mimic
        return mimic.prompt(past)


def planned(
    workload: Workload, tokenizer: Tokenizer | None = None, past: PastFile | None = None
) -> Iterator[Ask]:
    """The requests of a run in their order: those of `past` where it is a replay, else made-up ones."""
    if workload.replay is None:
        return asks(workload, tokenizer)
    if past is None:
        raise BenchmarkError("There is no past to replay.")
    return _again(Path(past.path), Mimics(tokenizer, past.tokenizers, workload.salt))


def _again(file: Path, mimic: Mimics) -> Iterator[Ask]:
    """The requests of a replay in their order; each is made while the one before it waits for its moment."""
    for number, past in enumerate(pasts(file)):
        answer = max(1, past.completion_tokens)
        left = past.stream and past.status == "cancelled"
        like = Like(
            output_tokens=min(max(answer, past.max_tokens or 0), answer + MARGIN) if left else answer,
            model=past.model or "",
            stream=past.stream,
            temperature=past.temperature,
            top_p=past.top_p,
            top_k=past.top_k,
        )
        yield Ask(number, mimic.prompt(past), past.at, answer if left else None, like)
