"""The prefix cache's second tier: blocks as files that survive a restart.

The files hold content (what a model computed, and the tokens), so they are for their owner alone: folders 0700, files
0600. Several processes may share a folder: a file appears complete or not at all, and one that is gone is a miss.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ...site import site
from .blocks import Block, Snapshot
from .files import BadBlock, Stored, decode, encode, header, metadata, tensors
from .folder import BLOCK, SNAPSHOT, Entry, listed, models, parse, surplus
from .key import ModelKey
from .layout import Layout

log = logging.getLogger(__name__)

# Bytes that may wait for the writer; what comes then is not written this time.
PENDING = 128 << 20
# When room is needed, a little more is made, so that not every write has to look for some.
SLACK = 0.05
# After so many writes the folder is measured again: other processes write there too.
MEASURE_EVERY = 64
_HEAD = 64 << 10
_STALE_SECONDS = 3600.0
_MOST_CONTINUATIONS = 64


class DiskTier:
    """Files of one model key below `folder`; `budget` bytes is the room for all models' files there together.

    Reading happens on the caller's thread (the one that uses mlx), writing and deleting on one thread of its own.
    `refused` counts files that were bad: each is named in a warning, deleted, and computed again.
    """

    def __init__(self, folder: Path, key: ModelKey, *, budget: int, pending: int = PENDING):
        self.root, self.key = folder, key.digest()
        self.folder = folder / self.key
        self.refused = 0
        self._era = 0
        self._budget, self._pending = budget, pending
        self._lock = threading.Lock()
        self._entries: dict[tuple[bytes, str], Entry] = {}
        self._after: dict[bytes, set[Entry]] = {}
        self._tokens: dict[Entry, bytes] = {}
        self._queued: dict[tuple[bytes, str], int] = {}
        self._bytes = self._written = 0
        self._closed = False
        self._make()
        self._list()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="prefix-disk")
        if self._bytes > budget:
            self._do(self._make_room, 0)

    def __repr__(self) -> str:
        return f"<DiskTier {self.blocks} files, {self.nbytes} of {self.budget} bytes, {len(self._queued)} to write>"

    @property
    def blocks(self) -> int:
        """Files of this model."""
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all models' files, as last measured."""
        return self._bytes

    @property
    def budget(self) -> int:
        return self._budget

    @budget.setter
    def budget(self, room: int) -> None:
        self._budget = room
        self._do(self._make_room, 0)

    # --- reading -----------------------------------------------------------------------------------------------

    def entry(self, digest: bytes, sort: str = BLOCK) -> Entry | None:
        """The file of a block, or of the snapshot at its end."""
        return self._entries.get((digest, sort))

    def knows(self, digest: bytes, sort: str = BLOCK) -> bool:
        """Whether there is such a file or there will be."""
        return (digest, sort) in self._entries or (digest, sort) in self._queued

    def after(self, parent: bytes) -> list[tuple[Entry, bytes]]:
        """Files that continue a block, with their tokens; those of a great many are not all looked at."""
        with self._lock:
            entries = list(self._after.get(parent, ()))[:_MOST_CONTINUATIONS]
        return [(entry, tokens) for entry in entries if (tokens := self._read_tokens(entry)) is not None]

    def tails(self, parent: bytes, block: int) -> list[Entry]:
        """Snapshots less than a block after `parent`."""
        with self._lock:
            return [
                entry
                for entry in self._after.get(parent, ())
                if entry.sort == SNAPSHOT and entry.tokens < block
            ]

    def load(self, entry: Entry) -> Stored | None:
        """What a file holds; None, and the file is gone, when it is missing or bad."""
        try:
            return decode((self.folder / entry.name).read_bytes(), self.key, entry.digest)
        except BadBlock as bad:
            self.refuse(entry, str(bad))
        except OSError as error:
            self._missed(entry, error)
        return None

    def refuse(self, entry: Entry, reason: str) -> None:
        """Say that a file is bad, and delete it."""
        self.refused += 1
        log.warning("refused the cached block %s: %s", entry.name, reason)
        self._forget(entry)
        self._do(self._delete, entry)

    def used(self, digest: bytes, sort: str = BLOCK) -> None:
        """Mark a file, and with it all that it continues, as just used."""
        entry = self._entries.get((digest, sort))
        if entry is not None:
            self._do(self._mark, entry)

    def _read_tokens(self, entry: Entry) -> bytes | None:
        known = self._tokens.get(entry)
        if known is not None:
            return known
        try:
            with (self.folder / entry.name).open("rb") as stream:
                tokens = bytes.fromhex(header(stream.read(_HEAD))["__metadata__"]["tokens"])
        except (BadBlock, LookupError, TypeError, ValueError):
            self.refuse(entry, "its header cannot be read")
            return None
        except OSError as error:
            self._missed(entry, error)
            return None
        self._tokens[entry] = tokens
        return tokens

    def _missed(self, entry: Entry, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            log.warning("cannot read the cached block %s: %s", entry.name, type(error).__name__)
        self._forget(entry)

    # --- writing -----------------------------------------------------------------------------------------------

    def save(self, block: Block, layout: Layout, snapshot: Snapshot | None = None) -> bool:
        """Write a block, or the snapshot at its end (with the block itself where it is a tail), in the background.

        False when too much waits already, or there is no room for it at all. The arrays are computed here if they are
        not yet.
        """
        parent = block.parent.digest if block.parent is not None else block.digest
        sort = BLOCK if snapshot is None else SNAPSHOT
        entry = Entry(parent, block.digest, sort, block.end - block.start)
        size = (snapshot.nbytes if snapshot is not None else 0) + block.nbytes
        with self._lock:
            too_much = sum(self._queued.values()) + size > self._pending
            if self._closed or too_much or size > self._budget:
                return False
            self._queued[entry.digest, sort] = size
        with_slices = snapshot is None or block.tail
        stored = Stored(
            parent,
            block.tokens,
            layout,
            list(block.arrays) if with_slices else [],
            snapshot.spec if snapshot is not None else "",
            list(snapshot.arrays) if snapshot is not None else [],
        )
        meta, parts = metadata(stored, self.key), tensors(stored)
        self._do(self._save, entry, lambda: encode(meta, parts), self._era)
        return True

    def clear(self) -> None:
        """Delete this model's files, in the background, those that still wait to be written too."""
        with self._lock:
            self._era += 1
            entries = list(self._entries.values())
        for entry in entries:
            self._forget(entry)
        self._do(self._sweep)

    def close(self, timeout: float = 10.0) -> bool:
        """Wait for what is to be written, `timeout` seconds at most; False if that was not enough."""
        if self._closed:
            return True
        self._closed = True
        last = self._writer.submit(lambda: None)
        try:
            last.result(timeout)
            return True
        except TimeoutError:
            log.warning("left %d cached blocks unwritten", len(self._queued))
            return False
        finally:
            self._writer.shutdown(wait=False, cancel_futures=True)

    # --- on the writer's thread ----------------------------------------------------------------------------------

    def _save(self, entry: Entry, contents: Callable[[], list[bytes | memoryview]], era: int) -> None:
        """Write a block, unless all was forgotten since; then the sweep that waits behind it takes what it left."""
        try:
            parts = contents() if era == self._era else []
            size = sum(len(part) for part in parts)
            if parts and self._make_room(size):
                self._write(entry, parts)
                if era == self._era:
                    self._enter(entry, size)
        except OSError as error:
            log.warning("cannot write cached blocks: %s", type(error).__name__)
        finally:
            with self._lock:
                self._queued.pop((entry.digest, entry.sort), None)

    def _write(self, entry: Entry, parts: list[bytes | memoryview]) -> None:
        """Under another name first: a crash leaves no half file that looks whole. Not synced: checksums tell."""
        self._make()
        temporary = self.folder / f".{entry.name}.{os.getpid()}.tmp"
        try:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(file, "wb") as stream:
                for part in parts:
                    stream.write(part)
            temporary.replace(self.folder / entry.name)
        finally:
            temporary.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Delete every file of this model."""
        for file in listed(self.folder):
            file.path.unlink(missing_ok=True)
            self._bytes = max(0, self._bytes - file.size)
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def _make_room(self, size: int) -> bool:
        """Delete what is least worth keeping until `size` bytes fit. False if they never will."""
        self._written += 1
        if self._bytes + size > self.budget or self._written % MEASURE_EVERY == 0:
            files = [file for folder in models(self.root) for file in listed(folder)]
            self._bytes = sum(file.size for file in files)
            if self._bytes + size > self.budget:
                for file in surplus(files, int(self.budget * (1 - SLACK)) - size):
                    file.path.unlink(missing_ok=True)
                    self._bytes -= file.size
                    if file.path.parent == self.folder:
                        self._forget(file.entry)
        return size <= self.budget

    def _delete(self, entry: Entry) -> None:
        path = self.folder / entry.name
        try:
            size = path.stat().st_size
            path.unlink()
            self._bytes -= size
        except FileNotFoundError:
            pass

    def _mark(self, entry: Entry) -> None:
        try:
            os.utime(self.folder / entry.name)
        except FileNotFoundError:
            self._forget(entry)

    # --- inside --------------------------------------------------------------------------------------------------

    def _do(self, work: Callable, *arguments: object) -> None:
        if not self._closed:
            self._writer.submit(work, *arguments).add_done_callback(_report)

    def _make(self) -> None:
        self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.folder.chmod(0o700)

    def _list(self) -> None:
        """Learn by name what is there, and remove what a crash left behind."""
        for path in self.folder.glob(".*.tmp"):
            if parse(path.name[1:].rsplit(".", 2)[0]) and time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink(missing_ok=True)
        for file in listed(self.folder):
            self._enter(file.entry, 0)
        self._bytes = sum(file.size for folder in models(self.root) for file in listed(folder))

    def _enter(self, entry: Entry, size: int) -> None:
        with self._lock:
            self._entries[entry.digest, entry.sort] = entry
            self._after.setdefault(entry.parent, set()).add(entry)
            self._bytes += size

    def _forget(self, entry: Entry) -> None:
        with self._lock:
            self._entries.pop((entry.digest, entry.sort), None)
            self._after.get(entry.parent, set()).discard(entry)
            self._tokens.pop(entry, None)


def _report(done: Future) -> None:
    error = None if done.cancelled() else done.exception()
    if error is not None:
        log.error("the cache's writer failed: %s", site(error))
