"""Copies of the audit log as it is at a moment, for queries that must not touch the log itself."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from ..errors import AuditError
from .sql_child import Child
from .store import AuditStore

# What is copied while the writer waits; more is copied beside it, and again if a checkpoint came in between.
SMALL_BYTES = 64 << 20
TRIES = 3
PATIENCE = 10  # times what the copy of a large log took, it is used again
STALE_SECONDS = 5.0  # also without a new row: other tables may have changed
ROOM = 256 << 20  # bytes that a copy leaves free for the log itself
WAIT_SECONDS = 30.0


class Snapshot:
    """A copy at `path`; `as_of` is when it was the log. Its maker deletes it when `users` are gone."""

    def __init__(self, path: Path, written: int, patience: float):
        self.path = path
        self.as_of = datetime.now(UTC)
        self.written = written
        self.patience = patience  # seconds for which it will do whatever was written since
        self.made = time.monotonic()
        self.users = 0

    def __repr__(self) -> str:
        return f"<Snapshot {self.path.name} of {self.as_of:%H:%M:%S}, {self.users} users>"

    def fresh(self, written: int) -> bool:
        """Whether it will do for a question asked now."""
        age = time.monotonic() - self.made
        return age < self.patience or (written == self.written and age < STALE_SECONDS)


class Snapshots:
    """The copies of the store's file, in `folder`. Calls block and may come from several threads."""

    def __init__(self, store: AuditStore, folder: Path, small_bytes: int = SMALL_BYTES):
        self._store = store
        self._small_bytes = small_bytes
        self._folder = folder
        self._lock = threading.Lock()
        self._last: Snapshot | None = None
        self._count = 0

    def __repr__(self) -> str:
        return f"<Snapshots {self._last!r}>"

    @contextlib.contextmanager
    def current(self, child: Child) -> Iterator[Snapshot]:
        """The log as it is now, or was some seconds ago where copying takes long; `child` makes the copy.

        Holds every row put before. Raises AuditError.
        """
        with contextlib.suppress(AuditError):
            self._store.flush(timeout=1.0)
        with self._lock:
            if self._last is None or not self._last.fresh(self._store.written):
                made = self._make(child)
                self._drop()
                self._last = made
            snapshot = self._last
            snapshot.users += 1
        try:
            yield snapshot
        finally:
            with self._lock:
                snapshot.users -= 1
                if snapshot is not self._last and not snapshot.users:
                    snapshot.path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete what nobody uses."""
        with self._lock:
            self._drop()

    def sweep(self) -> None:
        """Delete what an earlier server left."""
        with self._lock:
            for file in self._folder.glob("*.duckdb*"):
                file.unlink(missing_ok=True)

    def _drop(self) -> None:
        last, self._last = self._last, None
        if last is not None and not last.users:
            last.path.unlink(missing_ok=True)

    def _make(self, child: Child) -> Snapshot:
        child.wait()
        begun, written = time.monotonic(), self._store.written
        self._count += 1
        target = self._folder / f"{self._count}.duckdb"
        target.unlink(missing_ok=True)
        small = self._measure() <= self._small_bytes
        if small or not self._beside(child, target):
            self._within(child, target)
        return Snapshot(target, written, 0.0 if small else PATIENCE * (time.monotonic() - begun))

    def _measure(self) -> int:
        """Bytes of the log. Raises AuditError where there is no room for a copy."""
        try:
            size = self._store.path.stat().st_size
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise AuditError(f"The audit log could not be copied to be read: {error.strerror}.") from error
        if free < size + ROOM:
            raise AuditError(
                f"The audit log could not be copied to be read: the disk has {free >> 20:,} MiB left, and the log "
                f"has {size >> 20:,} MiB."
            )
        return size

    def _within(self, child: Child, target: Path) -> None:
        """Copy in the writer's thread: nothing is written meanwhile."""

        def work(cursor: duckdb.DuckDBPyConnection) -> None:
            cursor.execute("CHECKPOINT")
            child.copy(self._store.path, target)

        self._in_writer(work)

    def _beside(self, child: Child, target: Path) -> bool:
        """Copy while the writer goes on; False where checkpoints came in between each time."""
        for _ in range(TRIES):
            self._in_writer(lambda cursor: cursor.execute("CHECKPOINT") and None)
            if child.copy(self._store.path, target).same:
                return True
            target.unlink(missing_ok=True)
        return False

    def _in_writer(self, work: object) -> None:
        try:
            self._store.in_writer(work).result(WAIT_SECONDS)  # type: ignore[arg-type]
        except TimeoutError as error:
            raise AuditError("The audit log's writer is busy; it could not be copied to be read.") from error
        except duckdb.Error as error:
            raise AuditError(
                f"The audit log could not be copied to be read ({type(error).__name__})."
            ) from error
