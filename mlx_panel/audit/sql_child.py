"""The server's end of a sandbox process: started, given orders, watched, and ended when it has had enough."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec

from ..errors import (
    AuditError,
    AuditLocked,
    InvalidSql,
    MlxPanelError,
    SqlFailed,
    SqlMemoryExceeded,
    SqlResultTooLarge,
    SqlTimeout,
)
from ..footprint import footprint
from ..sandbox import wire
from ..sandbox.limits import SLACK
from ..sandbox.wire import Answer, Copied, Failed, Found, Query

LOOK_SECONDS = 0.05  # how often the memory of a process is looked at
START_SECONDS = 30.0
COPY_SECONDS = 60.0
OWN_BYTES = 192 << 20  # Python, DuckDB and their libraries, before any query


class Child:
    """One process, in the empty folder `cwd`, with nothing inherited but its pipes. It may copy files, answers one query
    and ends. Its calls block, for one thread; `kill` is for any. `own_bytes` may be its own, beside what a query may take."""

    def __init__(self, cwd: Path, *, own_bytes: int = OWN_BYTES):
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-m", "mlx_panel.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=cwd,
            env=_environment(),
            close_fds=True,
            start_new_session=True,
        )
        self._own_bytes = own_bytes
        self._why: MlxPanelError | None = None
        self._ready = False
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Child {self.pid} {'runs' if self._process.poll() is None else 'ended'}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> None:
        """Return when it takes orders; its start is nobody's time. Raises SqlFailed."""
        if not self._ready:
            self._hear(_Reader(self, time.monotonic() + START_SECONDS, 0), 0)
            self._ready = True

    def copy(self, source: Path, target: Path) -> Copied:
        """Copy a database file. Raises AuditError."""
        self.wait()
        answer, _ = self._ask(wire.Copy(str(source), str(target)), time.monotonic() + COPY_SECONDS, 0, 0)
        if isinstance(answer, Failed):
            raise AuditError(f"The audit log could not be copied to be read: {answer.message}.")
        assert isinstance(answer, Copied)
        return answer

    def query(self, query: Query, seconds: float) -> tuple[Found, bytes]:
        """What the SELECT found, within `seconds`; the process is gone then, whatever came of it.

        Raises InvalidSql, SqlTimeout, SqlMemoryExceeded, SqlResultTooLarge, SqlFailed, AuditLocked, AuditError.
        """
        try:
            self.wait()
            most = query.memory_bytes + SLACK + self._own_bytes
            answer, body = self._ask(
                query, time.monotonic() + seconds, most, query.max_bytes + wire.MOST_HEAD
            )
        except SqlTimeout:
            raise _late(seconds) from None
        except SqlMemoryExceeded:
            raise _hungry(query.memory_bytes) from None
        finally:
            self.end()
        if isinstance(answer, Failed):
            raise _error(answer, query, seconds)
        assert isinstance(answer, Found)
        return answer, body

    def kill(self, why: MlxPanelError | None = None) -> None:
        """End it at once; who waits for its answer gets `why`."""
        with self._lock:
            self._why = self._why or why
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """End it and take its remains away."""
        self.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    # --- an order and its answer -----------------------------------------------------------------------------

    def _ask(self, order: wire.Order, deadline: float, most_memory: int, most: int) -> tuple[Answer, bytes]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(wire.pack(order))
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error
        return self._hear(_Reader(self, deadline, most_memory), most)

    def _hear(self, reader: _Reader, most: int) -> tuple[Answer, bytes]:
        try:
            head, size = wire.head_of(reader.exactly)
            if size > most:
                raise ValueError("more than was allowed")
            return msgspec.json.decode(head, type=Answer), reader.exactly(size)
        except EOFError as error:
            raise self._ended() from error
        except (ValueError, msgspec.MsgspecError) as error:
            raise SqlFailed from error

    def _ended(self) -> MlxPanelError:
        """Why it gave no answer."""
        code = self._process.wait()
        if self._why is not None:
            return self._why
        if code == -signal.SIGXCPU:
            return SqlTimeout()
        # Nobody of ours: the system, because memory was short.
        return SqlMemoryExceeded() if code == -signal.SIGKILL else SqlFailed()

    def output(self) -> int:
        """Descriptor of what it says."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()


class _Reader:
    """Reads what a child says, and ends the child at `deadline` (monotonic) or when it takes more than `most` bytes."""

    def __init__(self, child: Child, deadline: float, most: int):
        self._child, self._deadline, self._most = child, deadline, most
        self._looked = 0.0

    def exactly(self, count: int) -> bytes:
        """Raises EOFError where there is less."""
        found = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._child.output(), selectors.EVENT_READ)
            while len(found) < count:
                self._look()
                if not selector.select(LOOK_SECONDS):
                    continue
                piece = os.read(self._child.output(), min(count - len(found), 1 << 20))
                if not piece:
                    raise EOFError
                found += piece
        return bytes(found)

    def _look(self) -> None:
        now = time.monotonic()
        if now >= self._deadline:
            self._child.kill(SqlTimeout())
        elif self._most and now >= self._looked + LOOK_SECONDS:
            self._looked = now
            if footprint(self._child.pid) > self._most:
                self._child.kill(SqlMemoryExceeded())


def _environment() -> dict[str, str]:
    """What it has to know to find its code, and nothing of ours. One arena: glibc would map 64 MB for each thread."""
    paths = [os.path.abspath(path) for path in sys.path if path]
    return {"PYTHONPATH": os.pathsep.join(paths), "MALLOC_ARENA_MAX": "1", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _error(failed: Failed, query: Query, seconds: float) -> MlxPanelError:
    match failed.fault:
        case "memory":
            return _hungry(query.memory_bytes)
        case "size":
            return SqlResultTooLarge(
                f"The result is larger than {query.max_bytes:,} bytes. Select fewer columns or rows.",
                limit_bytes=query.max_bytes,
            )
        case "locked":
            holder = f"process {failed.pid}" if failed.pid else "another process"
            return AuditLocked(f"The audit log is in use by {holder}.", pid=failed.pid)
        case "file":
            return AuditError(f"The audit log cannot be read ({failed.message}).")
        case "failed":
            return SqlFailed()
    place = {"line": failed.line, "column": failed.column, "length": failed.length} if failed.line else {}
    return InvalidSql(failed.message, field="sql", **place)


def _late(seconds: float) -> SqlTimeout:
    return SqlTimeout(f"The query took longer than {seconds:g} s and was ended.", timeout_seconds=seconds)


def _hungry(limit: int) -> SqlMemoryExceeded:
    return SqlMemoryExceeded(
        f"The query took more memory than {limit >> 20:,} MiB and was ended.", limit_bytes=limit
    )
