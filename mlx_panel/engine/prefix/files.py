"""One cached block as a safetensors file that can tell whether it is whole and where it belongs.

Format: https://github.com/huggingface/safetensors#format. The metadata hold the model key's digest, the digest of the
block before, the tokens, the layout, for a snapshot its form, and a BLAKE2b checksum over header and data, computed
with zeros in its own place.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import msgspec
import numpy as np

from .blocks import TOKEN_BYTES, chained
from .key import FORMAT
from .layout import TOKEN_AXIS, Layout

_NAMES = {
    "BOOL": mx.bool_, "U8": mx.uint8, "I8": mx.int8, "U16": mx.uint16, "I16": mx.int16, "F16": mx.float16,
    "BF16": mx.bfloat16, "U32": mx.uint32, "I32": mx.int32, "F32": mx.float32, "U64": mx.uint64, "I64": mx.int64,
}  # fmt: skip
_DTYPES = {dtype: name for name, dtype in _NAMES.items()}
_ZEROS = "0" * 32
_MAX_HEADER = 16 << 20


class BadBlock(Exception):
    """A file that must not be used; the reason says nothing of its content."""


class Stored(NamedTuple):
    """What a file holds: packed `tokens` after those of `parent` (a digest), the slices of layers that are cut, and
    for a snapshot (`spec` is its form) its arrays.
    """

    parent: bytes
    tokens: bytes
    layout: Layout
    arrays: list[mx.array]
    spec: str
    state: list[mx.array]


class Tensor(NamedTuple):
    """An array's bytes, with dtype and shape as safetensors has them. `data` is a view: the array must not change."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


def tensor(array: mx.array) -> Tensor:
    """The bytes of an array; computes it if that has not happened yet. For the thread that uses mlx."""
    flat = mx.view(mx.contiguous(array).reshape(-1), mx.uint8)
    return Tensor(_DTYPES[array.dtype], tuple(array.shape), np.asarray(flat).data)


def tensors(stored: Stored) -> dict[str, Tensor]:
    named = {f"slices.{index}": array for index, array in enumerate(stored.arrays)}
    named |= {f"state.{index}": array for index, array in enumerate(stored.state)}
    return {name: tensor(array) for name, array in named.items()}


def metadata(stored: Stored, key: str) -> dict[str, str]:
    return {
        "format": f"mlx-panel prefix {FORMAT}",
        "key": key,
        "parent": stored.parent.hex(),
        "tokens": stored.tokens.hex(),
        "layout": msgspec.json.encode(stored.layout).decode(),
        "spec": stored.spec,
    }


def encode(meta: Mapping[str, str], parts: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """The file's contents, in order."""
    table: dict[str, Any] = {"__metadata__": {**meta, "checksum": _ZEROS}}
    offset = 0
    for name, part in parts.items():
        end = offset + part.data.nbytes
        table[name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    buffers = [part.data for part in parts.values()]
    total = _checksum(text, buffers)
    return [struct.pack("<Q", len(text)), _with(text, _ZEROS, total), *buffers]


def header(start: bytes) -> dict[str, Any]:
    """The table at the start of a file, unchecked. Raises BadBlock."""
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    if not 2 <= length <= min(len(start) - 8, _MAX_HEADER):
        raise BadBlock("it is cut off or no safetensors file")
    try:
        table = json.loads(start[8 : 8 + length])
        if table["__metadata__"]["format"] != f"mlx-panel prefix {FORMAT}":
            raise BadBlock("it has another format")
        return table
    except (ValueError, LookupError, TypeError, RecursionError):
        raise BadBlock("its header cannot be read") from None


def decode(raw: bytes, key: str, digest: bytes) -> Stored:
    """What the file holds, every byte of it checked: checksum, key, tokens, shapes. Raises BadBlock."""
    table = header(raw)
    length = struct.unpack("<Q", raw[:8])[0]
    text, data = raw[8 : 8 + length], memoryview(raw)[8 + length :]
    try:
        meta = table.pop("__metadata__")
        if _checksum(_with(text, meta["checksum"], _ZEROS), [data]) != meta["checksum"]:
            raise BadBlock("its checksum is wrong")
        if meta["key"] != key:
            raise BadBlock("it belongs to another model")
        parent, tokens = bytes.fromhex(meta["parent"]), bytes.fromhex(meta["tokens"])
        if chained(parent, tokens) != digest:
            raise BadBlock("it belongs to other tokens")
        known = msgspec.json.decode(meta["layout"], type=Layout)
        arrays, state = (_numbered(table, sort, data) for sort in ("slices", "state"))
        _check(arrays, known, len(tokens) // TOKEN_BYTES)
    except (ValueError, LookupError, TypeError):
        raise BadBlock("its header does not fit its data") from None
    return Stored(parent, tokens, known, arrays, meta["spec"], state)


def _checksum(text: bytes, buffers: Sequence[memoryview]) -> str:
    total = hashlib.blake2b(text, digest_size=16)
    for buffer in buffers:
        total.update(buffer)
    return total.hexdigest()


def _with(text: bytes, old: str, new: str) -> bytes:
    """The header with another checksum; it stands last in the metadata, so its name is found from there."""
    return text.replace(f'"checksum":"{old}"'.encode(), f'"checksum":"{new}"'.encode(), 1)


def _numbered(table: Mapping[str, Any], sort: str, data: memoryview) -> list[mx.array]:
    count = sum(name.startswith(f"{sort}.") for name in table)
    return [_array(table[f"{sort}.{index}"], data) for index in range(count)]


def _array(entry: Mapping[str, Any], data: memoryview) -> mx.array:
    dtype, shape, (start, end) = _NAMES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if not 0 <= start <= end <= len(data) or end - start != math.prod(shape) * dtype.size:
        raise BadBlock("its header does not fit its data")
    return mx.array(np.frombuffer(data[start:end], np.uint8)).view(dtype).reshape(shape)


def _check(arrays: Sequence[mx.array], known: Layout, tokens: int) -> None:
    """Whether slices have the layout's shapes; a snapshot's file may have none."""
    for array, group in zip(arrays, known.groups, strict=bool(arrays)):
        wanted = list(group.shape)
        wanted[TOKEN_AXIS] = tokens
        if list(array.shape) != [group.rows, *wanted] or str(array.dtype) != f"mlx.core.{group.dtype}":
            raise BadBlock("its arrays do not have its layout")
