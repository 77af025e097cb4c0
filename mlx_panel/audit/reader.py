"""Reading the audit log from a loop that must not wait: queries run in a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import duckdb

from ..errors import AuditError
from ..snapshot import AuditPage
from . import queries
from .store import AuditStore

Answer = TypeVar("Answer")


class AuditReader:
    """Asks the log off the loop, two questions at a time. Close it before the store.

    An answer holds every row put before the question, unless the disk keeps the writer waiting for over a second.
    """

    def __init__(self, store: AuditStore) -> None:
        self._store = store
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="audit-reader")
        self._closed = False

    def __repr__(self) -> str:
        return f"<AuditReader {self._store.path.name}{' closed' if self._closed else ''}>"

    async def page(self, **filters: Any) -> AuditPage:
        """`queries.page` with these keyword arguments. Raises InvalidParameter or AuditError."""
        return await self.ask(lambda cursor: queries.page(cursor, **filters))

    async def totals(self, **filters: Any) -> dict[str, int]:
        """`queries.totals`."""
        return await self.ask(lambda cursor: queries.totals(cursor, **filters))

    async def recent_ttft(self, seconds: float = 60.0) -> float | None:
        """`queries.recent_ttft`, milliseconds."""
        return await self.ask(lambda cursor: queries.recent_ttft(cursor, seconds))

    def close(self) -> None:
        """Wait for the question being answered and drop those that wait. Blocks: on a loop, use a thread."""
        self._closed = True
        self._executor.shutdown(cancel_futures=True)

    async def ask(self, question: Callable[[duckdb.DuckDBPyConnection], Answer]) -> Answer:
        """What `question` makes of a cursor of its own, in a thread of the reader. Raises AuditError."""
        if self._closed:
            raise AuditError("The audit log is closed.")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._answer, question)

    def _answer(self, question: Callable[[duckdb.DuckDBPyConnection], Answer]) -> Answer:
        with contextlib.suppress(AuditError):
            self._store.flush(timeout=1.0)
        # A cursor a question: one that is kept would outlive a file the writer had to open anew.
        try:
            with contextlib.closing(self._store.cursor()) as cursor:
                return question(cursor)
        except duckdb.Error as error:
            raise AuditError(f"The audit log could not be read ({type(error).__name__}).") from error
