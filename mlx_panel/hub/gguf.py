"""Importing a GGUF file: it becomes a model folder that mlx-lm opens, written in one go or not at all."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import Conflict, ImportRefused, InvalidParameter
from ..messages import LocalModel
from .disk import need_space, read_folder
from .gguf_blocks import BLOCKS, GROUP, pack
from .gguf_config import Weight, read_config, unpermuted, weights
from .gguf_file import GgufFile, Tensor, read_gguf
from .gguf_tokenizer import ending_tokens, read_tokenizer, tokenizer_config
from .safetensors_file import Output, write_safetensors

Dtype = Literal["float32", "float16", "bfloat16", "keep"]
Progress = Callable[[str, int, int], None]
STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
CHUNK_BYTES = 64 * 2**20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def import_gguf(
    file: Path,
    models: Path,
    *,
    name: str | None = None,
    dtype: Dtype = "keep",
    force: bool = False,
    progress: Progress | None = None,
) -> LocalModel:
    """Write the model in a GGUF file to the folder `models`/`name` and say what is there.

    `name` None takes the file's own. `dtype` "keep" leaves quantised weights as they are; the others turn every weight
    into floats. `progress` gets a stage, the bytes done and the bytes in all. Raises ImportRefused with what is
    missing, Conflict when the folder exists and `force` does not replace it, or the disk is full. A stopped import leaves no model.
    """
    header = read_gguf(file)
    config = read_config(header)
    tokenizer = read_tokenizer(header)
    folder = models / (_checked(name) if name else _own_name(header))
    if folder.exists() and not force:
        raise Conflict(
            f"There is a model {folder.name!r} already. Replace it with --force, or choose a --name."
        )
    stored = STORED.get(dtype) or _kept(header, config)
    outputs = list(_outputs(header, config, stored, keep=dtype == "keep"))
    need_space(models, sum(output.bytes for output in outputs))
    with _partial(folder) as draft:
        endings = ending_tokens(header)
        _write_json(
            draft / "config.json", _full_config(header, config, stored, endings, keep=dtype == "keep")
        )
        _write_json(draft / "generation_config.json", {"eos_token_id": endings} if endings else {})
        _write_json(
            draft / "tokenizer_config.json", tokenizer_config(header, config["max_position_embeddings"])
        )
        tokenizer.save(str(draft / "tokenizer.json"))
        report = partial(progress, "weights") if progress else lambda done, total: None
        write_safetensors(draft / "model.safetensors", outputs, report)
    return read_folder(folder)


def own_name(file: Path) -> str:
    """The name that a GGUF file gives its model. Blocks. Raises ImportRefused."""
    return _own_name(read_gguf(file))


class _partial:
    """A folder under a hidden name that takes its real name, and an older one's place, when the block succeeds."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.draft = folder.with_name(f".{folder.name}.partial")

    def __enter__(self) -> Path:
        self._clear()
        self.draft.mkdir(parents=True)
        return self.draft

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._clear()
            return
        old = self.folder.with_name(f".{self.folder.name}.old")
        if self.folder.exists():
            self.folder.rename(old)
        self.draft.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)

    def _clear(self) -> None:
        shutil.rmtree(self.draft, ignore_errors=True)


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise InvalidParameter(
            f"The name {name!r} will not do: letters, digits, '.', '_' and '-', a letter or digit first.",
            field="name",
        )
    return name


def _own_name(file: GgufFile) -> str:
    for text in (file.get("general.name", ""), file.path.stem, "model"):
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
        if slug:
            return slug
    raise AssertionError("unreachable: 'model' is a name")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# --- what is written -----------------------------------------------------------------------------------------


def _matrices(file: GgufFile, config: dict[str, Any]) -> Iterator[tuple[Weight, int]]:
    """Every matrix of the model with its bits, 0 for floats."""
    for weight in weights(config):
        if len(weight.shape) == 2:
            yield weight, BLOCKS[file.tensors[weight.source].type].bits


def _kept(file: GgufFile, config: dict[str, Any]) -> str:
    """The dtype of what stays float: that of the scales in a quantised model, else that of the largest matrices."""
    if any(bits for _, bits in _matrices(file, config)):
        return "F16"
    counts: Counter[str] = Counter()
    for weight, _ in _matrices(file, config):
        counts[file.tensors[weight.source].type] += file.tensors[weight.source].bytes
    return counts.most_common(1)[0][0]


def _full_config(
    file: GgufFile, config: dict[str, Any], stored: str, endings: list[int], *, keep: bool
) -> dict[str, Any]:
    """config.json in full: dtype, special tokens and, where weights stay quantised, how."""
    dtype = next(name for name, code in STORED.items() if code == stored)
    bos = file.get("tokenizer.ggml.bos_token_id", -1)
    return {
        **config,
        "torch_dtype": dtype,
        **({"bos_token_id": bos} if bos >= 0 else {}),
        **({"eos_token_id": endings} if endings else {}),
        **(_quantization(file, config) if keep else {}),
    }


def _quantization(file: GgufFile, config: dict[str, Any]) -> dict[str, Any]:
    """The bits that most weights have, and every layer that differs by its name in the model."""
    bits = {
        weight.target.removesuffix(".weight"): count for weight, count in _matrices(file, config) if count
    }
    if not bits:
        return {}
    usual = Counter(bits.values()).most_common(1)[0][0]
    others = {layer: {"group_size": GROUP, "bits": count} for layer, count in bits.items() if count != usual}
    return {"quantization": {"group_size": GROUP, "bits": usual, **others}}


def _outputs(file: GgufFile, config: dict[str, Any], stored: str, *, keep: bool) -> Iterator[Output]:
    for weight in weights(config):
        block = BLOCKS[file.tensors[weight.source].type]
        read = partial(_chunks, file, weight)
        if keep and block.codes and block.scales and len(weight.shape) == 2:
            yield from _quantised(weight, block.bits, block.codes, block.scales, read)
        else:
            yield Output(
                weight.target, stored, weight.shape, partial(_floats, weight, block.floats, stored, read)
            )


def _quantised(
    weight: Weight,
    bits: int,
    codes: Callable[[np.ndarray], np.ndarray],
    scales: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    read: Callable[[], Iterator[np.ndarray]],
) -> Iterator[Output]:
    """A matrix in mlx's three parts. Each part reads the file once more, so that memory holds one chunk at a time."""
    (rows, columns), layer = weight.shape, weight.target.removesuffix(".weight")
    yield Output(
        weight.target, "U32", (rows, columns * bits // 32), lambda: (pack(codes(c), bits) for c in read())
    )
    for at, part in enumerate(("scales", "biases")):
        chunks = partial(_parts, scales, at, read)
        yield Output(f"{layer}.{part}", "F16", (rows, columns // GROUP), chunks)


def _parts(
    scales: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    at: int,
    read: Callable[[], Iterator[np.ndarray]],
) -> Iterator[np.ndarray]:
    for chunk in read():
        yield scales(chunk)[at]


def _chunks(file: GgufFile, weight: Weight) -> Iterator[np.ndarray]:
    """The rows of a tensor in the model's order, still in the file's type, some at a time.

    A row keeps its blocks when it moves, so un-permuting is exact for quantised weights too.
    """
    tensor = file.tensors[weight.source]
    rows = _as_rows(file, tensor, weight)
    order = unpermuted(len(rows), weight.heads) if weight.heads else np.arange(len(rows))
    step = max(1, CHUNK_BYTES // (4 * max(1, tensor.shape[-1])))
    for start in range(0, len(rows), step):
        yield rows[order[start : start + step]] if weight.heads else rows[start : start + step]


def _as_rows(file: GgufFile, tensor: Tensor, weight: Weight) -> np.ndarray:
    rows = file.rows(tensor)
    return rows.reshape(tensor.shape[0], -1) if weight.heads else rows


def _floats(
    weight: Weight,
    floats: Callable[[np.ndarray], np.ndarray],
    stored: str,
    read: Callable[[], Iterator[np.ndarray]],
) -> Iterator[np.ndarray]:
    for chunk in read():
        values = floats(chunk)
        if stored == "F16" and np.abs(values).max() > np.finfo(np.float16).max:
            raise ImportRefused(
                f"A value of {weight.source} does not fit float16; choose bfloat16 or float32."
            )
        yield _narrowed(values, stored)


def _narrowed(values: np.ndarray, stored: str) -> np.ndarray:
    """float32 values in the dtype they are stored in, rounded to the nearest, halves to even."""
    if stored == "BF16":
        words = np.ascontiguousarray(values).view(np.uint32)
        return ((words + 0x7FFF + (words >> 16 & 1)) >> 16).astype("<u2")
    return values.astype("<f2" if stored == "F16" else "<f4")
