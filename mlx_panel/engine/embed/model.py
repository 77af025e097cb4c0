"""An embedding model out of a folder: which of the ways there are is taken, and what is known of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from ...errors import ModelLoadFailed
from ...messages import ModelInfo
from ..reading import Progress, silent
from ..reading import read as read_weights
from . import bert, decoder, other
from .device import DeviceEncoder
from .host import HostEncoder
from .pooling import Finish, normalized, pool
from .recipe import BERTS, ENCODERS, Recipe, read, read_json
from .text import Texts
from .threads import Threads

# Tokens that are of use in one pass of a core, and fewer than which are better left to one core.
MOST, FEW = 384, 64


class Model(Protocol):
    """What makes a vector of the tokens of each input; quickest when neighbours have about the same length.

    Without `threads` it belongs to one thread; with them `vectors` may be called from several.
    """

    dimensions: int
    threads: Threads | None

    def vectors(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        """(n, dimensions) float32."""

    def arrays(self) -> Iterable[Any]:
        """Its weights."""

    def close(self) -> None:
        """End the threads it computes with."""


class Encoder:
    """A BERT, in numpy on a CPU and in mlx on a GPU, and its pooling."""

    def __init__(self, weights: bert.Encoder, recipe: Recipe, *, host: bool):
        self.recipe = recipe
        self.threads = Threads() if host else None
        self.encoder: HostEncoder | DeviceEncoder = HostEncoder(weights) if host else DeviceEncoder(weights)
        self.dimensions = weights.dimensions * len(recipe.pooling)

    def __repr__(self) -> str:
        return f"<Encoder {self.encoder!r}, {'+'.join(self.recipe.pooling)}, {self.threads}>"

    def vectors(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        return pool(self.encoder.hidden(inputs), [len(tokens) for tokens in inputs], self.recipe.pooling)

    def arrays(self) -> Iterable[Any]:
        return self.encoder.weights.arrays()

    def close(self) -> None:
        if self.threads is not None:
            self.threads.close()


class Embedder(NamedTuple):
    """A model in memory, its tokenizer, and what follows: `finish` the model's own steps, None where it did them itself."""

    model: Model
    texts: Texts
    recipe: Recipe
    info: ModelInfo
    finish: Finish | None = None

    def vectors(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        """(n, dimensions) float32. Raises FloatingPointError where one is not a number."""
        made = self.model.vectors(inputs)
        made = made if self.finish is None else self.finish(made)
        if not np.isfinite(made).all():
            raise FloatingPointError("the model's output is not a number")
        return made

    @property
    def lanes(self) -> int:
        """How many passes may be computed at once."""
        return self.model.threads.cores if self.model.threads is not None else 1

    def room(self, waiting: int, lanes: int) -> int:
        """The most tokens of the next pass, when so many wait and so many lanes are free; 0 is no limit."""
        return min(MOST, max(FEW, -(-waiting // lanes))) if self.model.threads is not None else 0

    def begin(self, inputs: Sequence[Sequence[int]], *, alone: bool) -> Future[np.ndarray] | None:
        """Begin to compute `vectors`; None where nothing can be computed meanwhile."""
        threads = self.model.threads
        return None if threads is None else threads.submit(self.vectors, inputs, alone=alone)

    def cut(self, vectors: np.ndarray, dimensions: int | None) -> np.ndarray:
        """The vectors as they are told; shorter ones are normalised again."""
        if dimensions in (None, vectors.shape[1]):
            return vectors
        return normalized(vectors[:, :dimensions])


def load(folder: Path, progress: Progress = silent) -> Embedder:
    """Load an embedding model. The network is not asked, and no code of the folder is run.

    Raises what the folder's files raise (FileNotFoundError, KeyError, …), and ModelLoadFailed for what is not supported.
    """
    config = read_json(folder / "config.json")
    recipe = read(folder, config)
    family = str(config.get("model_type", "unknown"))
    if family in BERTS:
        host = mx.default_device().type == mx.DeviceType.cpu
        weights = bert.load(folder, config)
        read_weights(weights.arrays(), progress)
        model: Model = Encoder(weights, recipe, host=host)
    elif family not in ENCODERS and recipe.pooling == ("lasttoken",):
        model = decoder.load(folder, config, progress)
    else:
        model = other.load(folder, config)
    finish = None if isinstance(model, other.Other) else Finish(folder, recipe)
    texts = Texts(folder, recipe.limit, recipe.prompt)
    return Embedder(model, texts, recipe, _describe(model, config, recipe, finish), finish)


def _describe(model: Model, config: dict[str, Any], recipe: Recipe, finish: Finish | None) -> ModelInfo:
    arrays = list(model.arrays())
    bits = (config.get("quantization") or {}).get("bits")
    stored = f"{bits}-bit" if bits else str(config.get("torch_dtype") or config.get("dtype") or "float32")
    used = str(arrays[0].dtype).removeprefix("mlx.core.")
    computed = stored if used in (stored, "uint32") else f"{stored}, computed in {used}"
    vocabulary = int(config.get("vocab_size") or 0)
    if not vocabulary:
        raise ModelLoadFailed("config.json names no vocab_size")
    return ModelInfo(
        architecture=str(config.get("model_type", "unknown")),
        context_length=recipe.limit,
        vocab_size=vocabulary,
        parameters=sum(int(array.size) for array in arrays),
        weights_bytes=sum(int(array.nbytes) for array in arrays),
        dtype=computed,
        layers=int(config.get("num_hidden_layers") or 0),
        chat_template=False,
        kind="embedding",
        dimensions=model.dimensions if finish is None else finish.dimensions(model.dimensions),
    )
