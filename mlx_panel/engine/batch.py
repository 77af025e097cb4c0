"""Rows that decode together: one forward pass and one draw a step for all of them.

A step launches the next pass before anybody looks at the tokens of the last one: detokenising, stop strings and events
overlap with it. On a CPU tokens are drawn by numpy, so they are known when the next pass is launched, and rows that
end with them are not part of it; on a GPU they are not known yet, and a row that ends by its token runs a pass more.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from ..messages import FinishReason
from . import kv
from .lone import Lone
from .row import Row
from .sampling import Draw, RowLogprobs, RowSpec, sampler


class Ready(NamedTuple):
    """Rows whose prompts are in `caches`, but for the last token: batch caches if `batched`, else those of one row."""

    rows: list[Row]
    caches: list[Any]
    batched: bool

    def single(self, place: int) -> list[Any]:
        """The caches of one of its rows."""
        return kv.extract(self.caches, place) if self.batched else self.caches


class Token(NamedTuple):
    """A row's next token; `bad` when its distribution could not be used, the token means nothing then."""

    row: Row
    token: int
    finish: FinishReason | None
    bad: bool
    logprobs: RowLogprobs | None


class Batch:
    """The rows, their caches and the pass under way.

    `on_leave(row, caches)` is told of each row that leaves while its caches, those of its `position` first tokens, can
    still be had by calling `caches()`. With `lone`, a row that runs alone may guess its next tokens.
    """

    def __init__(
        self,
        model: Any,
        eos: frozenset[int],
        on_leave: Callable[[Row, Callable[[], list[Any]]], None],
        lone: Lone | None = None,
    ):
        self.rows: list[Row] = []
        self._model = model
        self._eos = eos
        self._on_leave = on_leave
        self._lone = lone
        self._caches: list[Any] = []
        self._batched = False
        self._sampler = sampler()
        self._draw: Draw | None = None
        self._places: list[int] = []  # of the rows in the draw
        self._launched = 0.0
        self._guesses = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<Batch {len(self)} rows, {kv.kv_dtype(self._caches)}, {self._sampler!r}>"

    @property
    def nbytes(self) -> int:
        return kv.nbytes(self._caches)

    @property
    def kv_dtype(self) -> str:
        return kv.kv_dtype(self._caches)

    def misfit(self, group: Ready) -> int:
        """Tokens of room that no row needs, were the group to join: a batch is as long as its longest row."""
        if not self.rows:
            return 0
        here, there = (max(row.position for row in rows) for rows in (self.rows, group.rows))
        return abs(here - there) * len(self.rows if here < there else group.rows)

    def step(self, ready: Sequence[Ready] = ()) -> list[Token]:
        """Take the tokens of the pass under way and launch the next one, with the rows of `ready` in it.

        Rows that end may still be here afterwards: `leave` is for them, once their last token is known to them.
        """
        draw, self._draw = self._draw, None
        if draw is None and self._guesses and len(self.rows) == 1 and not ready:
            return self._guess(self.rows[0])
        if draw is not None and draw.lazy:
            return self._go_on_unseen(draw, ready)
        tokens = self._look(draw, self.rows, self._places) if draw is not None else []
        self.leave([token.row for token in tokens if token.bad or token.finish])
        self._go_on(draw, ready)
        return tokens

    def leave(self, leaving: Sequence[Row]) -> None:
        """Take rows out, now. Rows that are not here do not matter."""
        gone = [place for place, row in enumerate(self.rows) if row in leaving]
        if not gone:
            return
        for place in gone:
            self._on_leave(self.rows[place], functools.partial(self._single, place))
        keep = kv.without(len(self.rows), gone)
        self._sampler.keep(keep)
        if keep:
            self._caches = kv.keep(self._caches, keep)
        else:
            self._caches, self._batched = [], False
            if self._lone is not None:
                self._lone.forget()
        self.rows = [self.rows[place] for place in keep]
        self._places = [self._places[place] for place in keep]

    # --- inside ----------------------------------------------------------------------------------------------

    def _go_on_unseen(self, draw: Draw, ready: Sequence[Ready]) -> list[Token]:
        """Launch the next pass, then look at the tokens it began with. Rows at their length are known not to go on."""
        rows, places = list(self.rows), list(self._places)
        self.leave([row for row in rows if row.room <= 1])
        self._go_on(draw, ready)
        return self._look(draw, rows, places)

    def _go_on(self, draw: Draw | None, ready: Sequence[Ready]) -> None:
        """Launch the next pass: the rows here with their tokens of `draw`, and those of `ready`."""
        inputs = [self._inputs(draw)] if self.rows else []
        for group in ready:
            self._join(group)
            inputs.append(mx.array([row.last_token for row in group.rows], dtype=mx.uint32))
        self._guesses = self._length()
        if inputs and not self._guesses:
            self._launch(mx.concatenate(inputs))

    def _inputs(self, draw: Draw | None) -> mx.array:
        if draw is None:
            return mx.array([row.last_token for row in self.rows], dtype=mx.uint32)
        return draw.inputs()[mx.array(self._places)].astype(mx.uint32)

    def _launch(self, inputs: mx.array) -> None:
        self._launched = time.perf_counter()
        logits = self._model(inputs[:, None], cache=self._caches)[:, -1, :]
        self._draw = self._sampler.begin(logits)
        self._places = list(range(len(self.rows)))
        for row in self.rows:
            row.position += 1

    def _look(self, draw: Draw, rows: Sequence[Row], places: Sequence[int]) -> list[Token]:
        taken = draw.take()
        if self._lone is not None and len(rows) == 1:
            self._lone.plain(rows[0], time.perf_counter() - self._launched)
        return [
            Token(
                row, token, self._finish(row, token, row.room), place in taken.bad, taken.logprobs.get(place)
            )
            for row, place in zip(rows, places, strict=True)
            for token in (int(taken.ids[place]),)
        ]

    def _finish(self, row: Row, token: int, room: int) -> FinishReason | None:
        if token in self._eos and not row.endless:
            return "stop"
        return "length" if room <= 1 else None

    def _length(self) -> int:
        """How many tokens the next pass guesses: none but for a lone row that wants nothing which guesses lack."""
        if self._lone is None or len(self.rows) != 1:
            return 0
        row = self.rows[0]
        if row.request.logprobs is not None or row.guide is not None or row.endless:
            return 0
        return self._lone.length(self.rows[0], self._caches)

    def _guess(self, row: Row) -> list[Token]:
        assert self._lone is not None
        tokens = self._lone.run(row, self._caches, self._sampler, self._guesses)
        row.position += len(tokens)
        told = [
            Token(row, token, self._finish(row, token, row.room - place), False, None)
            for place, token in enumerate(tokens)
        ]
        self._guesses = self._lone.length(row, self._caches) if told[-1].finish is None else 0
        return told

    def _join(self, group: Ready) -> None:
        if not self.rows:
            self._caches, self._batched = group.caches, group.batched
        else:
            more = group.caches if group.batched else kv.merge([group.caches])
            here = self._caches if self._batched else kv.merge([self._caches])
            self._caches, self._batched = kv.extend(here, more), True
        self.rows += group.rows
        # Their first token is drawn in the pass that is launched next.
        self._places += [-1] * len(group.rows)
        self._sampler.join(
            [
                RowSpec(row.sampling, row.prompt.tokens, row.answer, row.request.logprobs, row.guide)
                for row in group.rows
            ]
        )

    def _single(self, place: int) -> list[Any]:
        return kv.extract(self._caches, place) if self._batched else self._caches
