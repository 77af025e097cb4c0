"""The sandbox processes of a server: those that work, and one that is ready for the next query."""

from __future__ import annotations

import threading
from pathlib import Path

from ..errors import AuditError, MlxPanelError
from .sql_child import Child


class Children:
    """Starts processes in the empty folder `cwd` and knows all that live. For any thread; `take` and `stock` block for
    some milliseconds."""

    def __init__(self, cwd: Path):
        self._cwd = cwd
        self._lock = threading.Lock()
        self._busy: set[Child] = set()
        self._spare: Child | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<Children {len(self._busy)} busy, {'one' if self._spare else 'none'} spare>"

    def __len__(self) -> int:
        return len(self._busy)

    def take(self) -> Child:
        """A process for one query; give it to `done` afterwards. Raises AuditError when closed."""
        with self._lock:
            if self._closed:
                raise AuditError("The audit log is closed.")
            child, self._spare = self._spare, None
            if child is not None and not child.alive:
                child.end()
                child = None
            child = child or Child(self._cwd)
            self._busy.add(child)
            return child

    def done(self, child: Child) -> None:
        child.end()
        with self._lock:
            self._busy.discard(child)

    def stock(self) -> None:
        """Have one ready."""
        with self._lock:
            if self._spare is None and not self._closed:
                self._spare = Child(self._cwd)

    def rest(self) -> None:
        """Nobody has asked for a while: none has to be ready."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None:
            spare.end()

    def close(self, why: MlxPanelError) -> None:
        """End all of them; whoever waits for one gets `why`."""
        with self._lock:
            self._closed = True
            for child in self._busy:
                child.kill(why)
        self.rest()


class Run:
    """One query under way, so that it can be stopped from another thread whatever it is doing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._why: MlxPanelError | None = None

    def __repr__(self) -> str:
        return f"<Run {self._child!r}{' stopped' if self._why else ''}>"

    def has(self, child: Child) -> None:
        """`child` works for it from now on."""
        with self._lock:
            self._child = child
            if self._why is not None:
                child.kill(self._why)

    def stop(self, why: MlxPanelError) -> None:
        with self._lock:
            self._why = why
            if self._child is not None:
                self._child.kill(why)
