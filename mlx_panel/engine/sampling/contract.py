"""What a sampler is given and what it gives: the words both forms of it share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import mlx.core as mx

from ...messages import Sampling
from ..guide import Guide

# Below this, half precision overflows in logits / temperature; the most likely token wins there anyway.
GREEDY_BELOW = 1e-3


class RowSpec(NamedTuple):
    """One row as it joins.

    `sampling` has passed `check`. `prompt` is looked at by the repetition penalty, `answer` holds the tokens generated
    already: the next draw is number len(answer). `logprobs` is the number of alternatives to tell of (0 to 20), None
    for a row that did not ask. `guide` says what may be drawn, and is told of each token that was, once; with a guide
    that allows nothing or is lost the row is bad, alone.
    """

    sampling: Sampling
    prompt: Sequence[int] = ()
    answer: Sequence[int] = ()
    logprobs: int | None = None
    guide: Guide | None = None

    @property
    def greedy(self) -> bool:
        return self.sampling.temperature < GREEDY_BELOW or self.sampling.top_k == 1

    @property
    def edits(self) -> bool:
        """Whether this row's logits are changed before the draw."""
        return self.weighs or self.guide is not None

    @property
    def weighs(self) -> bool:
        """Whether bias or penalties change them."""
        return bool(self.sampling.logit_bias) or self.counts

    @property
    def counts(self) -> bool:
        """Whether its tokens have to be counted."""
        sampling = self.sampling
        return sampling.repetition_penalty != 1 or bool(
            sampling.presence_penalty or sampling.frequency_penalty
        )

    @property
    def windowed(self) -> bool:
        """Whether its repetition penalty forgets tokens that lie back too far."""
        return self.sampling.repetition_penalty != 1 and self.sampling.repetition_context > 0


class RowLogprobs(NamedTuple):
    """Natural log-probabilities of the raw logits: the drawn token's, and (token, value) of the likeliest, sorted."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()

    @classmethod
    def of(cls, logprob: float, tokens: list[int], values: list[float], wanted: int) -> RowLogprobs:
        """From sorted alternatives; those of no probability are left out."""
        pairs = zip(tokens[:wanted], values[:wanted], strict=True)
        return cls(logprob, tuple((token, value) for token, value in pairs if value > -math.inf))


class Taken(NamedTuple):
    """One draw: a token for each row. A row in `bad` had no usable distribution (NaN, or no finite logit): token 0."""

    ids: list[int]
    bad: list[int]
    logprobs: dict[int, RowLogprobs]


class Draw(Protocol):
    """The next tokens of the rows that a sampler had when `begin` was called, whatever joins or leaves after that."""

    @property
    def lazy(self) -> bool:
        """Whether `inputs()` comes before the tokens are known."""
        ...

    def inputs(self) -> mx.array:
        """Tokens (rows,) for the next forward pass; lazy where the draw is made on the device. Cheap to repeat."""
        ...

    def take(self) -> Taken:
        """The tokens themselves; waits for them."""
        ...


class Sampler(Protocol):
    """Draws the next token of every row of a batch, each row as its own `Sampling` says."""

    def __len__(self) -> int: ...

    def join(self, rows: Sequence[RowSpec]) -> None:
        """Append rows behind the present ones."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows, in this order, and drop the rest."""
        ...

    def begin(self, logits: mx.array) -> Draw:
        """Draw from `logits` (rows, vocabulary), any float dtype; launches their computation and does not wait."""
        ...
