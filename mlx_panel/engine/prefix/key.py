"""What a cached state depends on beside its tokens: the model's files, the tokenizer's, the number format."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import msgspec

# Raised when what a block on disk means changes; blocks of another format are never read.
FORMAT = 1
_TOKENIZER = (
    "tokenizer*",
    "*.tiktoken",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
_MAX_HEADER = 100_000_000


class ModelKey(msgspec.Struct, frozen=True):
    """Two engines may share cached states only if their keys are equal.

    `model` and `tokenizer` are hashes, `dtype` names the compute dtype and the KV cache's quantisation.
    """

    model: str
    tokenizer: str
    dtype: str
    format: int = FORMAT

    def digest(self) -> str:
        """32 hex digits that name this key's folder on disk."""
        return hashlib.blake2b(msgspec.json.encode(self), digest_size=16).hexdigest()


def model_key(folder: Path, *, kv_bits: int, kv_group_size: int, dtype: str) -> ModelKey:
    """The key of the model in `folder`, without reading its weights.

    Weights count with their safetensors headers (names, shapes), sizes and times of change. The version of mlx-lm
    counts too: a fix there changes what the same weights compute. Raises OSError where a file cannot be read.
    """
    weights = sorted(folder.glob("*.safetensors"))
    model = _hash([version("mlx-lm").encode(), _content(folder / "config.json"), *map(_outline, weights)])
    names = sorted({path for pattern in _TOKENIZER for path in folder.glob(pattern) if path.is_file()})
    tokenizer = _hash(part for path in names for part in (path.name.encode(), path.read_bytes()))
    kv = f"kv{kv_bits}g{kv_group_size}" if kv_bits else "kv"
    return ModelKey(model, tokenizer, f"{dtype}/{kv}")


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _outline(path: Path) -> bytes:
    """A weights file's name, size, time of change and header."""
    status = path.stat()
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = stream.read(min(length, _MAX_HEADER))
    return f"{path.name} {status.st_size} {status.st_mtime_ns} ".encode() + header


def _hash(parts: Iterable[bytes]) -> str:
    """One hash of all parts, each with its length, so that none can pass for two."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        hashed.update(struct.pack("<Q", len(part)) + part)
    return hashed.hexdigest()
