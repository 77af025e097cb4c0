"""The tensor types of a GGUF file: from their blocks to floats, and to mlx's packed form without any rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

GROUP = 32

# https://github.com/ggml-org/ggml/blob/master/include/ggml.h, enum ggml_type
ORDER = """F32 F16 Q4_0 Q4_1 Q4_2 Q4_3 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K
    IQ2_XXS IQ2_XS IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16
    Q4_0_4_4 Q4_0_4_8 Q4_0_8_8 TQ1_0 TQ2_0 IQ4_NL_4_4 IQ4_NL_4_8 IQ4_NL_8_8 MXFP4 NVFP4 Q1_0"""
TYPE_NAMES = dict(enumerate(ORDER.split()))


def type_name(kind: int) -> str:
    return TYPE_NAMES.get(kind, f"number {kind}")


@dataclass(frozen=True)
class Block:
    """A tensor type: `bytes` bytes hold `values` values of a row. `bits` is 0 for floats.

    `floats` turns rows of blocks into float32 rows. Of a quantised type, `scales` gives the scale and the bias of every
    group as float16, and `codes` the unsigned codes, so that value = scale * code + bias.
    """

    values: int
    bytes: int
    bits: int
    floats: Callable[[np.ndarray], np.ndarray]
    codes: Callable[[np.ndarray], np.ndarray] | None = None
    scales: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (rows, columns) as mlx keeps them: uint32 words, the first code in the lowest bits."""
    if bits == 4:
        codes = codes[:, 0::2] | codes[:, 1::2] << 4
    return np.ascontiguousarray(codes).view("<u4")


def _blocks(rows: np.ndarray, size: int) -> np.ndarray:
    return np.ascontiguousarray(rows).reshape(len(rows), -1, size)


def _half(blocks: np.ndarray, start: int) -> np.ndarray:
    """The float16 that stands at a byte of every block: (rows, groups)."""
    return np.ascontiguousarray(blocks[..., start : start + 2]).view("<f2")[..., 0]


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """A block keeps its first 16 codes in the low halves of its bytes and its last 16 in the high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1)


def _q4_0_codes(rows: np.ndarray) -> np.ndarray:
    return _nibbles(_blocks(rows, 18)[..., 2:])


def _q4_0_scales(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = _half(_blocks(rows, 18), 0)
    return scale, scale * np.float16(-8)


def _q4_1_codes(rows: np.ndarray) -> np.ndarray:
    return _nibbles(_blocks(rows, 20)[..., 4:])


def _q4_1_scales(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    blocks = _blocks(rows, 20)
    return _half(blocks, 0), _half(blocks, 2)


def _q8_0_codes(rows: np.ndarray) -> np.ndarray:
    # int8 plus 128 is the same bits with the sign bit turned over
    return (_blocks(rows, 34)[..., 2:] ^ 128).reshape(len(rows), -1)


def _q8_0_scales(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = _half(_blocks(rows, 34), 0)
    return scale, scale * np.float16(-128)


def _unquantised(
    codes: Callable[[np.ndarray], np.ndarray], scales: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> Callable[[np.ndarray], np.ndarray]:
    def floats(rows: np.ndarray) -> np.ndarray:
        scale, bias = (part.astype(np.float32)[..., None] for part in scales(rows))
        grouped = codes(rows).reshape(*scale.shape[:2], GROUP)
        return (grouped * scale + bias).reshape(len(rows), -1)

    return floats


def _float32(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows).view("<f4")


def _float16(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows).view("<f2").astype(np.float32)


def _bfloat16(rows: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(rows).view("<u2").astype(np.uint32) << 16).view(np.float32)


def _quantised(
    size: int,
    bits: int,
    codes: Callable[[np.ndarray], np.ndarray],
    scales: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> Block:
    return Block(GROUP, size, bits, _unquantised(codes, scales), codes, scales)


BLOCKS = {
    "F32": Block(1, 4, 0, _float32),
    "F16": Block(1, 2, 0, _float16),
    "BF16": Block(1, 2, 0, _bfloat16),
    "Q4_0": _quantised(18, 4, _q4_0_codes, _q4_0_scales),
    "Q4_1": _quantised(20, 4, _q4_1_codes, _q4_1_scales),
    "Q8_0": _quantised(34, 8, _q8_0_codes, _q8_0_scales),
}
