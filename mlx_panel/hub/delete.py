"""Deleting a model's files: out of sight at once, then off the disk, never beyond the folder itself. All of it blocks."""

from __future__ import annotations

import os
import re
import shutil
import stat
import uuid
from pathlib import Path

from ..errors import Conflict, Unavailable
from ..messages import LocalModel

BLOCK = 512  # what st_blocks counts in
DELETED = re.compile(r"\.(.+)\.[0-9a-f]{8}\.deleted")
LOCKS = ".locks"


def place_of(model: LocalModel, cache: Path | None) -> Path:
    """What is deleted with a model: its folder, or its whole repository in the hub's cache, every revision of it.

    Raises Conflict where its path is not what it should be.
    """
    path = Path(model.path)
    if model.source != "hub cache":
        return path
    repository = path.parent.parent
    if (
        path.parent.name != "snapshots"
        or repository.parent != cache
        or not repository.name.startswith("models--")
    ):
        raise Conflict(f"{path} does not lie where the hub's cache keeps models; nothing was deleted.")
    return repository


def hide(place: Path) -> Path:
    """Take a folder out of every list, in one step. Raises Conflict when it is gone, Unavailable when the disk refuses."""
    hidden = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.deleted")
    try:
        place.rename(hidden)
    except FileNotFoundError as error:
        raise Conflict("The model's folder is not there any more.") from error
    except OSError as error:
        raise Unavailable(f"The model's folder could not be deleted ({error.strerror}).") from error
    return hidden


def unhide(hidden: Path) -> None:
    """Put it back."""
    hidden.rename(hidden.with_name(_name(hidden)))


def remove(hidden: Path) -> int:
    """Delete what was hidden; the bytes of disk that this gave back. Links are deleted, what they lead to is not.

    Raises Unavailable where something of it cannot be deleted; that stays hidden.
    """
    before = occupied(hidden)
    try:
        if hidden.is_symlink():
            hidden.unlink()
        else:
            shutil.rmtree(hidden)
    except OSError as error:
        left = occupied(hidden)
        raise Unavailable(
            f"Not everything could be deleted ({error.strerror}): {left} bytes are left in {hidden.name}.",
            freed_bytes=before - left, left_bytes=left,
        ) from error  # fmt: skip
    shutil.rmtree(hidden.parent / LOCKS / _name(hidden), ignore_errors=True)
    return before - occupied(hidden)


def sweep(folder: Path | None) -> None:
    """Delete what a server that was killed had hidden already."""
    for path in folder.iterdir() if folder is not None and folder.is_dir() else ():
        if DELETED.fullmatch(path.name):
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path, ignore_errors=True)


def occupied(folder: Path) -> int:
    """Bytes of disk that deleting a folder gives back: a file that is also linked from elsewhere does not count."""
    files: dict[tuple[int, int], list[int]] = {}
    for place, folders, names in os.walk(folder) if not folder.is_symlink() else ():
        for name in (*folders, *names):
            try:
                one = os.lstat(os.path.join(place, name))
            except OSError:
                continue
            if stat.S_ISREG(one.st_mode):
                seen = files.setdefault((one.st_dev, one.st_ino), [one.st_nlink, 0, one.st_blocks * BLOCK])
                seen[1] += 1
    return sum(size for links, seen, size in files.values() if seen >= links)


def _name(hidden: Path) -> str:
    found = DELETED.fullmatch(hidden.name)
    assert found is not None, f"{hidden.name} was not hidden here"
    return found[1]
