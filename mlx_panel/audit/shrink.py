"""Writing a file anew that is mostly free space: DuckDB reuses what was deleted, and never gives it back."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from pathlib import Path

import duckdb

from .kept import quoted
from .storage import Shrunk, live_bytes

logger = logging.getLogger(__name__)

LEAST_FREE = 4 << 20  # bytes: less is not worth it
# At start-up nothing else wants the cores.
MOST_THREADS, MEMORY = 4, "1GB"


def shrunk(connection: duckdb.DuckDBPyConnection, path: Path) -> Shrunk | None:
    """Put a copy without free space at `path` if more than half of the file is free; None where it stays as it is.

    Then what is open is no longer what is at `path`: close the connection and open it anew. Until the copy is complete
    and on the disk, the file at `path` is the old one; what an end in between leaves beside it goes at the next call.
    Takes about three seconds of a core for each million rows.
    """
    path = path.resolve()
    copy = path.with_name(path.name + ".shrunk")
    started, before = time.monotonic(), path.stat().st_size
    used, rows = live_bytes(connection)
    _discard(copy)
    if used * 2 >= before or before - used < LEAST_FREE:
        return None
    try:
        if shutil.disk_usage(path.parent).free < 1.5 * used:
            logger.warning("audit: the file is mostly free space, and the disk too full to write it anew")
            return None
        logger.info("audit: the file is mostly free space and is written anew, with its %d rows", rows)
        _copy(connection, copy)
        # Nothing may be left for the old file's write-ahead log: it would be taken for the new one's.
        connection.execute("CHECKPOINT")
        after = copy.stat().st_size
        os.replace(copy, path)
        _sync(path.parent)
    except (duckdb.Error, OSError) as error:
        logger.warning("audit: the file could not be written anew (%s)", type(error).__name__)
        _discard(copy)
        return None
    done = Shrunk(before, after, time.monotonic() - started)
    logger.info(
        "audit: the file took %d MB, now %d MB, in %.1f s", done.before >> 20, after >> 20, done.seconds
    )
    return done


def _copy(connection: duckdb.DuckDBPyConnection, copy: Path) -> None:
    with contextlib.closing(connection.cursor()) as cursor:
        (name,) = cursor.execute("SELECT current_database()").fetchall()[0]
        (threads, memory) = cursor.execute(
            "SELECT current_setting('threads'), current_setting('memory_limit')"
        ).fetchall()[0]
        cursor.execute(
            f"SET threads = {min(MOST_THREADS, os.cpu_count() or 1)}; SET memory_limit = '{MEMORY}'"
        )
        cursor.execute(f"ATTACH {quoted(copy)} AS shrunk")
        try:
            os.chmod(copy, 0o600)
            cursor.execute(f"""COPY FROM DATABASE "{name.replace('"', '""')}" TO shrunk""")
            cursor.execute("CHECKPOINT shrunk")
        finally:
            cursor.execute(f"SET threads = {threads}; SET memory_limit = '{memory}'")
            cursor.execute("DETACH shrunk")
    _sync(copy)


def _discard(copy: Path) -> None:
    for one in (copy, copy.with_name(copy.name + ".wal")):
        with contextlib.suppress(OSError):
            one.unlink()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
