"""The DuckDB file of the audit log: opening it, its schema versions, and storing rows exactly once."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb

from ..errors import AuditError, AuditLocked
from . import kept
from .rows import Batch, Entry, pieces
from .schema import migrate
from .shrink import shrunk
from .storage import Shrunk

# One thread and little memory: cores and memory belong to the models. No extension is ever fetched, and SQL cannot
# reach Python's variables.
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "memory_limit": "512MB",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
}

INSTEAD = (
    "DuckDB lets one process have the file. While a server has it, ask that server: `mlx-panel audit`, the export of "
    "`GET /v1/admin/audit-logs/export`, or `mlx_panel.connect(url)` in Python."
)
UNUSABLE = (duckdb.FatalException, duckdb.InternalException, duckdb.ConnectionException)


class _Doubt(NamedTuple):
    """A commit of which it is not known whether it reached the file, and how many events that had before."""

    entries: int
    rows: int
    events: int


class Database:
    """One audit file, open for writing from `open()` to `close()`, mode 0600. Open one a file.

    `append` belongs to one thread; `cursor` is for any. When somebody deletes or replaces the file, the next `append`
    moves to the one at `path` and takes the rows along: `moves` counts that, `lost` the rows of ours that could not be
    taken. A file overwritten in place is not noticed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self.next_id = 0
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._doubt: _Doubt | None = None
        self._opened: tuple[int, int] | None = None
        self._mine = 0
        self.moves = self.lost = 0
        self.shrunk: Shrunk | None = None

    def __repr__(self) -> str:
        state = "closed" if self._connection is None else "open"
        return f"<Database {self.path.name} {state}>"

    def open(self, *, shrink: bool = False) -> None:
        """Open or create the file and bring its schema up to date. Raises AuditLocked or AuditError.

        With `shrink`, a file that is mostly free space is written anew first; `shrunk` says so.
        """
        self._connect()
        if shrink and self._connection is not None and (done := shrunk(self._connection, self.path)):
            self.shrunk = done
            self._disconnect()
            self._connect()
        self._keep_private()

    def _connect(self) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = duckdb.connect(str(self.path), config=CONFIG)
            migrate(self._connection)
            self._take_in()
            self.next_id = self._last_id() + 1
            self._opened = _identity(self.path)
        except (OSError, duckdb.Error) as error:
            self._disconnect()
            raise unopened(self.path, error) from error
        except AuditError:
            self._disconnect()
            raise

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A cursor of one's own, for one thread. Close it: until then the file stays locked."""
        connection = self._connection
        if connection is None:
            raise AuditError("The audit log is not open.")
        return connection.cursor()

    def append(self, entries: Sequence[Entry]) -> int:
        """Store `entries` in one commit; return how many of them, counted from the front, the file now holds.

        Requests get the ids from `next_id` on. A commit that fails may still have reached the file. Give the same
        entries again, more behind them or not: the call looks first what is there, and may then return less than all.
        Raises what DuckDB raises, and what `rows.Batch` does for a row that breaks a rule.
        """
        if self._doubt is not None and (stored := self._settle(self._doubt)):
            return stored
        if self._connection is None:
            self.open()
        elif self._gone():
            self._follow()
        batch = Batch(self.next_id, entries)
        self._doubt = _Doubt(len(entries), len(batch.audit), self._count_events() if batch.events else 0)
        self._commit(batch)
        self._doubt = None
        self.next_id += len(batch.audit)
        self._mine += len(batch.audit)
        return len(entries)

    def close(self) -> None:
        """Fold the write-ahead log into the file and unlock it.

        May raise duckdb.Error, AuditError or OSError; it is closed even then.
        """
        try:
            if self._connection is not None:
                if self._gone():
                    self._follow()
                self._connection.execute("CHECKPOINT")
        finally:
            self._disconnect()

    def _commit(self, batch: Batch) -> None:
        with contextlib.closing(self.cursor()) as cursor:
            cursor.begin()
            for table, rows, size in batch.tables():
                appender = cursor.appender(table)
                try:
                    for _, piece in pieces(rows, size):
                        appender.append_rows(piece)
                    appender.flush()
                finally:
                    appender.clear()  # what a failure left in it must not come up again
            cursor.commit()
        self._keep_private()

    def _settle(self, doubt: _Doubt) -> int:
        """How many entries of a commit in doubt are in the file. Opens it anew if DuckDB has given up on it."""
        expected = self.next_id
        try:
            last = self._last_id()
        except (AuditError, *UNUSABLE):
            if self._gone():
                self._follow(readable=False)
                return 0
            self._disconnect()
            self.open()
            last = self._last_id()
        # All of it is there, or nothing: it was one transaction.
        landed = last >= expected if doubt.rows else self._count_events() > doubt.events
        self._doubt, self.next_id = None, last + 1
        if not landed:
            return 0
        self._mine += doubt.rows
        return doubt.entries

    def _gone(self) -> bool:
        """Whether what is open was deleted, moved away or replaced."""
        return self._opened is not None and _identity(self.path) != self._opened

    def _follow(self, *, readable: bool = True) -> None:
        """Open what is at `path` now, or create it, with the rows of the file that was open if that is readable."""
        self.moves += 1
        self._opened, self._doubt = None, None
        if not (readable and self._keep_rows()):
            self.lost += self._mine
            self._mine = 0
        with contextlib.suppress(duckdb.Error):
            self._disconnect()
        if _identity(self.path) is None:
            # A write-ahead log without its file would be taken for the new file's.
            self._beside(".wal").unlink(missing_ok=True)
        self.open()

    def _keep_rows(self) -> bool:
        """Copy the rows into a file beside the log, from which `open` takes them; False where that cannot be."""
        try:
            with contextlib.closing(self.cursor()) as cursor:
                kept.keep(cursor, self._beside(".copy"))
            # Under this name it is complete, also after a crash.
            os.replace(self._beside(".copy"), self._beside(".kept"))
        except (OSError, duckdb.Error, AuditError):
            return False
        return True

    def _take_in(self) -> None:
        """Append the rows kept from a file that is gone, but for those that are here already."""
        if self._beside(".kept").exists():
            with contextlib.closing(self.cursor()) as cursor:
                kept.take_in(cursor, self._beside(".kept"), self._last_id() + 1)
            self._beside(".kept").unlink()

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _last_id(self) -> int:
        """The highest id that a request ever got, also when its row is gone by now."""
        # The row itself, not max(id): DuckDB takes that from figures that a commit which failed leaves wrong.
        stored = self._number("SELECT id FROM audit ORDER BY id DESC LIMIT 1")
        return max(stored, self._number("SELECT last_id FROM serial"))

    def _count_events(self) -> int:
        return self._number("SELECT count(*) FROM pool_event")

    def _number(self, question: str) -> int:
        with contextlib.closing(self.cursor()) as cursor:
            rows = cursor.execute(question).fetchall()
        return rows[0][0] if rows else 0

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _keep_private(self) -> None:
        # DuckDB creates its write-ahead log anew after each checkpoint, readable by all. A file that belongs to
        # somebody else keeps its mode.
        for name in (self.path, f"{self.path}.wal"):
            with contextlib.suppress(FileNotFoundError, PermissionError):
                os.chmod(name, 0o600)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is at `path`, whatever its content; None without one."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def unopened(path: Path, error: Exception) -> AuditError:
    """What it means that DuckDB could not open the file."""
    if "Could not set lock" not in str(error):
        return AuditError(f"{path} cannot be opened as an audit log ({type(error).__name__}).")
    holder = re.search(r"PID (\d+)", str(error))
    if holder is None:
        return AuditLocked(f"{path} is in use by another process. {INSTEAD}")
    return AuditLocked(f"{path} is in use by process {holder[1]}. {INSTEAD}", pid=int(holder[1]))
