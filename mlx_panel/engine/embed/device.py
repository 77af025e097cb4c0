"""A BERT encoder in mlx, for a GPU: inputs are padded to the longest of a pass, and the padding is masked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import mlx.core as mx
import numpy as np

from .bert import Dense, Encoder, Layer, Norm

HIDDEN = {
    "gelu": lambda x: x * (1 + mx.erf(x * 2**-0.5)) / 2,
    "gelu_new": lambda x: x * (1 + mx.tanh(0.7978845608 * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: mx.maximum(x, 0),
}
HIDDEN["gelu_pytorch_tanh"] = HIDDEN["gelu_new"]


class DeviceEncoder:
    """Token ids to the vectors of every token. `weights` are mlx arrays, float32: these models are small."""

    def __init__(self, weights: Encoder):
        self.weights = weights
        mx.eval(list(weights.arrays()))

    def __repr__(self) -> str:
        return f"<DeviceEncoder {len(self.weights.layers)} layers, {self.weights.dimensions} wide>"

    def hidden(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        """The last layer's vectors of all tokens, (T, D) float32, input after input."""
        return alike(inputs, self._hidden)

    def _hidden(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        tokens, present = padded(inputs)
        weights = self.weights
        places = weights.places[weights.offset : weights.offset + tokens.shape[1]]
        hidden = self._norm(weights.words[mx.array(tokens)] + places, weights.norm)
        mask = None if present.all() else mx.array(present)[:, None, None, :]
        for layer in weights.layers:
            hidden = self._layer(hidden, layer, mask)
        return np.array(hidden)[present]

    def _layer(self, hidden: mx.array, layer: Layer, mask: mx.array | None) -> mx.array:
        rows, length, width = hidden.shape
        parts = (
            _dense(hidden, layer.qkv)
            .reshape(rows, length, 3, self.weights.heads, -1)
            .transpose(2, 0, 3, 1, 4)
        )
        # The queries are scaled by their weights.
        context = mx.fast.scaled_dot_product_attention(parts[0], parts[1], parts[2], scale=1.0, mask=mask)
        context = context.swapaxes(1, 2).reshape(rows, length, width)
        hidden = self._norm(_dense(context, layer.out) + hidden, layer.attention_norm)
        inner = HIDDEN[self.weights.activation](_dense(hidden, layer.up))
        return self._norm(_dense(inner, layer.down) + hidden, layer.norm)

    def _norm(self, rows: mx.array, norm: Norm) -> mx.array:
        return mx.fast.layer_norm(rows, norm.weight, norm.bias, self.weights.epsilon)


def alike(
    inputs: Sequence[Sequence[int]], work: Callable[[Sequence[Sequence[int]]], np.ndarray]
) -> np.ndarray:
    """Work on neighbours of about the same length together, so that little is padded; the rows of all results."""
    edges, shortest = [0], len(inputs[0])
    for number, tokens in enumerate(inputs):
        if len(tokens) > 2 * shortest:
            edges.append(number)
            shortest = len(tokens)
    return np.concatenate([work(inputs[a:b]) for a, b in pairwise([*edges, len(inputs)])])


def padded(inputs: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids padded at the end with 0, and where there is no padding: (n, L) int32 and bool."""
    lengths = np.array([len(tokens) for tokens in inputs])
    present = np.arange(lengths.max()) < lengths[:, None]
    tokens = np.zeros(present.shape, np.int32)
    tokens[present] = np.concatenate([np.asarray(one) for one in inputs])
    return tokens, present


def _dense(rows: mx.array, dense: Dense) -> mx.array:
    return mx.addmm(dense.bias, rows, dense.weight)
