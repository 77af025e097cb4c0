"""The DuckDB file of the audit log: opening it, its schema versions, and storing rows exactly once."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import duckdb

from ..errors import AuditError, AuditLocked
from .rows import Batch, Entry, pieces
from .schema import TABLES, migrate

# One thread and little memory: cores and memory belong to the models. No extension is ever fetched, and SQL cannot
# reach Python's variables.
CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "memory_limit": "512MB",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
}

UNUSABLE = (duckdb.FatalException, duckdb.InternalException, duckdb.ConnectionException)


class Database:
    """One audit file, open for writing from `open()` to `close()`, mode 0600. Open one a file.

    `append` belongs to one thread; `cursor` is for any. When somebody deletes or replaces the file, the next `append`
    moves to the one at `path` and takes the rows along: `moves` counts that, `lost` the rows of ours that could not be
    taken. A file overwritten in place is not noticed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._next_id = 0
        self._in_doubt = False
        self._opened: tuple[int, int] | None = None
        self._mine = 0
        self.moves = self.lost = 0

    def __repr__(self) -> str:
        state = "closed" if self._connection is None else "open"
        return f"<Database {self.path.name} {state}>"

    def open(self) -> None:
        """Open or create the file and bring its schema up to date. Raises AuditLocked or AuditError."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = duckdb.connect(str(self.path), config=CONFIG)
            migrate(self._connection)
            self._next_id = self._last_id() + 1
            self._take_in()
            self._opened = _identity(self.path)
        except (OSError, duckdb.Error) as error:
            self._disconnect()
            raise _unopened(self.path, error) from error
        except AuditError:
            self._disconnect()
            raise
        self._keep_private()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A cursor of one's own, for one thread. Close it: until then the file stays locked."""
        connection = self._connection
        if connection is None:
            raise AuditError("The audit log is not open.")
        return connection.cursor()

    def append(self, records: Sequence[AuditRecord]) -> int:
        """Store `records` in one commit; return how many of them, counted from the front, the file now holds.

        A commit that fails may still have reached the file. Give the same records again, more behind them or not:
        the call looks first what is there, and may then return less than all. Raises what DuckDB raises, and
        ValueError for a timestamp without a zone.
        """
        if self._in_doubt and (stored := self._settle()):
            return stored
        if self._connection is None:
            self.open()
        elif self._gone():
            self._follow()
        rows = [_row(self._next_id + number, record) for number, record in enumerate(records)]
        self._in_doubt = True
        self._commit(rows)
        self._in_doubt = False
        self._next_id += len(rows)
        self._mine += len(rows)
        return len(rows)

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

    def _commit(self, rows: list[tuple]) -> None:
        with contextlib.closing(self.cursor()) as cursor:
            appender = cursor.appender("audit")
            try:
                appender.append_rows(rows)
                appender.flush()
            finally:
                appender.clear()  # what a failure left in it must not come up again
        self._keep_private()

    def _settle(self) -> int:
        """How many rows of a commit in doubt are in the file. Opens it anew if DuckDB has given up on it."""
        expected = self._next_id
        try:
            self._next_id = self._last_id() + 1
        except (AuditError, *UNUSABLE):
            if self._gone():
                self._follow(readable=False)
                return 0
            self._disconnect()
            self.open()
        self._in_doubt = False
        stored = self._next_id - expected
        self._mine += stored
        return stored

    def _gone(self) -> bool:
        """Whether what is open was deleted, moved away or replaced."""
        return self._opened is not None and _identity(self.path) != self._opened

    def _follow(self, *, readable: bool = True) -> None:
        """Open what is at `path` now, or create it, with the rows of the file that was open if that is readable."""
        self.moves += 1
        self._opened, self._in_doubt = None, False
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
        copy = self._beside(".copy")
        try:
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            copy.unlink(missing_ok=True)
            with contextlib.closing(self.cursor()) as cursor:
                cursor.execute(f"ATTACH {_quoted(copy)} AS kept")
                os.chmod(copy, 0o600)
                cursor.execute("CREATE TABLE kept.audit AS SELECT * FROM audit ORDER BY id")
                cursor.execute("DETACH kept")
            # Under this name it is complete, also after a crash.
            os.replace(copy, self._beside(".kept"))
        except (OSError, duckdb.Error, AuditError):
            return False
        return True

    def _take_in(self) -> None:
        """Append the rows kept from a file that is gone, but for those that are here already."""
        kept = self._beside(".kept")
        if not kept.exists():
            return
        with contextlib.closing(self.cursor()) as cursor:
            cursor.execute(f"ATTACH {_quoted(kept)} AS kept (READ_ONLY)")
            # An older version may have kept them, without the columns that came since.
            known = {row[0] for row in cursor.execute("DESCRIBE kept.audit").fetchall()}
            names = ", ".join(f'"{name}"' for name in COLUMNS if name in known)
            cursor.execute(
                f"INSERT INTO audit (id, {names}) SELECT $first + row_number() OVER (ORDER BY id) - 1, {names} "
                "FROM kept.audit AS k WHERE NOT EXISTS (FROM audit AS a WHERE a.request_id = k.request_id "
                'AND a."timestamp" = k."timestamp") ORDER BY id',
                {"first": self._next_id},
            )
            cursor.execute("DETACH kept")
        kept.unlink()
        self._next_id = self._last_id() + 1

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _last_id(self) -> int:
        with contextlib.closing(self.cursor()) as cursor:
            (last,) = cursor.execute("SELECT coalesce(max(id), 0) FROM audit").fetchall()[0]
        return last

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


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _unopened(path: Path, error: Exception) -> AuditError:
    if "Could not set lock" not in str(error):
        return AuditError(f"{path} cannot be opened as an audit log ({type(error).__name__}).")
    holder = re.search(r"PID (\d+)", str(error))
    if holder is None:
        return AuditLocked(f"{path} is in use by another process.")
    return AuditLocked(f"{path} is in use by process {holder[1]}.", pid=int(holder[1]))
