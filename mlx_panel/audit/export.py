"""The log as a file, from the oldest row on, however many there are: JSON lines, CSV, Parquet.

JSON lines and CSV are made piece by piece; the next piece is made while the one before is sent, and no sooner. A Parquet
file is made whole, on disk, and sent from there. Each export has a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

import duckdb

from ..analytics import AuditFilter
from ..errors import AuditError, QueueFull
from .facts import fixed
from .kept import quoted
from .render import Lines, parquet_columns
from .store import AuditStore
from .where import where

T = TypeVar("T")
Step = Callable[[duckdb.DuckDBPyConnection], T]
FORMATS = ("jsonl", "csv", "parquet")
PLACES = 2
FILE_PIECE = 1 << 18  # bytes
NUDGE_SECONDS = 0.02


class Exports:
    """At most two exports at a time; what they need of the disk lies in `folder`, which nobody else may read."""

    def __init__(self, store: AuditStore, folder: Path):
        self._store, self.folder = store, folder
        self.under_way: set[Export] = set()

    def __repr__(self) -> str:
        return f"<Exports {len(self.under_way)} of {PLACES}>"

    def sweep(self) -> None:
        """Delete what a server left that was killed. Blocks."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self.folder.iterdir():
            left.unlink()

    def begin(self, filter: AuditFilter, format: str) -> Export:
        """An export to enter, read and leave. Raises QueueFull where as many run as may."""
        if len(self.under_way) >= PLACES:
            raise QueueFull(f"{PLACES} exports of the audit log run already.")
        path = self.folder / f"{uuid.uuid4().hex}.parquet" if format == "parquet" else None
        export = Export(self._store, filter, format, path, self.under_way.discard)
        self.under_way.add(export)
        return export


class Export:
    """One export: enter it, read `pieces()`, leave it. Leaving ends its query and deletes its file.

    `size` is the number of bytes, once it is entered, where that is known. Entering and reading raise AuditError.
    """

    def __init__(
        self,
        store: AuditStore,
        filter: AuditFilter,
        format: str,
        path: Path | None,
        left: Callable[[Export], None],
    ):
        self.size: int | None = None
        self._store, self._filter, self._path, self._left = store, filter, path, left
        self._lines = Lines(filter, format)
        self._file: BinaryIO | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="audit-export")
        self._lock = threading.Lock()
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._work: Future | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Export {self._lines!r}{' closed' if self._closed else ''}>"

    @property
    def made(self) -> int:
        """The id up to which rows were made into lines."""
        return self._lines.at or 0

    async def __aenter__(self) -> Self:
        prepared = False
        try:
            await self._do(self._prepare)
            prepared = True
        finally:
            if not prepared:
                await self._close()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The file's bytes in order."""
        yield self._lines.header
        coming = self._begin(self._next)
        while piece := await asyncio.wrap_future(coming):
            coming = self._begin(self._next)
            yield piece

    # --- in the thread ---------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        with contextlib.suppress(AuditError):
            self._store.flush(timeout=1.0)
        if self._path is not None:
            self.size = self._ask(partial(write_parquet, filter=self._filter, path=self._path))
            self._file = self._path.open("rb")

    def _next(self) -> bytes | None:
        return self._ask(self._lines.next) if self._file is None else self._file.read(FILE_PIECE)

    def _ask(self, step: Step[T]) -> T:
        """A cursor a question: one that is kept would outlive a file that the writer had to open anew."""
        try:
            with contextlib.closing(self._store.cursor()) as cursor, self._interruptible(cursor):
                return step(cursor)
        except duckdb.Error as error:
            raise AuditError(f"The audit log could not be exported ({type(error).__name__}).") from error

    @contextlib.contextmanager
    def _interruptible(self, cursor: duckdb.DuckDBPyConnection) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise AuditError("The export was cancelled.")
            self._cursor = cursor
        try:
            yield
        finally:
            with self._lock:
                self._cursor = None

    # --- on the loop -----------------------------------------------------------------------------------------

    def _begin(self, work: Callable[[], T]) -> Future[T]:
        self._work = future = self._thread.submit(work)
        return future

    async def _do(self, work: Callable[[], None]) -> None:
        await asyncio.wrap_future(self._begin(work))

    async def _close(self) -> None:
        self._closed = True
        try:
            while self._work is not None and not self._work.done():
                self._interrupt()
                await asyncio.sleep(NUDGE_SECONDS)
        finally:
            self._thread.submit(self._tidy)
            self._thread.shutdown(wait=False)
            self._left(self)

    def _interrupt(self) -> None:
        with self._lock:
            if self._cursor is not None:
                self._cursor.interrupt()

    def _tidy(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def write_parquet(cursor: duckdb.DuckDBPyConnection, *, filter: AuditFilter, path: Path) -> int:
    """Write the rows that match into a new file that only its owner may read, oldest first; its bytes. Blocks."""
    path.touch(mode=0o600)
    condition, bound = where(fixed(filter))
    kinds = dict(row[:2] for row in cursor.execute("DESCRIBE audit").fetchall())
    cursor.execute(
        f"COPY (SELECT {parquet_columns(kinds)} FROM audit WHERE {condition}) TO {quoted(path)} "
        "(FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)", bound,
    )  # fmt: skip
    return path.stat().st_size
