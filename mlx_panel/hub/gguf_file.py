"""A GGUF file's header: its metadata and where its tensors are. Reads no weights.

The header is read here, not by mlx, because mlx turns tensor types that it cannot hold into floats without saying so.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from ..errors import ImportRefused
from .gguf_blocks import BLOCKS, type_name

MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
MAX_DIMENSIONS = 4
T = TypeVar("T")


@dataclass(frozen=True)
class Tensor:
    """A tensor in the file: `shape` is rows first as in numpy, `offset` absolute, `bytes` its size in the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class GgufFile:
    """What the header of `path` says: `metadata` by key, `tensors` by name, all within the file."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def __repr__(self) -> str:
        return f"<GgufFile {self.path.name}: {len(self.tensors)} tensors, {len(self.metadata)} keys>"

    def need(self, key: str, kind: type[T]) -> T:
        """The value of a metadata key; raises ImportRefused naming the key when it is missing or no `kind`."""
        if key not in self.metadata:
            raise ImportRefused(f"{self.path.name} lacks the metadata key {key!r}.")
        value = self.metadata[key]
        if not isinstance(value, kind):
            raise ImportRefused(f"{self.path.name}: the metadata key {key!r} is no {kind.__name__}.")
        return value

    def array(self, key: str, kind: type[T]) -> list[T]:
        """An array of `kind`; GGUF arrays hold one type, so the first item speaks for all."""
        values = self.need(key, list)
        if values and not isinstance(values[0], kind):
            raise ImportRefused(f"{self.path.name}: the metadata key {key!r} is no array of {kind.__name__}.")
        return values

    def get(self, key: str, default: T) -> T:
        """The value of a metadata key, of the default's type, or the default."""
        return self.need(key, type(default)) if key in self.metadata else default

    def rows(self, tensor: Tensor) -> np.ndarray:
        """A tensor's bytes, still in its type, one row of it a row; mapped, not read."""
        rows = math.prod(tensor.shape[:-1])
        return np.memmap(self.path, np.uint8, "r", tensor.offset, (rows, tensor.bytes // rows))


def read_gguf(path: Path) -> GgufFile:
    """Read the header of a GGUF file, version 2 or 3, little-endian, in one piece.

    Raises ImportRefused for anything else, for tensor types that cannot be imported, and for a truncated file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            header = _Header(stream, size, path.name)
            tensor_count, key_count = header.opening()
            metadata = header.metadata(key_count)
            _refuse_parts(metadata, path.name)
            described = [header.tensor() for _ in range(tensor_count)]
            start = header.aligned(metadata.get("general.alignment", 32))
    except OSError as error:
        raise ImportRefused(f"{path.name} cannot be read: {error.strerror}.") from error
    return GgufFile(path, metadata, _placed(described, start, size, path.name))


class _Header:
    """A cursor over the header's bytes that never reads past the end of the file."""

    def __init__(self, stream: BinaryIO, size: int, name: str):
        self.stream, self.size, self.name = stream, size, name

    def take(self, count: int) -> bytes:
        data = self.stream.read(count) if 0 <= count <= self.size else b""
        if len(data) < count:
            raise ImportRefused(f"{self.name} is truncated: its header goes on after its end.")
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def opening(self) -> tuple[int, int]:
        """The counts of tensors and keys, once magic and version are known to be right."""
        if self.stream.read(4) != MAGIC:
            raise ImportRefused(f"{self.name} is not a GGUF file.")
        version = self.number("I")
        if version not in (2, 3):
            kind = "big-endian" if version & 0xFFFF == 0 else f"GGUF version {version}"
            raise ImportRefused(
                f"{self.name} is {kind}; little-endian GGUF versions 2 and 3 can be imported."
            )
        return self.number("Q"), self.number("Q")

    def metadata(self, count: int) -> dict[str, Any]:
        found = {}
        for _ in range(count):
            key = self.text()
            found[key] = self.value(self.number("I"))
        return found

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self.array(self.number("I"), self.number("Q"))
        return self.number(self.form(kind))

    def form(self, kind: int) -> str:
        if kind not in SCALARS:
            raise ImportRefused(f"{self.name} holds a metadata value of the unknown type {kind}.")
        return SCALARS[kind]

    def array(self, kind: int, count: int) -> list[Any]:
        if count > self.size:
            raise ImportRefused(f"{self.name} is truncated: its header goes on after its end.")
        if kind == STRING:
            return [self.text() for _ in range(count)]
        form = self.form(kind)
        data = self.take(count * struct.calcsize(f"<{form}"))
        return np.frombuffer(data, np.dtype(f"<{form}" if form != "?" else "?")).tolist()

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, type and offset of the next tensor; the file lists the fastest dimension first."""
        name, dimensions = self.text(), self.number("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise ImportRefused(f"{self.name}: tensor {name} has {dimensions} dimensions.")
        shape = tuple(self.number("Q") for _ in range(dimensions))[::-1]
        return name, shape, self.number("I"), self.number("Q")

    def aligned(self, alignment: Any) -> int:
        """Where the tensors' bytes start."""
        if not isinstance(alignment, int) or alignment < 1:
            raise ImportRefused(f"{self.name}: the metadata key 'general.alignment' is {alignment!r}.")
        return -(-self.stream.tell() // alignment) * alignment


def _refuse_parts(metadata: Mapping[str, Any], name: str) -> None:
    parts = metadata.get("split.count", 1)
    if parts not in (0, 1):
        raise ImportRefused(
            f"{name} is one of {parts} parts of a split file. Join them first: "
            "llama-gguf-split --merge FIRST-PART JOINED.gguf"
        )


def _placed(
    described: list[tuple[str, tuple[int, ...], int, int]], start: int, size: int, name: str
) -> dict[str, Tensor]:
    """The tensors with their places in the file, once every type is known and every byte is there."""
    unknown = sorted({type_name(kind) for _, _, kind, _ in described} - BLOCKS.keys())
    if unknown:
        raise ImportRefused(
            f"{name} holds tensors of type {', '.join(unknown)}; {', '.join(BLOCKS)} can be imported. "
            "Look for a Q4_0, Q8_0 or F16 file of the same model."
        )
    tensors = {}
    for title, shape, kind, offset in described:
        block = BLOCKS[type_name(kind)]
        if min(shape) < 1 or shape[-1] % block.values:
            raise ImportRefused(f"{name}: tensor {title} has the impossible shape {list(shape)}.")
        count = math.prod(shape) // block.values * block.bytes
        tensors[title] = Tensor(title, shape, type_name(kind), start + offset, count)
    end = max((tensor.offset + tensor.bytes for tensor in tensors.values()), default=start)
    if end > size:
        raise ImportRefused(f"{name} is truncated: it has {size:,} of at least {end:,} bytes.")
    return tensors
