"""Vectors of tokens to one vector a text, as sentence-transformers' modules define it, in numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from ...errors import ModelLoadFailed
from .recipe import Pooling, Recipe, read_json

Array = np.ndarray
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"Identity": lambda values: values, "Tanh": np.tanh}


def pool(hidden: Array, lengths: Sequence[int], modes: Sequence[Pooling]) -> Array:
    """(T, D) vectors of the tokens of all inputs, one after the other, to (n, D · modes)."""
    starts = np.cumsum([0, *lengths[:-1]])
    return np.concatenate([_pooled(hidden, starts, np.asarray(lengths), mode) for mode in modes], axis=1)


def _pooled(hidden: Array, starts: Array, lengths: Array, mode: Pooling) -> Array:
    if mode == "cls":
        return hidden[starts]
    if mode == "lasttoken":
        return hidden[starts + lengths - 1]
    if mode == "max":
        return np.maximum.reduceat(hidden, starts, axis=0)
    counts = lengths[:, None].astype(np.float32)
    if mode == "weightedmean":
        weights = np.concatenate([np.arange(1, length + 1, dtype=np.float32) for length in lengths])
        return np.add.reduceat(hidden * weights[:, None], starts, axis=0) / (counts * (counts + 1) / 2)
    return np.add.reduceat(hidden, starts, axis=0) / (counts if mode == "mean" else np.sqrt(counts))


class Finish:
    """What follows the pooling: the recipe's dense layers and its normalisation."""

    def __init__(self, folder: Path, recipe: Recipe):
        self._normalize = recipe.normalize
        self._layers = [_dense(folder / name) for name in recipe.dense]

    def __repr__(self) -> str:
        return f"<Finish {len(self._layers)} dense, {'' if self._normalize else 'not '}normalised>"

    def __call__(self, pooled: Array) -> Array:
        """(n, D) to (n, D'), float32."""
        for weight, bias, activation in self._layers:
            pooled = ACTIVATIONS[activation](pooled @ weight + bias)
        return normalized(pooled) if self._normalize else pooled

    def dimensions(self, width: int) -> int:
        """The length of a vector that had `width` values before."""
        return int(self._layers[-1][0].shape[1]) if self._layers else width


def normalized(vectors: Array) -> Array:
    """Rows of length 1; one of zeros stays so."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)


def _dense(folder: Path) -> tuple[Array, Array, str]:
    said = read_json(folder / "config.json")
    activation = str(said.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise ModelLoadFailed(f"{folder.name} has an activation that is not supported: {activation}")
    tensors = _tensors(folder / "model.safetensors")
    weight = tensors["linear.weight"].T
    return weight, tensors.get("linear.bias", np.zeros(weight.shape[1], np.float32)), activation


def _tensors(file: Path) -> dict[str, Array]:
    if not file.is_file():
        raise ModelLoadFailed(f"{file.parent.name} has no model.safetensors")
    loaded = mx.load(str(file))
    return {name: np.array(array.astype(mx.float32)) for name, array in loaded.items()}  # type: ignore[union-attr]
