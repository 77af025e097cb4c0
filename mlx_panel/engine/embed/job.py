"""One request on its way through the engine: its inputs as tokens, its vectors as they come, and how work is shared."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

from ...errors import ContextLengthExceeded, EmptyPrompt
from ...messages import EmbedRequest, Usage
from .text import Tokens


class Job:
    """A request. It is read (its texts become tokens), then its inputs are taken one by one, the longest first."""

    def __init__(self, request: EmbedRequest, limit: int):
        self.request = request
        self.limit = limit
        self.started = False
        self.truncated = 0
        self.total = self.taken = self.done = 0  # tokens
        self._tokens: list[Sequence[int]] = [()] * len(request.inputs)
        self._texts = [number for number, one in enumerate(request.inputs) if isinstance(one, str)]
        self._waiting: list[int] | None = None
        self._vectors: list[np.ndarray | None] = [None] * len(request.inputs)
        self._missing = len(request.inputs)
        for number, one in enumerate(request.inputs):
            if not isinstance(one, str):
                self.read(number, Tokens(list(one[:limit]), len(one)))

    def __repr__(self) -> str:
        return f"<Job {self.request.id} {self.done}/{self.total} tokens, {self._missing} inputs left>"

    @property
    def id(self) -> str:
        return self.request.id

    # --- texts to tokens -------------------------------------------------------------------------------------

    @property
    def unread(self) -> bool:
        """Whether there are texts without tokens."""
        return bool(self._texts)

    def next_texts(self, characters: int) -> list[int]:
        """The numbers of the inputs to read next, at least one, at most about so many characters."""
        chosen: list[int] = []
        while self._texts and (characters > 0 or not chosen):
            chosen.append(self._texts.pop())
            characters -= len(self.request.inputs[chosen[-1]])
        return chosen

    def read(self, number: int, tokens: Tokens) -> None:
        """An input's tokens. Raises EmptyPrompt, and ContextLengthExceeded where cutting was not asked for."""
        if not tokens.ids:
            raise EmptyPrompt("An input holds no token.", field="input")
        if tokens.whole > min(self.limit, len(tokens.ids)):
            if not self.request.truncate:
                raise ContextLengthExceeded(
                    f"This model takes inputs of {len(tokens.ids)} tokens at most; one has at least {tokens.whole}.",
                    field="input",
                    context_length=len(tokens.ids),
                    prompt_tokens=tokens.whole,
                )
            self.truncated += 1
        self._tokens[number] = tokens.ids
        self.total += len(tokens.ids)

    # --- tokens to vectors -----------------------------------------------------------------------------------

    @property
    def next_length(self) -> int:
        """Tokens of the input that is next; 0 where none is."""
        line = self._line
        return len(self._tokens[line[-1]]) if line else 0

    def take(self) -> Input:
        """The next input."""
        number = self._line.pop()
        self.taken += len(self._tokens[number])
        return Input(self, number, self._tokens[number])

    @property
    def waiting(self) -> int:
        """Tokens of inputs that are not taken yet."""
        return self.total - self.taken

    def put(self, number: int, vector: np.ndarray) -> None:
        """An input's vector."""
        self._vectors[number] = vector
        self._missing -= 1
        self.done += len(self._tokens[number])

    @property
    def complete(self) -> bool:
        return not self._missing

    def vectors(self) -> np.ndarray:
        """All vectors, (n, D), once they are complete."""
        return np.stack([vector for vector in self._vectors if vector is not None])

    def usage(self) -> Usage:
        """What has been processed."""
        return Usage(prompt_tokens=self.done)

    @property
    def _line(self) -> list[int]:
        if self._waiting is None:
            numbers = range(len(self._tokens))
            self._waiting = sorted(numbers, key=lambda number: len(self._tokens[number]))
        return self._waiting


class Input(NamedTuple):
    """One input of a job, in a pass."""

    job: Job
    number: int
    tokens: Sequence[int]


class Pass(NamedTuple):
    """Inputs that are computed together, by their lengths; without a `future` they are when their turn comes."""

    inputs: list[Input]
    future: Future[np.ndarray] | None


def share(jobs: Sequence[Job], budget: int) -> list[Input]:
    """The inputs of the next pass: one of each job in turn, again and again, while their tokens fit the budget.

    So a request of a thousand inputs leaves room in every pass for those of others. One input is always taken.
    """
    chosen: list[Input] = []
    left = budget
    turn = [job for job in jobs if job.next_length]
    while turn:
        for job in turn:
            if chosen and job.next_length > left:
                return chosen
            left -= job.next_length
            chosen.append(job.take())
        turn = [job for job in turn if job.next_length]
    return chosen
