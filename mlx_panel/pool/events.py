"""What becomes of models, told to whoever keeps it: one `PoolEvent` a change, with how long it took and what it held.

A model's life is told in order: `loaded` (or `restarted`, where its process had died) or `load_failed`, then one of
`unloaded` (a person, or the server's end), `evicted` (another model needed its place), `expired` (nobody had asked it
for its idle time) and `died`; `given_up` says that it is not started again by itself.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime

from ..record import PoolEvent, PoolEventKind

Told = Callable[[PoolEvent], None]


def nobody(event: PoolEvent) -> None:
    """For a pool that tells nobody."""


class Events:
    """Tells `told` of each change. Belongs to the server's loop; `told` must not wait.

    `seconds` is what a load or an unload took, and how long a model that died had been in memory. `bytes` is what its
    process took when that was last known.
    """

    def __init__(self, told: Told = nobody):
        self._told = told
        self._began: dict[str, float] = {}  # monotonic: when the load under way, or the life in memory, began
        self._died: set[str] = set()

    def __repr__(self) -> str:
        return f"<Events of {len(self._began)} models>"

    def begun(self, model: str) -> None:
        """A load begins."""
        self._began[model] = time.monotonic()

    def loaded(self, model: str, bytes: int) -> None:
        """It is in memory: for the first time, or again after its process had died."""
        self._tell(model, "restarted" if model in self._died else "loaded", self._since(model), bytes)
        self._died.discard(model)
        self._began[model] = time.monotonic()

    def failed(self, model: str, code: str, *, given_up: bool) -> None:
        """A load did not come to its end: `code` is the error's. Nothing of it stays."""
        self._tell(model, "load_failed", self._since(model), reason=code)
        self._over(model, code, given_up)

    def left(
        self, model: str, kind: PoolEventKind, since: float, bytes: int, reason: str | None = None
    ) -> None:
        """It was made to leave, which began at `since` (monotonic); told only where it had been in memory."""
        if bytes:
            self._tell(model, kind, time.monotonic() - since, bytes, reason)
        self._over(model, "", False)
        self._died.discard(model)

    def died(self, model: str, bytes: int, cause: str, *, given_up: bool) -> None:
        """Its process ended by itself, or had to be ended because it was stuck."""
        self._tell(model, "died", self._since(model), bytes, cause)
        self._died.add(model)
        self._over(model, "crash_loop", given_up)

    def _over(self, model: str, reason: str, given_up: bool) -> None:
        self._began.pop(model, None)
        if given_up:
            self._died.discard(model)
            self._tell(model, "given_up", reason=reason)

    def _since(self, model: str) -> float:
        return time.monotonic() - self._began[model] if model in self._began else 0.0

    def _tell(
        self, model: str, kind: PoolEventKind, seconds: float = 0.0, bytes: int = 0, reason: str | None = None
    ) -> None:
        event = PoolEvent(datetime.now(UTC), model, kind, round(seconds, 3), bytes, reason)
        self._told(event)


def ended(code: int) -> str:
    """How a process ended, by its exit code: "exit code 1", "signal SIGKILL"."""
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
