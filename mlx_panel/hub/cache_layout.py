"""One model's folder in the hub cache, in the layout that huggingface_hub 1 and 2 write and read.

    models--org--name/blobs/<etag>              a file's content; the etag is its SHA-256, or its Git blob id
    models--org--name/snapshots/<commit>/<path> a symbolic link to ../../blobs/<etag>
    models--org--name/refs/<revision>           the commit a branch or tag was at
    .locks/models--org--name/<etag>.lock        held by whoever writes that blob

A file that is on its way is `blobs/<etag>.mlx-panel.incomplete`: a name of our own, so that nobody else writes to it,
which the tools that count and prune the cache know by its end. All of it blocks.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from ..errors import HubUnavailable

PARTIAL = ".mlx-panel.incomplete"
ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
LOCK_MODE = 0o664  # as huggingface_hub: several people may share a cache
LOCK_SECONDS = 0.2
TAG = "CACHEDIR.TAG"
# Others know a cache by this first line (bford.info/cachedir); backups leave it out.
TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# This file marks a folder whose content can be fetched again.\n"


class CachedRepository:
    """The folder of a model in a cache, which need not exist yet."""

    def __init__(self, cache: Path, id: str):
        self.id, self.cache = id, cache
        self.name = f"models--{id.replace('/', '--')}"
        self.folder = cache / self.name
        self.blobs = self.folder / "blobs"

    def __repr__(self) -> str:
        return f"<CachedRepository {self.folder}>"

    def make(self) -> None:
        """Make the folders."""
        self.blobs.mkdir(parents=True, exist_ok=True)
        (self.cache / ".locks" / self.name).mkdir(parents=True, exist_ok=True)
        if not (self.cache / TAG).exists():
            (self.cache / TAG).write_text(TAG_TEXT, encoding="ascii")

    def blob(self, etag: str) -> Path:
        return self.blobs / etag

    def partial(self, etag: str) -> Path:
        return self.blobs / f"{etag}{PARTIAL}"

    def have(self, etag: str, size: int) -> int:
        """How many bytes of a blob are here, whole or in part; 0 for one that is too long."""
        for file in (self.blob(etag), self.partial(etag)):
            with contextlib.suppress(FileNotFoundError):
                here = file.stat().st_size
                return here if here <= size else 0
        return 0

    def holds(self, etag: str, size: int) -> bool:
        """Whether a blob is here in full."""
        try:
            return self.blob(etag).stat().st_size == size
        except FileNotFoundError:
            return False

    # --- others at work --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def lock(self, etag: str, waiting: Callable[[], None]) -> Iterator[None]:
        """The right to write a blob, among all programs on this cache. `waiting` is called again and again while
        another has it, and may raise."""
        held = self._acquire(etag, waiting)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                held.release()

    def _acquire(self, etag: str, waiting: Callable[[], None]) -> BaseFileLock:
        file = self.cache / ".locks" / self.name / f"{etag}.lock"
        lock: BaseFileLock = FileLock(file, mode=LOCK_MODE)
        while True:
            try:
                lock.acquire(timeout=LOCK_SECONDS)
                return lock
            except Timeout:
                waiting()
            except NotImplementedError:  # a file system without locks
                lock = SoftFileLock(file, mode=LOCK_MODE)

    def adopt(self, etag: str, size: int) -> bool:
        """Go on with what another program has left of a blob where we have less; needs the lock. Whether there was any."""
        own = self.partial(etag)
        have = own.stat().st_size if own.exists() else 0
        left = [
            file
            for file in self.blobs.glob(f"{etag}*.incomplete")
            if file != own and have < file.stat().st_size <= size
        ]
        if left:
            max(left, key=lambda file: file.stat().st_size).replace(own)
        return bool(left)

    # --- what others see -------------------------------------------------------------------------------------

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def complete(self, commit: str, files: Mapping[str, str]) -> bool:
        """Whether the snapshot of a commit has all these files (path: etag)."""
        return all((self.snapshot(commit) / path).exists() for path in files)

    def publish(self, commit: str, revision: str, files: Mapping[str, str]) -> None:
        """Make the snapshot of a commit with these files (path: etag), whose blobs are all here; then the revision's name.

        A new snapshot appears at once with all of its files. One that others have begun gets its config last, without
        which no program takes it for a model.
        """
        place = self.snapshot(commit)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            made = self.folder / f".{commit}.mlx-panel"
            shutil.rmtree(made, ignore_errors=True)
            _link(made, files)
            with contextlib.suppress(OSError):  # another program has begun it in this moment
                made.rename(place)
            shutil.rmtree(made, ignore_errors=True)
        _link(place, dict(sorted(files.items(), key=lambda one: one[0] == "config.json")))
        if revision != commit:
            self._name(revision, commit)

    def _name(self, revision: str, commit: str) -> None:
        ref = self.folder / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        made = ref.with_name(f"{ref.name}.mlx-panel.tmp")
        made.write_text(commit, encoding="ascii")
        made.replace(ref)

    # --- what nobody needs -----------------------------------------------------------------------------------

    def linked(self) -> set[str]:
        """The etags that some snapshot shows."""
        links = (path for path in (self.folder / "snapshots").rglob("*") if path.is_symlink())
        return {os.path.basename(os.readlink(path)) for path in links}

    def drop(self, etags: Iterable[str]) -> int:
        """Delete what is here of these blobs, but those that a snapshot shows or another program writes; the bytes freed."""
        linked, freed = self.linked(), 0
        for etag in set(etags) - linked:
            here = [file for file in (self.partial(etag), self.blob(etag)) if file.exists()]
            try:
                with self.lock(etag, _give_up) if here else contextlib.nullcontext():
                    freed += sum(map(_delete, here))
            except (Busy, FileNotFoundError):
                continue
        for folder in (self.blobs, self.folder, self.cache / ".locks" / self.name):
            with contextlib.suppress(OSError):  # something is in it
                folder.rmdir()
        return freed


class Busy(Exception):
    """Another program has the lock."""


def _give_up() -> None:
    raise Busy


def _delete(file: Path) -> int:
    try:
        size = file.stat().st_size
        file.unlink()
    except FileNotFoundError:
        return 0
    return size


def _link(folder: Path, files: Mapping[str, str]) -> None:
    """Links to blobs for a folder that is, or will be, `snapshots/<commit>`; those that lead somewhere stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, etag in files.items():
        link = folder / path
        if link.exists():
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        up = "../" * (2 + path.count("/"))
        with contextlib.suppress(FileExistsError):  # another program was faster
            link.symlink_to(f"{up}blobs/{etag}")


def etag_of(path: str, sha256: str, oid: str) -> str:
    """The name of a file's blob. Raises HubUnavailable where the hub tells no hash of it, or something else."""
    etag = sha256 or oid
    if not ETAG.fullmatch(etag):
        raise HubUnavailable(f"The hub tells no checksum of {path}, so it cannot be fetched safely.")
    return etag
