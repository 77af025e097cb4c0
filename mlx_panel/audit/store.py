"""The audit log's writer: rows are handed over in no time and stored by one thread, a batch a commit."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from itertools import islice
from pathlib import Path

import duckdb

from ..errors import AuditError
from ..messages import AuditRecord
from .database import Database

logger = logging.getLogger(__name__)

# What says that a row is wrong rather than that the disk is: trying again is of no use.
REFUSED = (
    duckdb.DataError,
    duckdb.IntegrityError,
    duckdb.InvalidInputException,
    duckdb.NotSupportedError,
    AttributeError,
    TypeError,
    ValueError,
)


class AuditStore:
    """Stores audit rows in the DuckDB file at `path`; between `start()` and `close()` one thread writes it.

    A commit is made when `flush_rows` rows wait, or when the oldest has waited `flush_seconds`, and holds at most
    `flush_rows` rows. While the disk refuses, up to `capacity` rows wait in memory, and the writer tries again after
    pauses that grow from `flush_seconds` to 10 s. A row that is lost, because memory was full, because the store was
    closed, because it does not fit the table or because its file was deleted, counts in `failed`. A file that is
    deleted or replaced while it is open is noticed at the next commit, written anew with all its rows, and logged.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        flush_seconds: float = 0.25,
        flush_rows: int = 500,
        capacity: int = 100_000,
    ) -> None:
        if flush_seconds <= 0 or not 1 <= flush_rows <= capacity:
            raise ValueError("flush_seconds > 0 and 1 <= flush_rows <= capacity")
        self._database = Database(path)
        self._flush_seconds = flush_seconds
        self._flush_rows = flush_rows
        self._capacity = capacity
        self._rows: deque[AuditRecord] = deque()
        lock = threading.Lock()
        self._work = threading.Condition(lock)
        self._progress = threading.Condition(lock)
        self._thread: threading.Thread | None = None
        self._accepted = self._written = self._refused = self._lost = 0
        self._model_rows = 0
        self._wanted = 0  # flush() waits until this many rows have left
        self._due = self._not_before = (
            0.0  # monotonic: when the oldest row wants out; when the disk may be tried
        )
        self._failures = 0
        self._trouble = ""
        self._closed = False
        self._deadline = float("inf")

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._trouble or ("writing" if self._thread else "not started")
        return (
            f"<AuditStore {self.path.name} {state} "
            f"pending={self.pending} written={self.written} failed={self.failed}>"
        )

    @property
    def path(self) -> Path:
        return self._database.path

    @property
    def pending(self) -> int:
        """Rows in memory that are not committed."""
        return len(self._rows)

    @property
    def written(self) -> int:
        """Rows committed since `start()`."""
        return self._written

    @property
    def failed(self) -> int:
        """Rows that are lost."""
        return self._refused + self._lost + self._database.lost

    @property
    def trouble(self) -> str:
        """What keeps rows from being written now, by its class; "" when nothing does."""
        return self._trouble

    @property
    def model_rows(self) -> int:
        """Rows put so far that are about a model endpoint: any dialect but "management"."""
        return self._model_rows

    def start(self) -> None:
        """Open the file and start the writer. Blocks: on a loop, use a thread. Raises AuditLocked or AuditError."""
        if self._thread is not None or self._closed:
            raise AuditError("An audit store starts once.")
        self._database.open()
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self._thread.start()

    def put(self, record: AuditRecord) -> None:
        """Hand over a row, from any thread. Never waits for the disk and never raises."""
        with self._work:
            if self._closed or len(self._rows) >= self._capacity:
                self._lost += 1
                return
            self._rows.append(record)
            self._accepted += 1
            self._model_rows += record.dialect != "management"
            if len(self._rows) == 1:
                self._due = time.monotonic() + self._flush_seconds
            if len(self._rows) in (1, self._flush_rows):
                self._work.notify()

    def flush(self, timeout: float = 5.0) -> None:
        """Return when all rows put before are committed, or known to be lost. Blocks: on a loop, use a thread.

        Raises AuditError after `timeout` seconds; the rows stay in memory and are still tried.
        """
        with self._work:
            target = self._accepted
            self._wanted = max(self._wanted, target)
            self._work.notify()
            if not self._progress.wait_for(lambda: self._gone() >= target, timeout):
                raise AuditError("The audit log could not be written in time.", pending=len(self._rows))

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A cursor for reading, of one's own, for one thread. Close it before the store. Raises AuditError."""
        return self._database.cursor()

    def close(self, timeout: float = 5.0) -> None:
        """Commit what waits, trying for at most about `timeout` seconds, and unlock the file.

        Blocks: on a loop, use a thread. May be repeated.
        """
        with self._work:
            if self._closed:
                return
            self._closed = True
            self._deadline = time.monotonic() + timeout
            self._failures, self._not_before = 0, 0.0
            self._work.notify()
        if self._thread is not None:
            self._thread.join(timeout + 1.0)
        self._abandon()
        if self._thread is None or not self._thread.is_alive():
            self._close_database()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._store(batch)

    def _next_batch(self) -> list[AuditRecord]:
        """The rows of the next commit, once it is due; none when the store is closed and done.

        They stay in the queue until they are stored.
        """
        with self._work:
            while True:
                now, due = time.monotonic(), self._next_commit()
                if now >= self._deadline or (self._closed and not self._rows):
                    return []
                if now >= due:
                    return list(islice(self._rows, self._flush_rows))
                wait = min(due, self._deadline) - now
                self._work.wait(None if wait == float("inf") else wait)

    def _next_commit(self) -> float:
        """When (monotonic) the next commit is due; infinity while nothing waits."""
        if not self._rows:
            return float("inf")
        hurry = self._closed or len(self._rows) >= self._flush_rows or self._gone() < self._wanted
        return self._not_before if hurry else max(self._due, self._not_before)

    def _store(self, batch: list[AuditRecord]) -> None:
        started, moves = time.monotonic(), self._database.moves
        try:
            stored = self._database.append(batch)
        except REFUSED as error:
            self._narrow(batch, error)
        except Exception as error:  # the thread outlives any failure of the disk
            self._back_off(error)
        else:
            self._leave(written=stored, due=started + self._flush_seconds)
        self._tell_moved(moves)

    def _tell_moved(self, moves: int) -> None:
        if self._database.moves > moves:
            lost = self._database.lost
            logger.error("audit: the file was deleted or replaced; a new one goes on, %d rows lost", lost)

    def _narrow(self, batch: list[AuditRecord], error: Exception) -> None:
        """Find the row that does not fit by halves, and drop it alone."""
        if len(batch) > 1:
            self._store(batch[: len(batch) // 2])
            return
        logger.error("audit: a row is lost, it does not fit the table (%s)", type(error).__name__)
        self._leave(refused=1)

    def _leave(self, *, written: int = 0, refused: int = 0, due: float = 0.0) -> None:
        """Rows at the front of the queue are done with; those behind them are due at `due`."""
        with self._work:
            for _ in range(min(written + refused, len(self._rows))):  # fewer, if close() gave up meanwhile
                self._rows.popleft()
            self._written += written
            self._refused += refused
            self._due, self._not_before, self._failures = due, 0.0, 0
            trouble, self._trouble = self._trouble, ""
            self._progress.notify_all()
        if trouble:
            logger.warning("audit: writing again after %s, %d rows lost so far", trouble, self.failed)

    def _back_off(self, error: Exception) -> None:
        name = type(error).__name__
        with self._work:
            self._not_before = time.monotonic() + min(10.0, self._flush_seconds * 2**self._failures)
            self._failures = min(self._failures + 1, 10)
            known, self._trouble = self._trouble, name
            pending = len(self._rows)
        if name != known:
            logger.error("audit: writing fails (%s), %d rows wait in memory", name, pending)

    def _gone(self) -> int:
        return self._accepted - len(self._rows)

    def _abandon(self) -> None:
        with self._work:
            count = len(self._rows)
            self._lost += count
            self._rows.clear()
            self._progress.notify_all()
        if count:
            logger.error("audit: %d rows are lost, they could not be written before closing", count)

    def _close_database(self) -> None:
        moves = self._database.moves
        try:
            self._database.close()
        except (duckdb.Error, AuditError, OSError) as error:
            # The rows are safe in the write-ahead log, or in a copy; the next start folds them in.
            logger.warning("audit: no checkpoint at closing (%s)", type(error).__name__)
        self._tell_moved(moves)
