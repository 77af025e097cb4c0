"""The models on this machine with what their files say: read once, and again when a folder changes."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..engine.embed.recipe import read_json
from ..library import LibraryModel
from ..messages import LocalModel
from .capabilities import CapabilityReader
from .disk import CONFIG, Shelf, missing_files
from .safetensors_header import read_header

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Listed(NamedTuple):
    """A model and what a person sees of it, as far as its files say."""

    model: LocalModel
    shown: LibraryModel


class Listing:
    """All models of a shelf, those included of which files are missing. Its calls block."""

    def __init__(self, shelf: Shelf, reader: CapabilityReader):
        self._shelf, self._reader = shelf, reader
        self._known: dict[str, tuple[Any, LibraryModel]] = {}

    def __repr__(self) -> str:
        return f"<Listing of {self._shelf!r}>"

    def all(self) -> list[Listed]:
        """By id, each once."""
        whole = [self._listed(model, ()) for model in self._shelf.scan()]
        parts = [self._listed(model, missing) for model, missing in self._shelf.incomplete()]
        found = [one for one in (*whole, *parts) if one is not None]
        self._known = {one.model.path: self._known[one.model.path] for one in found}
        return sorted(found, key=lambda one: one.model.id.lower())

    def _listed(self, model: LocalModel, missing: tuple[str, ...]) -> Listed | None:
        folder = Path(model.path)
        try:
            stamp = (model, missing, folder.stat().st_mtime_ns)
            if self._known.get(model.path, (None,))[0] != stamp:
                self._known[model.path] = (stamp, _shown(model, missing or missing_files(folder)))
        except OSError:  # deleted while we look
            return None
        capabilities = self._reader.read(folder, model.id)
        return Listed(model, msgspec.structs.replace(self._known[model.path][1], capabilities=capabilities))


def _shown(model: LocalModel, missing: tuple[str, ...]) -> LibraryModel:
    folder = Path(model.path)
    parameters, dtype = weights_of(folder)
    return LibraryModel(
        id=model.id, path=model.path, source=model.source, revision=folder.name if model.source == "hub cache" else "",
        bytes=_size(folder), parameters=parameters, dtype=model.dtype or dtype, created=float(model.created),
        state="incomplete" if missing else "available", complete=not missing, missing=missing,
    )  # fmt: skip


def weights_of(folder: Path) -> tuple[int, str]:
    """The weights that a folder's headers name, those counted that were packed, and the type of most of them; damaged
    files are left out."""
    quantization = read_json(folder / CONFIG).get("quantization")
    said = quantization if isinstance(quantization, dict) else {}
    counts: Counter[str] = Counter()
    for file in folder.glob("model*.safetensors"):
        try:
            tensors = read_header(file).tensors
        except (OSError, ValueError):
            continue
        for name, entry in tensors.items():
            layer, _, part = name.rpartition(".")
            packed = f"{layer}.scales" in tensors and part in ("weight", "scales", "biases")
            if not packed:
                counts[entry.dtype] += entry.count
            elif part == "scales":
                counts["packed"] += entry.count * _group(said, layer)
    most = counts.most_common(1)[0][0] if counts else ""
    return counts.total(), DTYPES.get(most, "")


def _group(said: dict[str, Any], layer: str) -> int:
    """The weights that a scale of a layer stands for."""
    own = said.get(layer)
    group = (own if isinstance(own, dict) else said).get("group_size", 64)
    return group if isinstance(group, int) else 64


def _size(folder: Path) -> int:
    """Bytes of a folder's files, those behind links too."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            total += path.stat().st_size if path.exists() else 0
    return total
