"""Which files of a repository a model for MLX needs: weights, configuration, tokenizer, templates, licence, README.

No code (`*.py`), no weights of other formats (`*.bin`, `*.pt`, `*.gguf`, `*.onnx`, `*.npz`), no pictures. Weights beside
`model*.safetensors`, which hold the same once more in another order, are left where they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import InvalidParameter
from ..library import HubFile

KINDS = (".json", ".jsonl", ".txt", ".model", ".jinja", ".tiktoken", ".md", ".vocab")
NAMES = re.compile(r"(LICEN[SC]E|NOTICE|README|USE_POLICY)(\.(md|txt))?", re.IGNORECASE)
# Folders beside the root: the modules of a sentence-transformers model, and further chat templates.
FOLDERS = re.compile(r"\d+_\w+|additional_chat_templates")
WEIGHTS = re.compile(r"(?:.*/)?model[^/]*\.safetensors")


def wanted(id: str, files: Sequence[HubFile]) -> tuple[HubFile, ...]:
    """The files to fetch, small ones first. Raises InvalidParameter for a repository without a config or weights for MLX."""
    near = [file for file in files if _near(file.path)]
    chosen = [file for file in near if WEIGHTS.fullmatch(file.path) or _is_small(file.path)]
    paths = {file.path for file in chosen}
    if "config.json" not in paths or not any(WEIGHTS.fullmatch(path) for path in paths if "/" not in path):
        raise InvalidParameter(
            f"{id} has no model*.safetensors with a config.json, and mlx-lm loads nothing else. Look for a version for MLX.",
            field="model",
        )
    return tuple(sorted(chosen, key=lambda file: (file.bytes, file.path)))


def _near(path: str) -> bool:
    folder, _, _ = path.rpartition("/")
    return not folder or FOLDERS.fullmatch(folder) is not None


def _is_small(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.endswith(KINDS) or NAMES.fullmatch(name) is not None
