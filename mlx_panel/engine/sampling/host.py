"""The sampler for a CPU: numpy on the logits where they lie.

Measured on a CPU, numpy's exp, argmax and sums are 10 to 30 times as fast as mlx's, and a view of mlx's logits is free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from . import pick
from .contract import RowLogprobs, RowSpec, Taken
from .led import Led, Spread, kept
from .penalties import Edit, Penalties
from .streams import Streams

# Up to so many rows, all greedy: mlx's argmax lets the next forward pass be launched before this one is done. A step
# of a model of two layers was up to a tenth shorter with 1 to 4 rows, a tenth longer with 8: numpy's argmax is faster.
LAZY = 4
# More than any vocabulary has; a `top_k` beyond it means the same.
MANY = 1 << 31


class _Group(NamedTuple):
    """Rows drawn in one way. `rows` counts the batch's rows; `at` finds them in the batch, or among the edited rows."""

    method: Callable[..., pick.Picked]
    edited: bool
    rows: NDArray[np.intp]
    at: NDArray[np.intp]
    shape: pick.Shape


class _Guided(NamedTuple):
    """A row that follows a guide; `slot` counts the edited rows."""

    row: int
    slot: int
    led: Led


class _Plan(NamedTuple):
    """What a draw has to do; never changed, so a draw keeps the one it was begun with."""

    rows: int = 0
    groups: tuple[_Group, ...] = ()
    edited: NDArray[np.intp] = np.zeros(0, np.intp)
    serials: NDArray[np.int64] = np.zeros(0, np.int64)
    asked: tuple[tuple[int, int], ...] = ()
    guided: tuple[_Guided, ...] = ()

    @property
    def lazy(self) -> bool:
        return self.rows <= LAZY and all(
            group.method is pick.greedy and not group.edited for group in self.groups
        )


class HostSampler:
    """Draws on the CPU. See `contract.Sampler`; `inputs()` of its draws waits for the logits, save a few greedy rows'."""

    def __init__(self) -> None:
        self._specs: list[RowSpec] = []
        self._led: list[Led | None] = []
        self._serials: list[int] = []
        self._joined = 0
        self._streams = Streams()
        self._penalties = Penalties()
        self._plan = _Plan()
        self._scratch = pick.Scratch(0)
        self._spread = Spread()
        self._open: HostDraw | None = None

    def __len__(self) -> int:
        return len(self._specs)

    def __repr__(self) -> str:
        groups = [f"{len(group.rows)} {group.method.__name__}" for group in self._plan.groups]
        return f"<HostSampler {', '.join(groups) or 'empty'}; {len(self._penalties)} edited>"

    def join(self, rows: Sequence[RowSpec]) -> None:
        self._streams.join(rows)
        serials = range(self._joined, self._joined + len(rows))
        self._joined += len(rows)
        self._specs += rows
        self._led += [None if spec.guide is None else Led(spec.guide) for spec in rows]
        self._serials += serials
        self._penalties.join(
            [(serial, spec) for serial, spec in zip(serials, rows, strict=True) if spec.edits]
        )
        self._plan = self._planned()

    def keep(self, rows: Sequence[int]) -> None:
        self._specs = [self._specs[row] for row in rows]
        self._led = kept(self._led, rows)
        self._serials = [self._serials[row] for row in rows]
        self._streams.keep(rows)
        self._penalties.keep(np.array(self._serials, np.int64))
        self._plan = self._planned()

    def begin(self, logits: mx.array) -> HostDraw:
        if self._open is not None:
            # Its tokens count for this draw's penalties and guides.
            self._open.settle()
        plan = self._plan
        uniforms = self._streams.draw()
        edit = self._penalties.edit() if plan.edited.size else None
        if logits.shape[-1] != self._scratch.vocab:
            self._scratch = pick.Scratch(logits.shape[-1])
        draw = HostDraw(logits, plan, uniforms, self._scratch, edit, self._penalties, self._spread)
        self._open = draw if edit is not None else None
        return draw

    def _planned(self) -> _Plan:
        members: dict[_Kind, list[int]] = {}
        for row, spec in enumerate(self._specs):
            members.setdefault(_kind(spec), []).append(row)
        # In the order in which they joined, which is that of the penalties: rows that leave change the batch's.
        chosen = [row for row, spec in enumerate(self._specs) if spec.edits]
        slots = {row: slot for slot, row in enumerate(sorted(chosen, key=self._serials.__getitem__))}
        edited = np.array(list(slots), np.intp)
        groups = tuple(_group(kind, rows, slots, self._specs) for kind, rows in members.items())
        asked = tuple(
            (row, spec.logprobs) for row, spec in enumerate(self._specs) if spec.logprobs is not None
        )
        guided = tuple(_Guided(row, slots[row], led) for row, led in enumerate(self._led) if led is not None)
        return _Plan(len(self), groups, edited, np.array(self._serials, np.int64)[edited], asked, guided)


class _Kind(NamedTuple):
    """How a row is drawn, and what else sets it apart: rows alike share the exponentials they need."""

    method: Callable[..., pick.Picked]
    edited: bool
    nucleus: bool = False
    unit: bool = False


def _kind(spec: RowSpec) -> _Kind:
    if spec.greedy:
        return _Kind(pick.greedy, spec.edits)
    method = pick.likeliest if spec.sampling.top_k else pick.open_ended
    return _Kind(method, spec.edits, spec.sampling.top_p < 1, spec.sampling.temperature == 1)


def _group(kind: _Kind, rows: list[int], slots: Mapping[int, int], specs: Sequence[RowSpec]) -> _Group:
    if kind.edited:
        rows = sorted(rows, key=slots.__getitem__)
    chosen = np.array(rows, np.intp)
    at = np.array([slots[row] for row in rows], np.intp) if kind.edited else chosen
    return _Group(kind.method, kind.edited, chosen, at, shape([specs[row] for row in rows]))


def shape(specs: Sequence[RowSpec]) -> pick.Shape:
    """The rows' parameters as columns. A tiny `inverse` would make NaN of a logit of -inf."""
    samplings = [spec.sampling for spec in specs]
    with np.errstate(divide="ignore"):
        least = np.log(np.array([sampling.min_p for sampling in samplings], np.float32))
    return pick.Shape(
        np.array([max(1 / (s.temperature or 1), 1e-30) for s in samplings], np.float32),
        np.array([s.top_p for s in samplings], np.float64),
        np.array([min(s.top_k, MANY) for s in samplings], np.intp),
        least,
    )


class HostDraw:
    """See `contract.Draw`. The tokens are drawn when they are first asked for."""

    def __init__(
        self,
        logits: mx.array,
        plan: _Plan,
        uniforms: NDArray[np.float64],
        scratch: pick.Scratch,
        edit: Edit | None,
        penalties: Penalties,
        spread: Spread,
    ):
        self._logits = _readable(logits)
        self._plan = plan
        self._uniforms = uniforms
        self._scratch = scratch
        self._edit = edit
        self._penalties = penalties
        self._spread = spread
        self._picked: pick.Picked | None = None
        self._inputs: mx.array | None = mx.argmax(logits, axis=-1) if plan.lazy else None
        mx.async_eval(self._logits if self._inputs is None else [self._logits, self._inputs])
        # The guides work while the logits are computed.
        self._masks = [guided.led.mask() for guided in plan.guided]

    def __repr__(self) -> str:
        return f"<HostDraw {self._plan.rows} rows, {'open' if self._picked is None else 'drawn'}>"

    @property
    def lazy(self) -> bool:
        """Whether `inputs()` comes before the tokens are known."""
        return self._plan.lazy

    def inputs(self) -> mx.array:
        if self._inputs is None:
            self._inputs = mx.array(self.settle().ids.astype(np.uint32))
        return self._inputs

    def take(self) -> Taken:
        picked = self.settle()
        return Taken(picked.ids.tolist(), np.flatnonzero(picked.bad).tolist(), self._logprobs(picked))

    def settle(self) -> pick.Picked:
        """Draw, unless that has been done."""
        if self._picked is None:
            with np.errstate(all="ignore"):
                self._picked = self._pick(_as_float32(_view(self._logits)))
            if self._edit is not None:
                tokens = self._picked.ids[self._plan.edited]
                self._penalties.record(self._plan.serials, tokens)
            for row, _, led in self._plan.guided:
                if not self._picked.bad[row]:
                    led.accept(int(self._picked.ids[row]))
        return self._picked

    def _pick(self, logits: NDArray[np.float32]) -> pick.Picked:
        plan = self._plan
        if plan.lazy:
            return _checked(logits, _view(self.inputs()))
        edited = logits if self._edit is None else self._edited(self._edit, logits)
        ids, bad = np.zeros(plan.rows, np.intp), np.zeros(plan.rows, bool)
        for group in plan.groups:
            source = edited if group.edited else logits
            for start in range(0, len(group.rows), self._scratch.rows):
                part = slice(start, start + self._scratch.rows)
                rows = group.rows[part]
                ids[rows], bad[rows] = self._chunk(group, source, part)
        ids[bad] = 0
        return pick.Picked(ids, bad)

    def _edited(self, edit: Edit, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The edited rows, as they are drawn from."""
        edited: NDArray[np.float32] = logits[self._plan.edited]
        edit.apply(edited)
        for (_, slot, _), mask in zip(self._plan.guided, self._masks, strict=True):
            if mask is not None:
                self._spread(edited[slot], mask)
        return edited

    def _chunk(self, group: _Group, source: NDArray[np.float32], part: slice) -> pick.Picked:
        logits = _rows(source, group.at[part])
        if group.method is pick.greedy:
            return pick.greedy(logits)
        return group.method(logits, group.shape.part(part), self._uniforms[group.rows[part]], self._scratch)

    def _logprobs(self, picked: pick.Picked) -> dict[int, RowLogprobs]:
        asked = [(row, wanted) for row, wanted in self._plan.asked if not picked.bad[row]]
        told: dict[int, RowLogprobs] = {}
        for start in range(0, len(asked), self._scratch.rows):
            part = asked[start : start + self._scratch.rows]
            rows = [row for row, _ in part]
            logits = _as_float32(_view(self._logits)[rows])
            told |= zip(rows, logprobs(logits, picked.ids[rows], part, self._scratch), strict=True)
        return told


def logprobs(
    logits: NDArray[np.float32],
    ids: NDArray[np.intp],
    asked: Sequence[tuple[int, int]],
    scratch: pick.Scratch,
) -> list[RowLogprobs]:
    """Log-softmax of the drawn tokens and, for each row, of as many of the likeliest as it asked for."""
    top = logits.max(-1)
    total = top + np.log(pick.mass(logits, top, scratch))
    own = (logits[np.arange(len(ids)), ids] - total).tolist()
    most = np.array([wanted for _, wanted in asked])
    if not most.any():
        return [RowLogprobs(value) for value in own]
    likely, scores = pick.likeliest_of(logits, np.maximum(most, 1), np.full_like(top, -np.inf))
    order = np.argsort(-scores, axis=-1, kind="stable")
    tokens = np.take_along_axis(likely, order, axis=-1).tolist()
    values = (np.take_along_axis(scores, order, axis=-1) - total[:, None]).tolist()
    return [RowLogprobs.of(*told) for told in zip(own, tokens, values, most.tolist(), strict=True)]


def _readable(logits: mx.array) -> mx.array:
    """The logits as an array that numpy can look at: bfloat16 as its bits, which are a float32's upper half."""
    if logits.dtype == mx.bfloat16:
        return logits.view(mx.uint16)
    return logits.astype(mx.float32)


def _view(array: mx.array) -> NDArray[Any]:
    """The array as numpy's, where it lies; waits for it."""
    return np.array(array, copy=False)


def _as_float32(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Logits of `_readable` as float32: themselves where they are."""
    if logits.dtype == np.uint16:
        bits: NDArray[np.uint32] = np.left_shift(logits, 16, dtype=np.uint32)
        return bits.view(np.float32)
    return logits


def _checked(logits: NDArray[np.float32], ids: NDArray[Any]) -> pick.Picked:
    """The tokens that mlx has drawn, but 0 for rows that have no largest logit."""
    bad = ~np.isfinite(logits.max(-1))
    return pick.Picked(np.where(bad, 0, ids.astype(np.intp)), bad)


def _rows(array: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """These rows (ascending); neighbours are not copied."""
    first, last = int(rows[0]), int(rows[-1])
    return array[first : last + 1] if last - first + 1 == len(rows) else array[rows]
