"""The weights of a BERT or RoBERTa encoder out of a folder, as arrays of either kind: numpy's or mlx's.

Devlin et al., "BERT" (arXiv 1810.04805); Liu et al., "RoBERTa" (arXiv 1907.11692). Names are those of transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from ...errors import ModelLoadFailed
from .recipe import offset_of

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
ANCHOR = "embeddings.word_embeddings.weight"


class Norm(NamedTuple):
    """A layer norm's scale and shift, (D,) each."""

    weight: Any
    bias: Any


class Dense(NamedTuple):
    """A linear layer, x @ weight + bias: (in, out) and (out,)."""

    weight: Any
    bias: Any


class Layer(NamedTuple):
    """One layer. `qkv` has query, key and value side by side; the query is scaled by head_size ** -0.5 already."""

    qkv: Dense
    out: Dense
    attention_norm: Norm
    up: Dense
    down: Dense
    norm: Norm


class Encoder(NamedTuple):
    """An encoder's weights, float32. `places` (P, D) are positions plus token type 0; row `offset` is the first token's."""

    words: Any
    places: Any
    norm: Norm
    layers: tuple[Layer, ...]
    heads: int
    epsilon: float
    activation: str
    offset: int

    @property
    def dimensions(self) -> int:
        """The length of a token's vector."""
        return int(self.words.shape[1])

    def arrays(self) -> Iterator[Any]:
        """Every array once."""
        yield from (self.words, self.places, *self.norm)
        for layer in self.layers:
            yield from (array for part in layer for array in part)

    def map(self, change: Callable[[Any], Any]) -> Encoder:
        """The same with every array changed."""

        def changed(part: Any) -> Any:
            return type(part)(*map(change, part))

        return self._replace(
            words=change(self.words),
            places=change(self.places),
            norm=changed(self.norm),
            layers=tuple(Layer(*map(changed, layer)) for layer in self.layers),
        )


def load(folder: Path, config: dict[str, Any]) -> Encoder:
    """An encoder of mlx arrays, float32. Raises ModelLoadFailed for a variant that is not ours, KeyError for a missing weight."""
    activation = str(config.get("hidden_act", "gelu"))
    if activation not in ACTIVATIONS:
        raise ModelLoadFailed(f"its activation is not supported: {activation}")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ModelLoadFailed(f"its positions are not supported: {config['position_embedding_type']}")
    weights = _Weights(_read(folder, config))
    heads = int(config["num_attention_heads"])
    scale = (int(config["hidden_size"]) // heads) ** -0.5
    types = weights["embeddings.token_type_embeddings.weight"][0]
    return Encoder(
        words=weights[ANCHOR],
        places=weights["embeddings.position_embeddings.weight"] + types,
        norm=weights.norm("embeddings.LayerNorm"),
        layers=tuple(weights.layer(number, scale) for number in range(int(config["num_hidden_layers"]))),
        heads=heads,
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        activation=activation,
        offset=offset_of(config),
    )


class _Weights:
    """A folder's tensors by the names they have inside the encoder."""

    def __init__(self, tensors: dict[str, mx.array]):
        self._tensors = tensors
        self._prefix = next((name.removesuffix(ANCHOR) for name in tensors if name.endswith(ANCHOR)), "")

    def __getitem__(self, name: str) -> mx.array:
        return self._tensors[self._prefix + name]

    def norm(self, name: str) -> Norm:
        return Norm(self[f"{name}.weight"], self[f"{name}.bias"])

    def dense(self, name: str) -> Dense:
        return Dense(self[f"{name}.weight"].T, self[f"{name}.bias"])

    def layer(self, number: int, scale: float) -> Layer:
        name = f"encoder.layer.{number}"
        query, key, value = (
            self.dense(f"{name}.attention.self.{part}") for part in ("query", "key", "value")
        )
        return Layer(
            qkv=Dense(
                mx.concatenate([query.weight * scale, key.weight, value.weight], axis=1),
                mx.concatenate([query.bias * scale, key.bias, value.bias]),
            ),
            out=self.dense(f"{name}.attention.output.dense"),
            attention_norm=self.norm(f"{name}.attention.output.LayerNorm"),
            up=self.dense(f"{name}.intermediate.dense"),
            down=self.dense(f"{name}.output.dense"),
            norm=self.norm(f"{name}.output.LayerNorm"),
        )


def _read(folder: Path, config: dict[str, Any]) -> dict[str, mx.array]:
    """Every tensor as float32; quantised ones are unpacked, as these models are small."""
    tensors: dict[str, mx.array] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        loaded: Any = mx.load(str(file))
        tensors |= {_modern(name): array for name, array in loaded.items()}
    form = config.get("quantization") or {}
    for name in [name for name in tensors if name.endswith(".scales")]:
        stem = name.removesuffix(".scales")
        packed = (tensors[f"{stem}.weight"], tensors.pop(name), tensors.pop(f"{stem}.biases", None))
        tensors[f"{stem}.weight"] = mx.dequantize(*packed, group_size=form["group_size"], bits=form["bits"])
    return {name: array.astype(mx.float32) for name, array in tensors.items() if "position_ids" not in name}


def _modern(name: str) -> str:
    """Old checkpoints call a layer norm's scale and shift gamma and beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
