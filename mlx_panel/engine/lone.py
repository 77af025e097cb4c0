"""A lone answer that guesses ahead: when, how far, and what became of it. `speculate.py` holds the method."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import mlx.core as mx

from ..tuning import EngineOptions
from . import kv
from .gain import Gain
from .row import Row
from .sampling import Sampler
from .speculate import Drafter, ModelDrafter, NgramDrafter, Pass, SpeculativeStep


class Lone:
    """Speculative decoding for the one row that runs, as long as it pays. `drafted` and `accepted` count tokens."""

    def __init__(self, model: Any, eos: Collection[int], options: EngineOptions, draft: Any, vocab_size: int):
        self.options = options
        self.gain = Gain()
        self.drafted = self.accepted = 0
        self._model, self._eos, self._draft, self._vocab_size = model, eos, draft, vocab_size
        self._row: Row | None = None
        self._drafter: Drafter | None = None

    def __repr__(self) -> str:
        return f"<Lone {self.options.speculation}, {self.accepted} of {self.drafted} right, {self.gain!r}>"

    def length(self, row: Row, caches: list[Any]) -> int:
        """How many tokens to guess for the row's next pass; 0 is plain decoding."""
        if self.options.speculation == "off" or row.room < 2 or not kv.revocable(caches):
            return 0
        if self._row is not row:
            self.forget()
            self._row, self._drafter = row, self._new_drafter()
            self.gain.restart()
        return self.gain.length() if self._drafter is not None else 0

    def plain(self, row: Row, seconds: float) -> None:
        """A pass without guesses took so long."""
        if row is self._row:
            self.gain.record(0, 1, seconds)

    def run(self, row: Row, caches: list[Any], sampler: Sampler, length: int) -> list[int]:
        """One pass with up to `length` guesses; its tokens, at most as many as the row has room for."""
        assert self._drafter is not None

        def choose(logits: mx.array) -> int:
            taken = sampler.begin(logits[None]).take()
            if taken.bad:
                raise FloatingPointError("the model's output is not a number")
            return taken.ids[0]

        # Catching up, with a whole prompt at first, is not what a guess costs.
        self._drafter.draft(row.tokens(), 0)
        began = time.perf_counter()
        step = SpeculativeStep(self._model, caches, self._drafter, choose, self._eos)
        done: Pass = step(row.tokens(), length, row.room)
        self.gain.record(done.drafted, len(done.tokens), time.perf_counter() - began)
        self.drafted += done.drafted
        self.accepted += done.accepted
        return done.tokens

    def forget(self) -> None:
        """The row is gone, or not alone any more."""
        if self._drafter is not None:
            self._drafter.close()
        self._row = self._drafter = None

    def _new_drafter(self) -> Drafter | None:
        if self.options.speculation == "ngram":
            return NgramDrafter()
        return ModelDrafter(self._draft, self._vocab_size) if self._draft is not None else None
