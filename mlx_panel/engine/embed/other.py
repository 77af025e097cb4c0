"""Families that are not ours, by the optional package mlx-embeddings."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ...errors import ModelLoadFailed
from .device import alike, padded
from .threads import Threads

PACKAGE = "mlx_embeddings"
FIX = "pip install 'mlx-panel[embeddings]'"


class Other:
    """Token ids to the vectors that mlx-embeddings makes of them: pooled and normalised its way."""

    threads: Threads | None = None

    def __init__(self, model: Any):
        self.model = model
        self.dimensions = int(self.vectors([[0]]).shape[1])

    def __repr__(self) -> str:
        return f"<Other {type(self.model).__module__}, {self.dimensions} wide>"

    def vectors(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        """(n, D) float32."""
        return alike(inputs, self._vectors)

    def _vectors(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        tokens, present = padded(inputs)
        made = self.model(mx.array(tokens), attention_mask=mx.array(present.astype(np.int32)))
        return np.array(made.text_embeds.astype(mx.float32))

    def arrays(self) -> list[mx.array]:
        leaves: Any = tree_flatten(self.model.parameters())
        return [array for _, array in leaves]

    def close(self) -> None:
        """It has no threads of its own."""


def load(folder: Path, config: dict[str, Any]) -> Other:
    """Raises ModelLoadFailed, with the command that helps, where the package is missing or does not know the family."""
    family = config.get("model_type", "unknown")
    if importlib.util.find_spec(PACKAGE) is None:
        raise ModelLoadFailed(f"embedding models of the family {family} need mlx-embeddings: {FIX}")
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        from mlx_embeddings.utils import load_model

        model = load_model(folder, path_to_repo=str(folder))
    return Other(model)
