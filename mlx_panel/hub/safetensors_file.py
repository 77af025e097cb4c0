"""Writing a safetensors file piece by piece, so that a model larger than memory can be converted.

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4}


@dataclass(frozen=True)
class Output:
    """A tensor to write: `chunks()` yields its rows from first to last as arrays of the bytes of `dtype`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[np.ndarray]]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def write_safetensors(
    path: Path, outputs: Sequence[Output], progress: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write the tensors in their order; `progress` gets the bytes done and the bytes in all.

    Raises ValueError when a tensor's chunks do not add up to its shape.
    """
    total, done = sum(output.bytes for output in outputs), 0
    with path.open("wb") as stream:
        stream.write(_header(outputs))
        for output in outputs:
            start = done
            for chunk in output.chunks():
                stream.write(np.ascontiguousarray(chunk).data)
                done += chunk.nbytes
                progress(done, total)
            if done - start != output.bytes:
                raise ValueError(f"{output.name}: {done - start} bytes where {output.bytes} belong")


def _header(outputs: Sequence[Output]) -> bytes:
    table: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    offset = 0
    for output in outputs:
        end = offset + output.bytes
        table[output.name] = {"dtype": output.dtype, "shape": output.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
