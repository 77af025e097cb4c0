"""What models are on this machine: folders of ours, and MLX models in the Hugging Face cache."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..engine.embed import recipe
from ..errors import Conflict, ModelNotFound
from ..messages import LocalModel
from ..settings import data_folder

CONFIG, SCRIPT, INDEX = "config.json", "fake.json", "model.safetensors.index.json"
SCRIPTED_CONTEXT = 4096
NAMED_AT_MOST = 20
SPARE_BYTES = 64 * 2**20
SHARD = re.compile(r"-(\d+)-of-(\d+)\.safetensors$")
TOKENS = re.compile(r"^(tokenizer|vocab|spiece|sentencepiece|tiktoken|merges)|\.tiktoken$")
# Names of the context length in the configs of different architectures.
CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
    "max_seq_len",
)


def hub_cache() -> Path:
    """The cache folder of the Hugging Face hub, as its own library finds it."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{base}/huggingface"
    return Path(home).expanduser() / "hub"


def models_folder() -> Path:
    """Where our model folders lie. The data folder is made for its owner's eyes only when it is missing."""
    data_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    return data_folder() / "models"


def need_space(folder: Path, size: int) -> None:
    """Raises Conflict unless `size` bytes and some to spare are free where `folder` is or will be."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < size + SPARE_BYTES:
        raise Conflict(f"This needs {size / 1e9:.2f} GB of disk in {place}; {free / 1e9:.2f} GB are free.")


class Shelf:
    """The models in some folders and in a hub cache (None: no cache).

    `scan()` and `find()` answer from memory while no folder has changed; otherwise they read the disk, so a server
    calls them in an executor.
    """

    def __init__(self, *folders: Path, cache: Path | None = None):
        self.folders = folders
        self.cache = cache
        self._stamp: tuple[tuple[str, int], ...] | None = None
        self._models: list[LocalModel] = []
        self._incomplete: list[tuple[LocalModel, tuple[str, ...]]] = []

    def __repr__(self) -> str:
        places = [str(folder) for folder in (*self.folders, self.cache) if folder]
        return f"<Shelf of {len(self._models)} models in {', '.join(places)}>"

    def scan(self) -> list[LocalModel]:
        """Every model, by id; of two with one id the one in the earlier folder, folders before the cache."""
        self._look()
        return list(self._models)

    def incomplete(self) -> list[tuple[LocalModel, tuple[str, ...]]]:
        """Folders that hold part of a model, each with the names of files that are missing; `scan` leaves them out."""
        self._look()
        return list(self._incomplete)

    def _look(self) -> None:
        stamp = tuple(self._stamps())
        if stamp == self._stamp:
            return
        found: dict[str, LocalModel] = {}
        partial: dict[str, tuple[LocalModel, tuple[str, ...]]] = {}
        for model, missing in self._read():
            if missing:
                partial.setdefault(model.id, (model, missing))
            else:
                found.setdefault(model.id, model)
        self._models = sorted(found.values(), key=lambda model: model.id.lower())
        self._incomplete = [partial[id] for id in sorted(partial.keys() - found.keys(), key=str.lower)]
        self._stamp = stamp

    def find(self, id: str) -> LocalModel:
        """The model of that id. Raises ModelNotFound naming the ids there are."""
        models = self.scan()
        for model in models:
            if model.id == id:
                return model
        raise ModelNotFound(
            f"There is no model of this name here. {_named([model.id for model in models])}", field="model"
        )

    def _read(self) -> Iterator[tuple[LocalModel, tuple[str, ...]]]:
        for path, id, source in self._places():
            try:
                missing = _missing(path)
                if not missing or (path / CONFIG).is_file() or _weight_files(path):
                    yield read_folder(path, id, source), missing
            except (
                FileNotFoundError
            ):  # deleted while we look; the folder's time has changed, so we look again
                continue

    def _places(self) -> Iterator[tuple[Path, str, str]]:
        for folder in self.folders:
            yield from ((path, path.name, "folder") for path in _visible(folder))
        yield from ((path, id, "hub cache") for id, path in _snapshots(self.cache))

    def _stamps(self) -> Iterator[tuple[str, int]]:
        """Times of change of every folder a model can appear in or vanish from; files inside a model are not looked at."""
        for folder in self.folders:
            yield from _stamp(folder)
            for path in _visible(folder):
                yield from _stamp(path)
        if self.cache is not None:
            yield from _stamp(self.cache)
            for _, path in _snapshots(self.cache):
                yield from _stamp(path)
                yield from _stamp(path.parent.parent / "blobs")


def holds_model(path: Path) -> bool:
    """Whether mlx-lm can open a folder: a config, and weights of which no file is missing; or a scripted model."""
    return not _missing(path)


def missing_files(path: Path) -> tuple[str, ...]:
    """The files that a model folder lacks: what `holds_model` asks for, and a tokenizer. Blocks."""
    script = not (path / CONFIG).is_file() and (path / SCRIPT).is_file()
    tokens = script or any(TOKENS.search(file.name) for file in path.iterdir())
    return (*_missing(path), *(() if tokens else ("tokenizer.json",)))


def _missing(path: Path) -> tuple[str, ...]:
    """Weights are named by the index, else by how the parts there are are numbered."""
    if not (path / CONFIG).is_file():
        return () if (path / SCRIPT).is_file() else (CONFIG,)
    if (path / INDEX).is_file():
        table = _json(path / INDEX).get("weight_map")
        names = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
        return tuple(name for name in names if not (path / name).is_file()) if names else (INDEX,)
    files = [file.name for file in _weight_files(path)]
    if not files:
        return ("model.safetensors",)
    parts = [match for name in files if (match := SHARD.search(name))]
    count = max((int(part[2]) for part in parts), default=0)
    present = {int(part[1]) for part in parts}
    return tuple(
        f"model-{one:05d}-of-{count:05d}.safetensors" for one in range(1, count + 1) if one not in present
    )


def read_folder(path: Path, id: str | None = None, source: str = "folder") -> LocalModel:
    """What a model folder holds, from its config and the sizes of its files."""
    created = int(path.stat().st_mtime)
    name = id or path.name
    if not (path / CONFIG).is_file():
        return LocalModel(name, str(path), "fake", "", 0, SCRIPTED_CONTEXT, created, source)
    config = _json(path / CONFIG)
    size = sum(file.stat().st_size for file in _weight_files(path))
    family = str(config.get("model_type", "unknown"))
    kind = recipe.kind_of(path, config, name)
    context = context_of(config) if kind == "text" else recipe.limit_of(path, config)
    return LocalModel(name, str(path), family, _dtype(config), size, context, created, source, kind)


def _weight_files(path: Path) -> list[Path]:
    return [file for file in path.glob("model*.safetensors") if file.is_file()]


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if _is_shown(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _is_shown(path: Path) -> bool:
    hidden = path.name.startswith(".") or path.name.endswith(".partial") or not _is_text(path.name)
    return not hidden and path.is_dir()


def _is_text(name: str) -> bool:
    """Whether a file's name can be said in JSON: on Linux one may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _snapshots(cache: Path | None) -> Iterator[tuple[str, Path]]:
    """(org/name, folder) of the revision of every cached repository that its main branch, else its latest, is at."""
    for repository in _visible(cache) if cache else []:
        kind, _, name = repository.name.partition("--")
        snapshots = _visible(repository / "snapshots")
        if kind == "models" and snapshots:
            main = _text(repository / "refs" / "main")
            named = [path for path in snapshots if path.name == main]
            yield name.replace("--", "/", 1), next(iter(named), max(snapshots, key=_changed))


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns


def _stamp(path: Path) -> Iterator[tuple[str, int]]:
    try:
        yield str(path), _changed(path)
    except FileNotFoundError:
        return


def _text(path: Path) -> str:
    return _read_or(path, "", str.strip)


def _json(path: Path) -> dict[str, Any]:
    value = _read_or(path, None, json.loads)
    return value if isinstance(value, dict) else {}


def _read_or(path: Path, default: Any, parse: Callable[[str], Any]) -> Any:
    """A file's text, parsed; the default where it vanished or is damaged, since others write these folders too."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return default


def _dtype(config: dict[str, Any]) -> str:
    quantization = config.get("quantization") or config.get("quantization_config") or {}
    if "bits" in quantization and "group_size" in quantization:
        return f"{quantization['bits']}-bit (group {quantization['group_size']})"
    text = config.get("text_config") or {}
    names = [part.get(key) for part in (config, text) for key in ("torch_dtype", "dtype")]
    return str(next((name for name in names if name), ""))


def context_of(config: dict[str, Any]) -> int:
    """The context length that a config states, tokens; 0 where it states none."""
    for part in [part for part in (config, config.get("text_config")) if isinstance(part, dict)]:
        for key in CONTEXT_KEYS:
            if isinstance(part.get(key), int):
                return part[key]
    return 0


def _named(ids: list[str]) -> str:
    if not ids:
        return "There is none at all; `mlx-panel models demo` fetches a small one."
    more = f" and {len(ids) - NAMED_AT_MOST} more" if len(ids) > NAMED_AT_MOST else ""
    return f"There are: {', '.join(ids[:NAMED_AT_MOST])}{more}."
