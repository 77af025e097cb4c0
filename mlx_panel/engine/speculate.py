"""Speculative decoding of a lone answer: guess a few tokens, compute them in one pass, keep what the model agrees to.

A guess costs nothing in quality: every token is the model's own draw at its place (Leviathan et al. 2023, "Fast
Inference from Transformers via Speculative Decoding", for a draft that is certain of itself). It costs time when it
is wrong, so `Gain` measures whether it pays.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import mlx.core as mx

from ..errors import ModelLoadFailed
from . import kv, loader

Choose = Callable[[mx.array], int]
NO_TOKENS: frozenset[int] = frozenset()


class Drafter(Protocol):
    """Guesses how one sequence goes on. A drafter serves one sequence, which only grows."""

    def draft(self, tokens: Sequence[int], n: int) -> list[int]:
        """At most `n` tokens that may follow `tokens` (prompt and answer so far); with `n` 0 it only catches up."""

    def close(self) -> None:
        """Give back what it holds."""


class NgramDrafter:
    """Guesses that what followed the last few tokens before follows again (prompt lookup decoding, Saxena 2023).

    The longest of the last `longest` to `shortest` tokens that occurred before is taken, at its latest occurrence. A
    text that repeats itself with a period shorter than the guess is guessed to go on so. Each token is indexed once.
    """

    def __init__(self, longest: int = 4, shortest: int = 2):
        self._sizes = range(longest, shortest - 1, -1)
        self._next: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def __repr__(self) -> str:
        return f"<NgramDrafter {self._indexed} tokens, {len(self._next)} n-grams>"

    def draft(self, tokens: Sequence[int], n: int) -> list[int]:
        self._catch_up(tokens)
        for size in self._sizes:
            at = self._next.get(tuple(tokens[-size:])) if size <= len(tokens) else None
            if at is not None:
                # Copied one by one: the copy may run into itself.
                copied = list(tokens[at : at + n])
                while len(copied) < n:
                    copied.append(copied[len(copied) - (len(tokens) - at)])
                return copied
        return []

    def close(self) -> None:
        self._next.clear()

    def _catch_up(self, tokens: Sequence[int]) -> None:
        """Index which token follows each n-gram; the last one of `tokens` is followed by none yet."""
        for at in range(self._indexed, len(tokens)):
            for size in self._sizes:
                if size <= at:
                    self._next[tuple(tokens[at - size : at])] = at
        self._indexed = len(tokens)


def load_draft(path: str | Path, tokenizer: Any) -> Any:
    """A small model for `ModelDrafter`, which writes tokens of `tokenizer`.

    Raises what `loader.load` raises, and ModelLoadFailed where the vocabularies differ or the cache keeps no past.
    """
    draft = loader.load(path)
    if draft.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise ModelLoadFailed(
            "the draft model has another vocabulary than the model; its tokens mean other things"
        )
    if not kv.revocable(kv.make_caches(draft.model)):
        raise ModelLoadFailed("the draft model's cache cannot take a token back")
    return draft.model


class ModelDrafter:
    """Guesses what a small model (`load_draft`) finds most likely. Its KV cache follows the sequence.

    Tokens of `vocabulary_size` and beyond, which pad a model's output, are never guessed. Past a sliding window of its
    own it guesses nothing.
    """

    def __init__(self, model: Any, vocabulary_size: int, prefill_step: int = 512):
        self._model, self._vocabulary_size, self._prefill_step = model, vocabulary_size, prefill_step
        self._caches = kv.make_caches(model)
        # What the caches hold: the first `_sure` tokens are the sequence's, the others were guessed.
        self._held: list[int] = []
        self._sure = 0

    def __repr__(self) -> str:
        return f"<ModelDrafter {len(self._held)} tokens, {kv.nbytes(self._caches)} bytes>"

    def draft(self, tokens: Sequence[int], n: int) -> list[int]:
        self._take_back(tokens)
        new = list(tokens[len(self._held) :])
        n = min(n, kv.revocable(self._caches) - len(new))
        self._feed(new[:-1])
        if n <= 0:
            return []
        guesses = [self._likeliest(mx.array(new[-1:]))]
        while len(guesses) < n:
            guesses.append(self._likeliest(guesses[-1]))
        drafted: Any = mx.concatenate(guesses).tolist()
        self._held += [new[-1], *drafted[:-1]]
        return drafted

    def close(self) -> None:
        self._caches = []

    def _take_back(self, tokens: Sequence[int]) -> None:
        """Forget guesses that proved wrong; at least the last of `tokens` is left to be computed."""
        limit = min(len(self._held), len(tokens) - 1)
        while self._sure < limit and self._held[self._sure] == tokens[self._sure]:
            self._sure += 1
        kv.trim(self._caches, len(self._held) - self._sure)
        del self._held[self._sure :]

    def _feed(self, tokens: list[int]) -> None:
        for start in range(0, len(tokens), self._prefill_step):
            self._model(mx.array([tokens[start : start + self._prefill_step]]), cache=self._caches)
            mx.eval([cache.state for cache in self._caches])
        self._held += tokens

    def _likeliest(self, token: mx.array) -> mx.array:
        logits = self._model(token[None], cache=self._caches)[:, -1, : self._vocabulary_size]
        return mx.argmax(logits, axis=-1)


# --- verification ------------------------------------------------------------------------------------------------


def verify(
    logits: mx.array, draft: Sequence[int], choose: Choose, eos: Container[int] = NO_TOKENS
) -> list[int]:
    """The tokens the model itself writes, as far as `logits` (draft + 1, vocabulary) tell.

    `choose` draws from the row of each place in order until its token is not the one drafted for that place, or one of
    `eos`; that token is the last. As many draws are made as tokens returned, so a seeded sampler goes on as it would
    have without a draft.
    """
    emitted: list[int] = []
    for place in range(len(draft) + 1):
        emitted.append(choose(logits[place]))
        if emitted[-1] in eos or place == len(draft) or emitted[-1] != draft[place]:
            break
    return emitted


class Pass(NamedTuple):
    """What one pass through the model gave: `tokens`, of which the first `accepted` of `drafted` were guessed."""

    tokens: list[int]
    drafted: int
    accepted: int


class SpeculativeStep:
    """The next tokens of the one sequence in `caches` (its own, or a batch of one row): draft, verify, take back.

    `choose` gets a row of logits (vocabulary) and remembers what it chose; it is called once for each token returned.
    The tokens equal those of a run without drafts but for rounding: a pass over several tokens adds up in another
    order than one over each.
    """

    def __init__(
        self,
        model: Any,
        caches: list[Any],
        drafter: Drafter,
        choose: Choose,
        eos: Container[int] = NO_TOKENS,
    ):
        self._model, self._caches, self._drafter = model, caches, drafter
        self._choose, self._eos = choose, eos

    def __repr__(self) -> str:
        return f"<SpeculativeStep {self._drafter!r}>"

    def __call__(self, tokens: Sequence[int], n: int, left: int) -> Pass:
        """At most `left` tokens after `tokens`, guessing up to `n`; at least one, and none after an `eos`.

        `tokens` are prompt and answer so far; the caches hold all but the last of them, before and afterwards.
        """
        n = min(n, left - 1, kv.revocable(self._caches) - 1)
        draft = self._drafter.draft(tokens, n) if n > 0 else []
        logits = self._model(mx.array([[tokens[-1], *draft]]), cache=self._caches)[0]
        mx.eval(logits)
        emitted = verify(logits, draft, self._choose, self._eos)
        kv.trim(self._caches, len(draft) + 1 - len(emitted))
        accepted = sum(token == guess for token, guess in zip(emitted, draft, strict=False))
        return Pass(emitted, len(draft), accepted)
