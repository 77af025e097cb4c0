"""Where a server could leave something: its folders and files, and where what it prints goes. Blocks on the disk."""

from __future__ import annotations

import fcntl
import glob
import os
import stat
import sys
from pathlib import Path

from .orders import Spot

MOST = 512 << 20  # bytes that are read of places which are not ours alone
DATABASE, PREFIX = "audit log", "prefix cache on disk"
REST = "settings, presets, state and the rest of the data folder"
ON_PURPOSE = (
    "content, on purpose: a model's state for prompts seen before, with their token numbers, not encrypted; files with "
    "canaries are deleted again"
)
STREAMS = ((1, "standard output"), (2, "standard error"))
CHANGED = "files that changed since the canaries were made"


def spots(folder: Path, run: Path, cache: Path, temporary: Path) -> list[Spot]:
    """Everything of this server on the disk. `folder` is its data folder, `run` that of its sockets, `cache` the hub's."""
    database = sorted(glob.glob(glob.escape(str(folder / "audit.duckdb")) + "*"))
    known = {
        name: str(folder / name) for name in ("logs", "prefix", "benchmarks", "models", "exports", "sql")
    }
    inside = (*database, *known.values(), str(run))
    elsewhere = (str(folder), str(cache), str(run))
    said, words = printed()
    found = [
        Spot(DATABASE, tuple(database), note="the file and its write-ahead log, byte by byte"),
        Spot("logs", (known["logs"],), plant=known["logs"], note="of the workers' processes"),
        Spot(PREFIX, (known["prefix"],), expected=True, note=ON_PURPOSE),
        Spot("copies of the log for SQL", (known["sql"],), plant=known["sql"]),
        Spot("exports under way", (known["exports"],), plant=known["exports"]),
        Spot("benchmarks", (known["benchmarks"],)),
        Spot("models", (known["models"],), most=MOST),
        Spot("sockets' folder", (str(run),), plant=str(run)),
        Spot(REST, (str(folder),), inside, plant=str(folder)),
        Spot("hub cache", (str(cache),), most=MOST),
        Spot("temporary files", (str(temporary),), elsewhere, plant=str(temporary), most=MOST, note=CHANGED),
    ]
    return [*found, Spot("what the server prints, where it goes", tuple(said), note=words)]


def printed() -> tuple[list[str], str]:
    """The files that this process's output goes to, and in words where it goes."""
    files, words = [], []
    for descriptor, name in STREAMS:
        kind, file = _target(descriptor)
        words.append(f"{name}: {kind}")
        if file and file not in files:
            files.append(file)
    return files, "; ".join(words)


def _target(descriptor: int) -> tuple[str, str]:
    """What a descriptor leads to, and its path if that is a file."""
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return "a file, searched", _path(descriptor)
        if os.isatty(descriptor):
            return "a terminal, which cannot be read back", ""
    except OSError:
        return "closed", ""
    return "a pipe or a device, which cannot be read back", ""


def _path(descriptor: int) -> str:
    if sys.platform == "darwin":
        return fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0").decode()
    return os.readlink(f"/proc/self/fd/{descriptor}")
