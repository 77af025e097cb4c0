"""The next token of every row at once: one pass over the batch, each row with its own `Sampling`.

mlx-lm samples row by row unless all rows share one sampler object, and compiles a kernel anew for every temperature
and batch size, which on a CPU stops everything for a second. Here parameters are arrays, and nothing is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from ..errors import InvalidParameter
from ..messages import Sampling

# Below this, half precision overflows in logits / temperature; the most likely token wins there anyway.
GREEDY_BELOW = 1e-3
# On a CPU `top_p` is sought among so many most likely tokens first: sorting a whole vocabulary costs more than a small
# model's step. On a GPU mlx's partition is a sort, so there the whole vocabulary is sorted once.
CANDIDATES = 1024


def check(sampling: Sampling) -> None:
    """Raise InvalidParameter for a value out of range."""
    ranges = {
        "temperature": 0 <= sampling.temperature < float("inf"),
        "top_p": 0 < sampling.top_p <= 1,
        "top_k": sampling.top_k >= 0,
        "min_p": 0 <= sampling.min_p <= 1,
    }
    wrong = next((field for field, right in ranges.items() if not right), None)
    if wrong is not None:
        raise InvalidParameter(f"{wrong} is out of range.", field=wrong)


class _Group(NamedTuple):
    """Rows that are sampled in the same way, and their parameters as columns."""

    pick: Callable[[mx.array, _Group], mx.array]
    rows: mx.array
    temperature: mx.array
    top_p: mx.array
    top_k: mx.array
    min_p: mx.array
    width: int
    open_end: bool


class BatchSampler:
    """Chooses the next tokens of a batch whose rows are sampled as `samplings` say, in that order.

    As in mlx-lm, `top_p`, `top_k` and `min_p` look at the model's own probabilities, and the temperature shapes what
    they leave. `top_p` 1, `top_k` 0 and `min_p` 0 are off; a temperature under 0.001 is greedy.
    """

    def __init__(self, samplings: Sequence[Sampling]):
        kinds = [_kind(sampling) for sampling in samplings]
        self._greedy = None in kinds or not kinds
        self._groups = [
            _group(pick, [n for n, kind in enumerate(kinds) if kind is pick], samplings)
            for pick in (_pick_any, _pick_likely)
            if pick in kinds
        ]

    def __repr__(self) -> str:
        kinds = [group.pick.__name__.removeprefix("_pick_") for group in self._groups]
        return f"<BatchSampler {' '.join(['greedy'] * self._greedy + kinds)}>"

    def __call__(self, logits: mx.array) -> mx.array:
        """Tokens, one for each row of `logits` (rows, vocabulary)."""
        if len(self._groups) == 1 and not self._greedy:
            return self._groups[0].pick(logits.astype(mx.float32), self._groups[0])
        tokens = mx.argmax(logits, axis=-1)
        for group in self._groups:
            tokens[group.rows] = group.pick(logits[group.rows].astype(mx.float32), group)
        return tokens


def _kind(sampling: Sampling) -> Callable[[mx.array, _Group], mx.array] | None:
    if sampling.temperature < GREEDY_BELOW or sampling.top_k == 1:
        return None
    return _pick_likely if sampling.top_p < 1 or sampling.top_k else _pick_any


def _group(
    pick: Callable[[mx.array, _Group], mx.array], rows: list[int], samplings: Sequence[Sampling]
) -> _Group:
    chosen = [samplings[row] for row in rows]

    def column(values: list[float]) -> mx.array:
        return mx.array(values)[:, None]

    return _Group(
        pick,
        mx.array(rows),
        column([sampling.temperature for sampling in chosen]),
        column([sampling.top_p if sampling.top_p < 1 else float("inf") for sampling in chosen]),
        column([sampling.top_k or float("inf") for sampling in chosen]),
        mx.log(column([sampling.min_p for sampling in chosen])),
        max(CANDIDATES, *(sampling.top_k for sampling in chosen)),
        any(sampling.top_p < 1 and not sampling.top_k for sampling in chosen),
    )


def _pick_any(logits: mx.array, group: _Group) -> mx.array:
    """From the whole vocabulary, what `min_p` leaves of it."""
    floor = mx.max(logits, axis=-1, keepdims=True) + group.min_p
    return mx.random.categorical(mx.where(logits < floor, -mx.inf, logits / group.temperature))


def _pick_likely(logits: mx.array, group: _Group) -> mx.array:
    """From the most likely tokens, sorted, what `top_p`, `top_k` and `min_p` leave of them."""
    width = logits.shape[-1] if _sorts_whole() else min(group.width, logits.shape[-1])
    tokens, beyond = _pick_among(logits, group, width)
    if width == logits.shape[-1] or not group.open_end:
        return tokens
    # The one wait for a figure in a step, and only on a CPU.
    flags: Any = beyond.tolist()
    rows = [row for row, needs_more in enumerate(flags) if needs_more]
    if rows:
        some = mx.array(rows)
        tokens[some], _ = _pick_among(logits[some], _only(group, some), logits.shape[-1])
    return tokens


def _pick_among(logits: mx.array, group: _Group, width: int) -> tuple[mx.array, mx.array]:
    """Tokens from the `width` most likely ones, and for each row whether less likely ones were to be drawn too."""
    likely = _candidates(logits, width)
    scores = mx.take_along_axis(logits, likely, axis=-1)
    chances = mx.exp(scores - mx.logsumexp(logits, axis=-1, keepdims=True))
    mass_before = mx.cumsum(chances, axis=-1, inclusive=False)
    keep = (mass_before < group.top_p) & (mx.arange(width) < group.top_k)
    keep = keep & (scores >= scores[:, :1] + group.min_p)
    choice = mx.random.categorical(mx.where(keep, scores / group.temperature, -mx.inf))
    full = mass_before[:, -1:] + chances[:, -1:] >= group.top_p
    beyond = keep[:, -1:] & ~full & (group.top_k > width)
    return mx.take_along_axis(likely, choice[:, None], axis=-1)[:, 0], beyond[:, 0]


def _sorts_whole() -> bool:
    return mx.default_device().type != mx.DeviceType.cpu


def _only(group: _Group, rows: mx.array) -> _Group:
    columns = {name: getattr(group, name)[rows] for name in ("temperature", "top_p", "top_k", "min_p")}
    return group._replace(**columns)


def _candidates(logits: mx.array, width: int) -> mx.array:
    """The ids of the `width` most likely tokens of each row, the most likely first."""
    if width >= logits.shape[-1]:
        return mx.argsort(-logits, axis=-1)
    some = mx.argpartition(-logits, kth=width - 1, axis=-1)[:, :width]
    order = mx.argsort(-mx.take_along_axis(logits, some, axis=-1), axis=-1)
    return mx.take_along_axis(some, order, axis=-1)
