"""A model folder on this machine to a model, its tokenizer and what is known of them. Nothing is downloaded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import msgspec
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import get_total_parameters
from mlx_lm.utils import load as load_folder

from ..architecture import shape
from ..errors import ModelLoadFailed
from ..messages import ModelInfo
from ..sizing import Shape
from .manner import manner
from .reading import Progress, read, silent

# Names under which model families state their context, the usual one first.
CONTEXT_KEYS = (
    "max_position_embeddings",
    "max_seq_len",
    "max_sequence_length",
    "model_max_length",
    "seq_length",
    "n_positions",
    "n_ctx",
)
UNKNOWN_CONTEXT = 8192
# Tokenizers without a limit say 1e30.
NO_LIMIT = 10**9


class Loaded(NamedTuple):
    """A model in memory. `model` is an mlx module, `tokenizer` mlx-lm's wrapper around the folder's own, `shape` what its size
    in memory follows from."""

    model: Any
    tokenizer: Any
    info: ModelInfo
    shape: Shape = Shape(weights=0)


def load(path: str | Path, progress: Progress = silent) -> Loaded:
    """Load a model folder. Code a folder may bring along is not run, and the network is not asked.

    Raises what the folder's files raise (FileNotFoundError, ValueError, …), and ModelLoadFailed for a model whose
    cache cannot be batched.
    """
    folder = Path(path)
    if not folder.is_dir():
        # mlx-lm would take the name for one on the hub.
        raise FileNotFoundError(f"{folder.name} is not a folder")
    parts: Any = load_folder(
        str(folder),
        tokenizer_config={"local_files_only": True, "trust_remote_code": False},
        return_config=True,
        lazy=True,
    )
    model, tokenizer, config = parts
    if not all(hasattr(cache, "merge") for cache in make_prompt_cache(model)):
        raise ModelLoadFailed(f"mlx-lm cannot batch the cache of the architecture {config.get('model_type')}")
    stored = describe(model, tokenizer, config)
    info = _quickened(model, tokenizer, config, stored)
    read(arrays_of(model), progress)
    wide = mx.default_device().type == mx.DeviceType.cpu
    item = 2 if _half(model) else 4
    return Loaded(model, tokenizer, info, shape(config, info.weights_bytes, item=item, wide=wide))


def arrays_of(model: Any) -> list[mx.array]:
    """The parameters of an mlx module."""
    leaves: Any = tree_flatten(model.parameters())
    return [array for _, array in leaves]


def _quickened(model: Any, tokenizer: Any, config: dict[str, Any], stored: ModelInfo) -> ModelInfo:
    """On a CPU, compute in float32: half precision there runs at a few percent of its speed. Costs memory."""
    if mx.default_device().type != mx.DeviceType.cpu or not _half(model):
        return stored
    model.set_dtype(mx.float32)
    computed = describe(model, tokenizer, config)
    return msgspec.structs.replace(computed, dtype=f"{stored.dtype}, computed in float32")


def _half(model: Any) -> bool:
    return any(array.dtype in (mx.float16, mx.bfloat16) for array in arrays_of(model))


def describe(model: Any, tokenizer: Any, config: dict[str, Any]) -> ModelInfo:
    """What a person or a client may want to know; sizes in bytes, the context in tokens."""
    arrays = arrays_of(model)
    architecture = str(config.get("model_type", "unknown"))
    speaks = manner(tokenizer, architecture)
    return ModelInfo(
        architecture=architecture,
        context_length=_context_length(config, tokenizer),
        vocab_size=int(_value(config, "vocab_size") or len(tokenizer)),
        parameters=int(get_total_parameters(model)),
        weights_bytes=sum(array.nbytes for array in arrays),
        dtype=_dtype(arrays, config),
        layers=int(_value(config, "num_hidden_layers") or len(model.layers)),
        chat_template=bool(tokenizer.has_chat_template),
        reasoning=speaks.style.name if speaks.style else "",
        tools=speaks.dialect.name if tokenizer.has_chat_template else "",
        template_variables=speaks.variables,
    )


def _value(config: dict[str, Any], key: str) -> Any:
    """A value of the configuration; multimodal models keep those of the language model one level down."""
    return config.get(key) or (config.get("text_config") or {}).get(key)


def _context_length(config: dict[str, Any], tokenizer: Any) -> int:
    stated = (_value(config, key) for key in CONTEXT_KEYS)
    length = next((int(value) for value in stated if value), 0)
    limit = int(getattr(tokenizer, "model_max_length", 0) or 0)
    return length or (limit if 0 < limit < NO_LIMIT else UNKNOWN_CONTEXT)


def _dtype(arrays: list[mx.array], config: dict[str, Any]) -> str:
    quantization = config.get("quantization")
    if quantization:
        return f"{quantization['bits']}-bit (group {quantization['group_size']})"
    sizes: Counter[str] = Counter()
    for array in arrays:
        sizes[str(array.dtype).removeprefix("mlx.core.")] += array.nbytes
    return sizes.most_common(1)[0][0] if sizes else "unknown"
