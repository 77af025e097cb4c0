"""Converting and quantising: what is asked is checked here, the work is done by mlx-lm in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

import psutil

from ..errors import Conflict, InvalidParameter
from ..library import Capabilities, ConvertOrder
from ..messages import LocalModel
from .safetensors_header import Entry, read_header

PARTIAL = re.compile(r"\..+\.(\d+)-[0-9a-f]{4}\.partial")
# Bits and group of the modes that have but one of each.
FIXED = {"mxfp4": (4, 32), "nvfp4": (4, 16), "mxfp8": (8, 32)}
MIXED = {"mixed_2_6": (2, 6), "mixed_3_4": (3, 4), "mixed_3_6": (3, 6), "mixed_4_6": (4, 6)}
DTYPES = {"float32": 32, "float16": 16, "bfloat16": 16}
SCALES = 32  # bits of a scale and a bias for each group, in half precision


def check(order: ConvertOrder, model: LocalModel, found: Capabilities) -> None:
    """Raises InvalidParameter for what cannot be done to this model, or would change nothing."""
    quantised = found.bits < 16
    if model.architecture == "fake" or "text" not in found.kinds:
        raise InvalidParameter("Only models that write text can be converted.", field="model")
    if not found.supported:
        raise InvalidParameter(f"mlx-lm cannot load this model: {found.reason}", field="model")
    if order.dequantize and not quantised:
        raise InvalidParameter("This model is not quantised.", field="dequantize")
    if order.dequantize and order.wanted:
        raise InvalidParameter("Either quantise or dequantize, not both.", field="bits")
    if order.wanted and quantised:
        raise InvalidParameter(
            f"This model has {found.bits} bits already; convert the original, or dequantize this one first.",
            field="bits",
        )
    if not (order.wanted or order.dequantize or order.dtype):
        raise InvalidParameter("This would change nothing: give bits, a dtype, or dequantize.", field="bits")
    _check_ways(order)


def _check_ways(order: ConvertOrder) -> None:
    """Raises InvalidParameter for ways of quantising that do not go together."""
    if not order.wanted and (order.group_size or order.recipe or order.mode != "affine"):
        raise InvalidParameter("group_size, mode and recipe have no effect without quantising.", field="bits")
    if order.recipe and order.wanted != MIXED[order.recipe][0]:
        raise InvalidParameter(f"{order.recipe} says the bits itself; leave bits out.", field="bits")
    if order.mode == "affine":
        return
    bits, group = FIXED[order.mode]
    if order.wanted != bits or order.group_size not in (0, group):
        raise InvalidParameter(f"{order.mode} has {bits} bits in groups of {group}.", field="mode")
    if order.recipe:
        raise InvalidParameter("Mixed recipes are for the mode affine.", field="recipe")


def group_of(order: ConvertOrder) -> int:
    """Weights in a group."""
    return FIXED[order.mode][1] if order.mode in FIXED else order.group_size or 64


def name_of(order: ConvertOrder, model: LocalModel) -> str:
    """What the new model is called."""
    if order.name:
        return order.name
    own = re.sub(r"[^A-Za-z0-9._-]+", "-", model.id.rpartition("/")[2]).strip("-._") or "model"
    if order.wanted:
        own += (
            f"-{order.recipe}"
            if order.recipe
            else f"-{order.wanted}bit"
            if order.mode == "affine"
            else f"-{order.mode}"
        )
    return own + (f"-{order.dtype}" if order.dtype else "-dequantized" if order.dequantize else "")


def target(models: Path, name: str) -> Path:
    """The new model's folder. Raises Conflict when there is one of that name."""
    folder = models / name
    if folder.exists() or folder.is_symlink():
        raise Conflict(f"There is a model {name!r} already; choose another name, or delete it first.")
    return folder


def draft_of(folder: Path) -> Path:
    """Where a folder is made until it is complete: hidden, and this process's own."""
    return folder.with_name(f".{folder.name}.{os.getpid()}-{uuid.uuid4().hex[:4]}.partial")


def sweep(models: Path) -> None:
    """Delete drafts of processes that are gone. Blocks."""
    for path in models.iterdir() if models.is_dir() else ():
        found = PARTIAL.fullmatch(path.name)
        if found and not psutil.pid_exists(int(found[1])):
            shutil.rmtree(path, ignore_errors=True)


def expected_bytes(folder: Path, order: ConvertOrder) -> int:
    """About how large the new weights will be. Blocks. Raises ValueError and OSError for damaged files."""
    total = 0
    for file in folder.glob("model*.safetensors"):
        tensors = read_header(file).tensors
        total += sum(_expected(name, entry, tensors, order) for name, entry in tensors.items())
    return total // 8


def _expected(name: str, entry: Entry, tensors: Mapping[str, Entry], order: ConvertOrder) -> int:
    """Bits of a tensor of the new model."""
    begin, end = entry.data_offsets
    kept = DTYPES.get(order.dtype, (end - begin) * 8 // max(1, entry.count))
    if order.dequantize:
        scales = tensors.get(f"{name.removesuffix('.weight')}.scales")
        if name.endswith((".scales", ".biases")):
            return 0
        # A scale stands for a group of 128 weights at most.
        return entry.count * kept if scales is None else scales.count * 128 * DTYPES.get(order.dtype, 16)
    if not order.wanted or len(entry.shape) < 2 or entry.shape[-1] % group_of(order):
        return entry.count * kept
    bits = max(MIXED[order.recipe]) if order.recipe else order.wanted
    return entry.count * bits + entry.count // group_of(order) * SCALES
