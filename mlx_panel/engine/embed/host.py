"""A BERT encoder on a CPU, in numpy: tokens of all inputs lie one after the other, so nothing is padded or masked.

mlx's operations on a CPU are slow outside matmul: its erf takes 34 ms for the 1024 × 1536 values of one layer, GELU as
it is done here 1 ms. numpy brings an OpenBLAS of its own, so matmul is as fast as mlx's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from .bert import Dense, Encoder, Layer, Norm
from .gelu import Gelu

Array = np.ndarray
# Attention scores that are held at once, and values an activation is computed of at once, to stay in the caches.
SCORES, VALUES = 1 << 22, 1 << 16
# Scores within these bounds need no shift: none overflows, and no row of them vanishes.
SAFE = 60.0
# Bytes of one intermediate result that is kept for the next pass.
KEPT = 32 << 20


class HostEncoder:
    """Token ids to the vectors of every token. `weights` become numpy arrays, float32. Safe to use from several threads."""

    def __init__(self, weights: Encoder):
        self.weights = weights.map(lambda array: np.array(array, dtype=np.float32))
        self._gelu = None if weights.activation == "relu" else Gelu(weights.activation)
        if self._gelu is not None:
            for layer in self.weights.layers:
                for array, factor in (
                    (layer.up.weight, self._gelu.before),
                    (layer.up.bias, self._gelu.before),
                    (layer.down.weight, self._gelu.after),
                ):
                    array *= factor
        self._own = threading.local()

    def __repr__(self) -> str:
        return f"<HostEncoder {len(self.weights.layers)} layers, {self.weights.dimensions} wide>"

    def hidden(self, inputs: Sequence[Sequence[int]]) -> Array:
        """The last layer's vectors of all tokens, (T, D) float32, input after input; inputs of a length go together best.

        What is returned is written over by the thread's next call.
        """
        weights = self.weights
        lengths = [len(tokens) for tokens in inputs]
        places = np.concatenate([np.arange(weights.offset, weights.offset + length) for length in lengths])
        hidden = self._room("hidden", sum(lengths), weights.dimensions)
        np.take(weights.words, np.concatenate([np.asarray(tokens) for tokens in inputs]), axis=0, out=hidden)
        hidden += weights.places[places]
        self._norm(hidden, weights.norm)
        groups = list(_groups(lengths))
        for layer in weights.layers:
            self._layer(hidden, layer, groups)
        return hidden

    def _layer(self, hidden: Array, layer: Layer, groups: list[tuple[int, int, int]]) -> None:
        """One layer, in place."""
        parts = self._dense("parts", hidden, layer.qkv)
        context = self._room("context", *hidden.shape)
        for start, count, length in groups:
            some = slice(start, start + count * length)
            self._attend(parts[some].reshape(count, length, 3, self.weights.heads, -1), context[some])
        hidden += self._dense("out", context, layer.out)
        self._norm(hidden, layer.attention_norm)
        inner = self._dense("inner", hidden, layer.up)
        self._activate(inner)
        hidden += self._dense("out", inner, layer.down)
        self._norm(hidden, layer.norm)

    def _attend(self, parts: Array, context: Array) -> None:
        """Attention of inputs of one length; `parts` (n, L, 3, H, d), `context` (n·L, H·d) takes the result.

        Scores have the keys before the queries: numpy is faster along an axis that is not the last.
        """
        count, length, _, heads, size = parts.shape
        queries, keys, values = (parts[:, :, part].swapaxes(1, 2) for part in range(3))
        result = context.reshape(count, length, heads, size).swapaxes(1, 2)
        step = max(1, SCORES // (count * length * length))
        for head in range(0, heads, step):
            some = slice(head, head + step)
            scores = keys[:, some] @ queries[:, some].swapaxes(-1, -2)
            if scores.max() > SAFE or scores.min() < -SAFE:
                scores -= scores.max(-2, keepdims=True)
            np.exp(scores, out=scores)
            np.matmul(scores.swapaxes(-1, -2), values[:, some], out=result[:, some])
            result[:, some] /= scores.sum(-2)[..., None]

    def _norm(self, rows: Array, norm: Norm) -> None:
        rows -= rows.mean(-1, keepdims=True)
        variance = np.einsum("ij,ij->i", rows, rows) / rows.shape[1]
        rows *= (1.0 / np.sqrt(variance + self.weights.epsilon))[:, None]
        rows *= norm.weight
        rows += norm.bias

    def _activate(self, inner: Array) -> None:
        if self._gelu is None:
            np.maximum(inner, 0, out=inner)
            return
        step = max(1, VALUES // inner.shape[1])
        one, other = (self._room(name, step, inner.shape[1]) for name in ("one", "other"))
        for start in range(0, len(inner), step):
            some = inner[start : start + step]
            self._gelu(some, one[: len(some)], other[: len(some)])

    def _dense(self, name: str, rows: Array, dense: Dense) -> Array:
        result = self._room(name, len(rows), dense.weight.shape[1])
        np.matmul(rows, dense.weight, out=result)
        result += dense.bias
        return result

    def _room(self, name: str, rows: int, width: int) -> Array:
        """Memory for an intermediate result, this thread's own: fresh memory costs a page fault every 4 KB."""
        kept: dict[str, Array] = self._own.__dict__
        room = kept.get(name)
        if room is None or room.size < rows * width:
            room = np.empty(rows * width, np.float32)
            if room.nbytes <= KEPT:
                kept[name] = room
        return room[: rows * width].reshape(rows, width)


def _groups(lengths: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(first token, inputs, tokens of each) of neighbours with one length."""
    start = first = 0
    for number in range(1, len(lengths) + 1):
        if number == len(lengths) or lengths[number] != lengths[first]:
            yield start, number - first, lengths[first]
            start += (number - first) * lengths[first]
            first = number
