"""A decoder as an embedding model: mlx-lm's classes without the head; a text's vector is that of its last token.

Attention is causal, so what pads an input at its end changes nothing before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ...errors import ModelLoadFailed
from ..reading import Progress, read, silent
from .device import alike, padded
from .threads import Threads

HALF = (mx.float16, mx.bfloat16)


class Decoder:
    """Token ids to the vectors of last tokens. `model` is the backbone, an mlx module: ids (n, L) to (n, L, D)."""

    threads: Threads | None = None

    def __init__(self, model: Any, dimensions: int):
        self.model = model
        self.dimensions = dimensions

    def __repr__(self) -> str:
        return f"<Decoder {type(self.model).__name__}, {self.dimensions} wide>"

    def vectors(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        """(n, D) float32."""
        return alike(inputs, self._vectors)

    def _vectors(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        tokens, _ = padded(inputs)
        last = mx.array([len(one) - 1 for one in inputs])
        hidden = self.model(mx.array(tokens))
        chosen = mx.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
        return np.array(chosen.astype(mx.float32))

    def arrays(self) -> list[mx.array]:
        leaves: Any = tree_flatten(self.model.parameters())
        return [array for _, array in leaves]

    def close(self) -> None:
        """It has no threads of its own."""


def load(folder: Path, config: dict[str, Any], progress: Progress = silent) -> Decoder:
    """The backbone of a folder. Raises ModelLoadFailed where mlx-lm has none, or where attention is not causal."""
    if config.get("is_causal") is False or config.get("use_bidirectional_attention"):
        raise ModelLoadFailed("its attention looks both ways, which mlx-lm's models do not")
    # Takes seconds to import, which an encoder need not wait for.
    from mlx_lm import utils

    def classes(config: dict[str, Any]) -> tuple[type, type]:
        model, arguments = utils._get_classes(config)
        return _headless(model), arguments

    model, _ = utils.load_model(
        folder, lazy=True, model_config={"tie_word_embeddings": True}, get_model_classes=classes
    )
    backbone = getattr(model, "model", None)
    if backbone is None:
        raise ModelLoadFailed(f"mlx-lm's {config.get('model_type')} has no part without a head")
    if mx.default_device().type == mx.DeviceType.cpu:
        _quicken(backbone)
    made = Decoder(backbone, int(config["hidden_size"]))
    read(made.arrays(), progress)
    return made


def _headless(model: type) -> type:
    """The class, taking weights without a head and without the prefix that a head's folder would have."""

    class Headless(model):
        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            kept = {name: array for name, array in weights.items() if not name.startswith("lm_head.")}
            if not any(name.startswith("model.") for name in kept):
                kept = {f"model.{name}": array for name, array in kept.items()}
            return super().sanitize(kept) if hasattr(model, "sanitize") else kept

    return Headless


def _quicken(model: Any) -> None:
    """On a CPU, compute in float32: half precision there runs at a few percent of its speed."""
    leaves: Any = tree_flatten(model.parameters())
    if any(array.dtype in HALF for _, array in leaves):
        model.set_dtype(mx.float32)
