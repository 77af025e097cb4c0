"""The folder of the disk tier: how its files are named, and which of them go first when room is needed.

`<folder>/<digest of the model key>/<parent>-<digest>-<sort><tokens>.safetensors`: who follows whom can be read from
the names, so starting means listing a folder and no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

BLOCK, SNAPSHOT = "b", "s"
_NAME = re.compile(r"([0-9a-f]{32})-([0-9a-f]{32})-([bs])(\d{1,6})\.safetensors")
_KEY = re.compile(r"[0-9a-f]{32}")


class Entry(NamedTuple):
    """A file of the tier: `tokens` tokens after those of `parent`; `sort` is BLOCK or SNAPSHOT."""

    parent: bytes
    digest: bytes
    sort: str
    tokens: int

    @property
    def name(self) -> str:
        return f"{self.parent.hex()}-{self.digest.hex()}-{self.sort}{self.tokens}.safetensors"


class Listed(NamedTuple):
    """An entry as it lies on disk; bytes, and nanoseconds since 1970."""

    path: Path
    entry: Entry
    size: int
    used: int


def parse(name: str) -> Entry | None:
    """The entry a file is named after, None for any other file."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    parent, digest, sort, count = match.groups()
    return Entry(bytes.fromhex(parent), bytes.fromhex(digest), sort, int(count))


def listed(folder: Path) -> list[Listed]:
    """All entries in a model's folder; files that vanish meanwhile, or are none of ours, are left out."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        entry = parse(path.name)
        if entry is not None:
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append(Listed(path, entry, status.st_size, status.st_mtime_ns))
    return found


def models(root: Path) -> list[Path]:
    """The folders of all models' keys."""
    return [path for path in root.iterdir() if _KEY.fullmatch(path.name)] if root.is_dir() else []


def worth_keeping(files: Iterable[Listed]) -> list[Listed]:
    """Files from the most to the least worth keeping: by last use, and a block never after one that continues it.

    Only the last block that was used is marked so (its file's time); those before it count as used with it.
    """
    files = sorted(files, key=lambda file: file.used, reverse=True)
    blocks = {(file.path.parent, file.entry.digest): file for file in files if file.entry.sort == BLOCK}
    kept: dict[Path, Listed] = {}
    for file in files:
        chain: list[Listed] = [file]
        before = _before(file, blocks)
        while before is not None and before.path not in kept:
            chain.append(before)
            before = _before(before, blocks)
        for link in reversed(chain):
            kept.setdefault(link.path, link)
    return list(kept.values())


def _before(file: Listed, blocks: dict[tuple[Path, bytes], Listed]) -> Listed | None:
    """The block a file cannot be used without."""
    own = blocks.get((file.path.parent, file.entry.digest))
    if own is not None and own is not file:
        return own
    return blocks.get((file.path.parent, file.entry.parent))


def surplus(files: Sequence[Listed], room: int) -> list[Listed]:
    """Which files to delete so that the rest takes at most `room` bytes, in the order to delete them."""
    over = sum(file.size for file in files) - room
    doomed = []
    for file in reversed(worth_keeping(files)) if over > 0 else ():
        if over <= 0:
            break
        doomed.append(file)
        over -= file.size
    return doomed
