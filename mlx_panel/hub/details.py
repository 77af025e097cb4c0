"""One model in full: from the hub's answers, or from its folder on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..engine.embed.recipe import read_json
from ..errors import InvalidParameter
from ..library import Capabilities, HubDetails, HubFile, HubModel, LibraryModel
from . import hits
from .capabilities import CapabilityReader, Manners
from .disk import CONFIG

README = "README.md"
README_LIMIT = 256 << 10
CONFIG_LIMIT = 4 << 20
NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,127}", re.ASCII)
LICENCE = re.compile(r"^license:\s*['\"]?([\w.-]+)", re.MULTILINE)
WEIGHTS = re.compile(r"(^|/)model[^/]*\.safetensors$")


def check_name(id: str) -> None:
    """Raises InvalidParameter for what cannot be a model's name on the hub (owner/name, or one word)."""
    if not NAME.fullmatch(id) or ".." in id or "--" in id:
        raise InvalidParameter(
            "A model's name is owner/name, of letters, digits, '.', '-' and '_'.", field="model"
        )


def check_revision(revision: str) -> None:
    """Raises InvalidParameter for what cannot be a branch, a tag or a commit."""
    if not REVISION.fullmatch(revision) or ".." in revision:
        raise InvalidParameter("A revision is a branch, a tag or a commit.", field="revision")


def files_of(raw: Mapping[str, Any]) -> tuple[HubFile, ...]:
    """The files the hub tells of with `blobs=true`; those without a usable path or size are left out."""
    siblings = raw.get("siblings")
    some = [hits.table(one) for one in siblings] if isinstance(siblings, list) else []
    return tuple(file for one in some if (file := _file(one)) is not None)


def _file(raw: Mapping[str, Any]) -> HubFile | None:
    path, size, lfs = raw.get("rfilename"), raw.get("size"), hits.table(raw.get("lfs"))
    size = lfs.get("size", size)
    if not isinstance(path, str) or not isinstance(size, int) or size < 0 or not _inside(path):
        return None
    sha256, oid = lfs.get("sha256") or lfs.get("oid"), raw.get("blobId")
    return HubFile(
        path=path,
        bytes=size,
        sha256=sha256 if isinstance(sha256, str) else "",
        oid=oid if isinstance(oid, str) else "",
    )


def _inside(path: str) -> bool:
    """Whether a path stays in the folder it is written to."""
    parts = path.split("/")
    return all(part not in ("", ".", "..") for part in parts) and "\\" not in path and "\0" not in path


def weights_of(files: tuple[HubFile, ...]) -> int:
    """Bytes of the weights that would be loaded."""
    return sum(file.bytes for file in files if WEIGHTS.search(file.path)) or sum(
        file.bytes for file in files if file.path.endswith(".safetensors")
    )


def on_hub(
    raw: Mapping[str, Any], config: dict[str, Any], readme: str, reader: CapabilityReader
) -> HubDetails:
    """Details of what the hub told: `raw` of the model, its config where it could be read, and its README."""
    files, short = files_of(raw), hits.table(raw.get("config"))
    known = hits.hit({**raw, "config": {**short, **config}}) or HubModel(id="")
    can = reader.describe(
        {**short, **config},
        known.id,
        Manners(hits.template_of(short)),
        embeds="embedding" in known.capabilities,
    )
    weights = weights_of(files)
    model = msgspec.structs.replace(
        known, bytes=weights or known.bytes, estimated=known.estimated and not weights,
        capabilities=can.kinds if config else known.capabilities,
    )  # fmt: skip
    commit = raw.get("sha")
    return HubDetails(
        model=model, commit=commit if isinstance(commit, str) else "", files=files, config=config or short,
        readme=readme, licence=hits.licence_of(raw) or licence_in(readme), context_length=can.context_length,
        reason=unusable(model, hits.is_for_mlx(raw), bool(weights), can),
    )  # fmt: skip


def unusable(model: HubModel, for_mlx: bool, weights: bool, can: Capabilities) -> str:
    """Why a model cannot be had as it is, and what to do; "" for one that can."""
    find = f"Look for a conversion: `mlx-panel models search {model.id.rpartition('/')[2]}`."
    if not weights:
        return f"It holds no safetensors weights, which is what mlx-lm loads and converts. {find}"
    if not for_mlx and can.supported:
        return (
            "It is not made for MLX. It can be served as it is, but takes less memory and answers faster once "
            f"`mlx-panel models convert {model.id}` has quantised it."
        )
    return "" if can.supported else can.reason


def on_disk(model: LibraryModel) -> HubDetails:
    """Details of a model of this machine, read from its folder. Blocks."""
    folder = Path(model.path)
    readme = _head(folder / README)
    files = [
        HubFile(path=str(file.relative_to(folder)), bytes=file.stat().st_size)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]
    return HubDetails(
        model=hits.local_hit(model), commit=model.revision, files=tuple(files), config=read_json(folder / CONFIG),
        readme=readme, licence=licence_in(readme), context_length=model.capabilities.context_length,
        needed=model.expected, reason="" if model.capabilities.supported else model.capabilities.reason,
    )  # fmt: skip


def licence_in(readme: str) -> str:
    """The licence that a README's front matter (YAML between lines of dashes) names."""
    matter = readme.removeprefix("---").partition("\n---")[0] if readme.startswith("---") else ""
    found = LICENCE.search(matter)
    return found[1] if found else ""


def _head(file: Path) -> str:
    try:
        with file.open("rb") as source:
            return source.read(README_LIMIT).decode("utf-8", "replace")
    except OSError:
        return ""
