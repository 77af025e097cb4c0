"""The shape of a model: what its size in memory follows from, read from config.json and the headers of its weights.

No tensor is loaded. Headers: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import platform
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ..architecture import Config, family, number, shape, text_config
from ..engine.embed import recipe
from ..engine.fake import FakeSpec
from ..messages import ModelKind
from ..sizing import Shape

CONFIG, SCRIPT = "config.json", "fake.json"
ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "C64": 8,
}  # fmt: skip
HALF = ("F16", "BF16")
HEADER_LIMIT = 100_000_000
# What mlx-lm drops of a checkpoint when it loads the language model alone.
OTHER_PARTS = (
    "vision_tower", "visual", "vision_model", "vision_embed", "audio_tower", "audio_model", "embed_audio", "embed_vision",
    "multi_modal_projector", "mm_projector", "image_newline",
)  # fmt: skip


def computes_wide() -> bool:
    """Whether models in half precision are computed in float32 here: on a CPU (`engine/loader.py`)."""
    return not (sys.platform == "darwin" and platform.machine() == "arm64")


def shape_of(folder: Path, kind: ModelKind | None = None, *, wide: bool | None = None) -> Shape:
    """The shape of a model folder; `kind` and `wide` are found out where they are not given.

    Raises FileNotFoundError, OSError, ValueError (files that are no JSON or no safetensors) and
    msgspec.ValidationError (a scripted model's file).
    """
    if not (folder / CONFIG).is_file():
        spec = msgspec.json.decode((folder / SCRIPT).read_bytes(), type=FakeSpec)
        return Shape(weights=spec.weights_bytes, context_length=spec.context_length)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{CONFIG} is not an object")
    tensors = [tensor for file in sorted(folder.glob("model*.safetensors")) for tensor in _tensors(file)]
    kept = [tensor for tensor in tensors if not _dropped(tensor[0], config)]
    wide = computes_wide() if wide is None else wide
    half = any(dtype in HALF for _, dtype, _ in kept)
    weights = sum(_bytes(dtype, values, wide and half) for _, dtype, values in kept)
    embedding = (kind or recipe.kind_of(folder, config, folder.name)) == "embedding"
    item = 4 if wide or not half else 2
    return shape(config, weights, item=item, wide=wide, embedding=embedding)


def shape_from(
    config: Config,
    weights_bytes: int,
    dtype_hint: str = "",
    *,
    wide: bool | None = None,
    embedding: bool = False,
) -> Shape:
    """The shape of a model of which only the config and the size of its weights' files are known.

    `dtype_hint` names the dtype of what is not quantised ("float32", "bfloat16", …) where the config does not.
    """
    wide = computes_wide() if wide is None else wide
    flat = text_config(config)
    named = flat.get("torch_dtype") or flat.get("dtype") or dtype_hint or "bfloat16"
    half = "32" not in str(named)
    item = 4 if wide or not half else 2
    weights = int(weights_bytes * _widened(config)) if wide and half else weights_bytes
    return shape(config, weights, item=item, wide=wide, embedding=embedding)


def _widened(config: Config) -> float:
    """By how much weights grow when half precision becomes float32; of quantised ones only scales and biases do."""
    stated = config.get("quantization") or config.get("quantization_config") or {}
    bits, group = number(stated, "bits"), number(stated, "group_size", default=64)
    if not bits:
        return 2.0
    scales = 0.0 if str(stated.get("mode", "affine")) != "affine" else 2 * 16 / group
    return (bits + 2 * scales) / (bits + scales)


def _dropped(name: str, config: Config) -> bool:
    """Whether a tensor of the file is not part of the model that is loaded."""
    parts = name.split(".")
    if parts[-1] == "inv_freq" or parts[0] == "mtp":
        return True
    if config.get("tie_word_embeddings") and name in ("lm_head.weight", "lm_head.scales", "lm_head.biases"):
        return family(config) != "gpt2"
    return "text_config" in config and any(part in OTHER_PARTS for part in parts)


def _tensors(file: Path) -> Iterator[tuple[str, str, int]]:
    """(name, dtype, values) of each tensor in a safetensors file."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\xff"))
        if length > HEADER_LIMIT:
            raise ValueError(f"{file.name} is not a safetensors file")
        table: Any = json.loads(stream.read(length))
    if not isinstance(table, dict):
        raise ValueError(f"{file.name} is not a safetensors file")
    for name, entry in table.items():
        if name != "__metadata__":
            yield name, str(entry["dtype"]), math.prod(int(side) for side in entry["shape"])


def _bytes(dtype: str, values: int, widened: bool) -> int:
    size = 4 if widened and dtype in HALF else ITEM_BYTES.get(dtype, 1)
    return size * values
