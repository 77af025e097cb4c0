"""Reading a safetensors file's header: what tensors it says it has, and whether the file can be what it says.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

LENGTH = struct.Struct("<Q")
LONGEST = 100_000_000  # bytes of a header; the format's own limit
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32,
    "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class Entry(msgspec.Struct, frozen=True):
    """A tensor: `data_offsets` count bytes from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]

    @property
    def count(self) -> int:
        """Its values."""
        return math.prod(self.shape)


class Header(NamedTuple):
    """The tensors of a file by name; their bytes begin at `start`, the file has `size` bytes."""

    tensors: Mapping[str, Entry]
    start: int
    size: int

    def faults(self) -> list[str]:
        """What cannot be: a tensor that is longer or shorter than its shape, gaps, overlaps, a file cut short."""
        found, at = [], 0
        for name, one in sorted(self.tensors.items(), key=lambda item: item[1].data_offsets):
            begin, end = one.data_offsets
            if one.dtype in BITS and (end - begin) * 8 != one.count * BITS[one.dtype]:
                found.append(f"the tensor {name} has {end - begin} bytes, which its shape does not")
            if begin != at:
                found.append(f"the tensor {name} begins at byte {begin} and not at {at}")
            at = end
        if self.start + at != self.size:
            found.append(f"it has {self.size:,} bytes where {self.start + at:,} belong")
        return found


def read_header(file: Path) -> Header:
    """The header of a file. Blocks. Raises ValueError, saying what is wrong with it, and OSError."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        first = stream.read(LENGTH.size)
        if len(first) < LENGTH.size:
            raise ValueError(f"it has {size} bytes, less than a header's length takes")
        length = LENGTH.unpack(first)[0]
        if length > min(LONGEST, size - LENGTH.size):
            raise ValueError("its header is longer than the file")
        text = stream.read(length)
    try:
        raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        tensors = {name: msgspec.json.decode(one, type=Entry) for name, one in raw.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("its header cannot be read") from error
    return Header(tensors, LENGTH.size + length, size)
