"""SQL over one's own audit log: one SELECT, in a process that can reach nothing, over a copy of the log.

`SqlConsole` is the server's; `query` works on a file that no server has open.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from ..errors import AuditError, ClientGone, InvalidParameter, QueueFull
from ..inquiry import SavedQuery, SqlOrder, SqlResult
from ..sandbox.wire import Format, Query
from .sql_child import Child
from .sql_children import Children, Run
from .sql_saved import SavedQueries
from .sql_schema import Table, schema
from .sql_snapshot import SMALL_BYTES, Snapshots
from .store import AuditStore

T = TypeVar("T")
AT_ONCE = 2
WAITING = 20
WAIT_SECONDS = 10.0
IDLE_SECONDS = 60.0  # after the last query: then the spare process ends and the copy is deleted
LONGEST_SQL = 100_000  # characters
MOST_BYTES = 64 << 20  # of a result
CPU_ROOM = 5  # seconds


class SqlLimits(msgspec.Struct, frozen=True):
    """The most that a query may take."""

    timeout_seconds: float = 10.0
    memory_mb: int = 512
    max_rows: int = 10_000


class SqlConsole:
    """Answers SQL from copies of the store's log in `folder`, mode 0700: two queries at a time, in a process each.

    A query waits `wait_seconds` for its turn. A log of at most `small_bytes` is copied while its writer waits, a larger
    one beside it. `idle_seconds` after the last query nothing of all this is left but the folder. Every coroutine may
    be cancelled, which ends the process. `open()` once before, `close()` before the store's own.
    """

    def __init__(
        self,
        store: AuditStore,
        folder: Path,
        limits: Callable[[], SqlLimits],
        *,
        wait_seconds: float = WAIT_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
        small_bytes: int = SMALL_BYTES,
    ):
        self._store = store
        self._folder = folder
        self._limits = limits
        self._queries = SavedQueries(folder.parent / "queries.toml")
        self._snapshots = Snapshots(store, folder, small_bytes)
        self._children = Children(folder / "empty")
        self._executor = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="audit-sql")
        self._places = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._wait_seconds, self._idle_seconds = wait_seconds, idle_seconds
        self._idle: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<SqlConsole {self._folder} {self._children!r}{' closed' if self._closed else ''}>"

    def open(self) -> None:
        """Make the folder, delete what an earlier server left in it, and read the saved queries. Blocks."""
        (self._folder / "empty").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        self._snapshots.sweep()
        self._queries.load()

    def close(self) -> None:
        """End what runs and delete the copies. Blocks; may be repeated."""
        self._closed = True
        self._children.close(AuditError("The audit log is closed."))
        self._executor.shutdown(cancel_futures=True)
        self._snapshots.clear()

    # --- queries ---------------------------------------------------------------------------------------------

    async def run(self, order: SqlOrder) -> SqlResult:
        """What a SELECT found.

        Raises InvalidSql, InvalidParameter, SqlTimeout, SqlMemoryExceeded, SqlResultTooLarge, SqlFailed, QueueFull,
        AuditError.
        """
        return msgspec.json.decode(await self.run_json(order), type=SqlResult)

    async def run_json(self, order: SqlOrder) -> bytes:
        """The same as JSON."""
        return await self._placed(order, "json")

    async def run_arrow(self, order: SqlOrder) -> bytes:
        """The same as an Arrow IPC stream. Its schema's metadata say `truncated`, `took_ms` and `as_of`."""
        return await self._placed(order, "arrow")

    async def schema(self) -> list[Table]:
        """What can be asked for: the tables with their columns. Raises AuditError."""
        tables = await self._in_thread(self._schema)
        self._rest_later()
        return tables

    async def _placed(self, order: SqlOrder, format: Format) -> bytes:
        limits = checked(order, self._limits())
        await self._take_place()
        try:
            return await self._awaited(order.sql, limits, format)
        finally:
            self._places.release()
            self._rest_later()

    async def _take_place(self) -> None:
        if self._waiting >= WAITING:
            raise QueueFull("Too many SQL queries wait.")
        self._waiting += 1
        try:
            await asyncio.wait_for(self._places.acquire(), self._wait_seconds)
        except TimeoutError:
            raise QueueFull(f"{AT_ONCE} SQL queries run, and none has ended for a while.") from None
        finally:
            self._waiting -= 1

    async def _awaited(self, sql: str, limits: SqlLimits, format: Format) -> bytes:
        """The answer. Whoever no longer waits for it ends its process, and goes when that is gone."""
        run = Run()
        answer = asyncio.ensure_future(self._in_thread(self._answer, run, sql, limits, format))
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            run.stop(ClientGone())
            await asyncio.wait((answer,))
            if not answer.cancelled():
                answer.exception()
            raise

    def _answer(self, run: Run, sql: str, limits: SqlLimits, format: Format) -> bytes:
        child = self._children.take()
        try:
            run.has(child)
            with self._snapshots.current(child) as snapshot:
                return asked(child, snapshot.path, sql, limits, format, snapshot.as_of)
        finally:
            self._children.done(child)

    def _schema(self) -> list[Table]:
        self._children.stock()  # whoever asks what there is will ask for some of it
        with contextlib.closing(self._store.cursor()) as cursor:
            return schema(cursor)

    async def _in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        if self._closed:
            raise AuditError("The audit log is closed.")
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    def _rest_later(self) -> None:
        """Have a process ready, and give it and the copy up when nothing more comes."""
        if self._idle is not None:
            self._idle.cancel()
        if not self._closed:
            self._executor.submit(self._children.stock)
            self._idle = asyncio.get_running_loop().call_later(self._idle_seconds, self._rest)

    def _rest(self) -> None:
        if not self._closed:
            self._executor.submit(self._children.rest)
            self._executor.submit(self._snapshots.clear)

    # --- saved queries ---------------------------------------------------------------------------------------

    def saved(self) -> list[SavedQuery]:
        """Those that come with the server, and those that were saved, by name."""
        return self._queries.all()

    def find(self, name: str) -> SavedQuery:
        """Raises NotFound."""
        return self._queries.find(name)

    async def save(self, query: SavedQuery, replaces: str = "") -> SavedQuery:
        """Keep a query; `replaces` is the name it had before. Raises InvalidParameter, NotFound, Conflict."""
        return await asyncio.to_thread(self._queries.save, query, replaces)

    async def delete(self, name: str) -> None:
        """Raises NotFound, and Conflict for one that comes with the server."""
        await asyncio.to_thread(self._queries.delete, name)


def query(path: str | Path, order: SqlOrder, limits: SqlLimits = SqlLimits()) -> SqlResult:  # noqa: B008
    """The same for a log that no server has open. Blocks.

    Raises what `SqlConsole.run` raises; AuditLocked names the process that has the file open.
    """
    limits = checked(order, limits)
    with tempfile.TemporaryDirectory(prefix="mlx-panel-sql-") as folder:
        child = Child(Path(folder))
        try:
            body = asked(
                child, Path(path).expanduser().resolve(), order.sql, limits, "json", datetime.now(UTC)
            )
        finally:
            child.end()
    return msgspec.json.decode(body, type=SqlResult)


def asked(child: Child, path: Path, sql: str, limits: SqlLimits, format: Format, as_of: datetime) -> bytes:
    """The answer of a process about the file at `path`."""
    order = Query(
        path=str(path),
        sql=sql,
        max_rows=limits.max_rows,
        max_bytes=MOST_BYTES,
        memory_bytes=limits.memory_mb << 20,
        # The backstop of the clock here: one thread works, and what it did before counts as well.
        cpu_seconds=math.ceil(limits.timeout_seconds) + CPU_ROOM,
        format=format,
        as_of=as_of.isoformat().replace("+00:00", "Z"),
    )
    _, body = child.query(order, limits.timeout_seconds)
    return body


def checked(order: SqlOrder, limits: SqlLimits) -> SqlLimits:
    """What an order may take. Raises InvalidParameter."""
    if len(order.sql) > LONGEST_SQL:
        raise InvalidParameter(f"sql has at most {LONGEST_SQL:,} characters.", field="sql")
    rows = limits.max_rows if order.max_rows is None else order.max_rows
    if not 1 <= rows <= limits.max_rows:
        raise InvalidParameter(
            f"max_rows is 1 to {limits.max_rows} (setting sql_max_rows).", field="max_rows"
        )
    seconds = limits.timeout_seconds if order.timeout_seconds is None else order.timeout_seconds
    if not 0 < seconds <= limits.timeout_seconds:
        raise InvalidParameter(
            f"timeout_seconds is more than 0 and at most {limits.timeout_seconds:g} (setting sql_timeout_seconds).",
            field="timeout_seconds",
        )
    return SqlLimits(seconds, limits.memory_mb, rows)
