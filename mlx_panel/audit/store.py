"""The audit log's writer: rows are handed over in no time and stored by one thread, many a commit."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from ..errors import AuditError
from ..record import AuditDetail, AuditRecord, PoolEvent
from .chores import AFTER_FAILURE_SECONDS, Chore, Chores, T, Work
from .database import Database
from .rows import Entry
from .storage import Shrunk

logger = logging.getLogger(__name__)

MOST_ROWS = 10_000  # in a commit, unless more make one due

# What says that a row is wrong rather than that the disk is: trying again is of no use.
REFUSED = (
    duckdb.DataError,
    duckdb.IntegrityError,
    duckdb.InvalidInputException,
    duckdb.NotSupportedError,
    msgspec.ValidationError,
    AttributeError,
    TypeError,
    ValueError,
)


class AuditStore:
    """Stores audit rows in the DuckDB file at `path`; between `start()` and `close()` one thread writes it.

    A commit is made when `flush_rows` rows wait, or when the oldest has waited `flush_seconds`, and holds all that wait,
    up to 10,000. While the disk refuses, up to `capacity` rows wait in memory, and the writer tries again after pauses
    that grow from `flush_seconds` to 10 s. A row that is lost, because memory was full, because the store was closed,
    because it breaks a rule or because its file was deleted, counts in `failed`. A file that is deleted or replaced
    while it is open is noticed at the next commit, written anew with all its rows, and logged.

    `committed` are called in the writer's thread after each commit of requests, with the id of the first and the rows,
    whose ids ascend by one. `housekeeping` are called there between commits, each with a cursor of its own, at start and
    again after as many seconds as it returned; each takes some tens of milliseconds at most.
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
        self._rows: deque[Entry] = deque()
        self._chores = Chores()
        self._chores_turn = False
        self.committed: list[Callable[[int, Sequence[AuditRecord]], None]] = []
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
        """Rows committed since `start()`, of requests and of pool events."""
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
        self._database.open(shrink=True)
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self._thread.start()

    @property
    def shrunk(self) -> Shrunk | None:
        """How the file was made smaller at the start; None if it was not."""
        return self._database.shrunk

    @property
    def housekeeping(self) -> list[Chore]:
        return self._chores.chores

    def put(self, record: AuditRecord, detail: AuditDetail | None = None) -> None:
        """Hand over a row and what is kept beside it, from any thread. Never waits for the disk and never raises."""
        if self._accept((record, detail)):
            self._model_rows += record.dialect != "management"

    def note(self, event: PoolEvent) -> None:
        """Hand over what became of a model, like a row."""
        self._accept(event)

    def _accept(self, entry: Entry) -> bool:
        with self._work:
            if self._closed or len(self._rows) >= self._capacity:
                self._lost += 1
                return False
            self._rows.append(entry)
            self._accepted += 1
            if len(self._rows) == 1:
                self._due = time.monotonic() + self._flush_seconds
            if len(self._rows) in (1, self._flush_rows):
                self._work.notify()
            return True

    def in_writer(self, work: Work[T]) -> Future[T]:
        """Run `work` with a cursor in the writer's thread, between two commits; no commit is in doubt then.

        The future raises AuditError when the store is closed, else what `work` does.
        """
        with self._work:
            future = self._chores.add(work)
            if self._closed:
                self._chores.abandon()
            self._work.notify()
        return future

    def soon(self, chore: Chore) -> None:
        """Ask one of `housekeeping` as soon as possible."""
        with self._work:
            self._chores.soon(chore)
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
        while step := self._next_step():
            step()

    def _next_step(self) -> Callable[[], None] | None:
        """What to do, once it is due; None when the store is closed and done. Rows stay in the queue until stored."""
        with self._work:
            while True:
                now, commit = time.monotonic(), self._next_commit()
                if now >= self._deadline or (self._closed and not self._rows):
                    return None
                # No job while a commit is in doubt; else jobs and commits take turns when both are due.
                chore = float("inf") if self._closed or self._failures else self._chores.due()
                if now >= commit and not (self._chores_turn and now >= chore):
                    self._chores_turn = True
                    return partial(self._store, list(islice(self._rows, max(self._flush_rows, MOST_ROWS))))
                if now >= chore:
                    self._chores_turn = False
                    return self._next_chore()
                wait = min(commit, chore, self._deadline) - now
                self._work.wait(None if wait == float("inf") else wait)

    def _next_chore(self) -> Callable[[], None]:
        if job := self._chores.take_job():
            return partial(self._do, *job)
        return partial(self._keep_house, self._chores.take_chore())

    def _do(self, work: Work[Any], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            with contextlib.closing(self._database.cursor()) as cursor:
                found = work(cursor)
        except Exception as error:  # whoever gave the job is told
            future.set_exception(error)
        else:
            future.set_result(found)

    def _keep_house(self, chore: Chore) -> None:
        try:
            with contextlib.closing(self._database.cursor()) as cursor:
                seconds = chore(cursor)
        except Exception as error:  # the thread outlives any failure of the disk
            seconds = AFTER_FAILURE_SECONDS
            logger.error("audit: housekeeping fails (%s), again in %d s", type(error).__name__, seconds)
        with self._work:
            self._chores.done(chore, seconds)

    def _next_commit(self) -> float:
        """When (monotonic) the next commit is due; infinity while nothing waits."""
        if not self._rows:
            return float("inf")
        hurry = self._closed or len(self._rows) >= self._flush_rows or self._gone() < self._wanted
        return self._not_before if hurry else max(self._due, self._not_before)

    def _store(self, batch: list[Entry]) -> None:
        started, moves = time.monotonic(), self._database.moves
        try:
            stored = self._database.append(batch)
        except REFUSED as error:
            self._narrow(batch, error)
        except Exception as error:  # the thread outlives any failure of the disk
            self._back_off(error)
        else:
            self._leave(written=stored, due=started + self._flush_seconds)
            self._tell_committed(batch[:stored])
        self._tell_moved(moves)

    def _tell_committed(self, entries: list[Entry]) -> None:
        records = [entry[0] for entry in entries if isinstance(entry, tuple)]
        for listener in self.committed if records else ():
            try:
                listener(self._database.next_id - len(records), records)
            except Exception as error:  # the thread outlives any listener
                logger.error("audit: a listener failed (%s)", type(error).__name__)

    def _tell_moved(self, moves: int) -> None:
        if self._database.moves > moves:
            lost = self._database.lost
            logger.error("audit: the file was deleted or replaced; a new one goes on, %d rows lost", lost)

    def _narrow(self, batch: list[Entry], error: Exception) -> None:
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
            self._chores.abandon()
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
