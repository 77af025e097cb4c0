"""What the server's process says while canaries go through: log records, and all that is printed."""

from __future__ import annotations

import logging
import sys
import threading
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Self

MOST = 64 << 20  # bytes that are kept of what is said
# Whose levels the setting `log_level` moves; others, such as Tornado's access log, keep theirs whatever it says.
LEVELLED = ("", "mlx_panel")
PLAIN = logging.Formatter("%(name)s %(message)s %(args)s")


class Ears(AbstractContextManager["Ears"]):
    """Hears from entering to leaving, also what only `log_level` "debug" would show. What goes elsewhere stays as it was."""

    def __init__(self) -> None:
        self._heard: list[bytes] = []
        self._size = 0
        self._lock = threading.Lock()
        self.lines = 0
        self._stack = ExitStack()

    def __repr__(self) -> str:
        return f"<Ears {self.lines} lines, {self._size} bytes>"

    def __enter__(self) -> Self:
        self._stack.enter_context(_Attention(self.hear))
        self._stack.enter_context(_Printed(self.hear))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def hear(self, text: str) -> None:
        """Keep a text. Any thread may call this."""
        raw = text.encode("utf-8", "surrogatepass")
        with self._lock:
            self.lines += 1
            if self._size + len(raw) <= MOST:
                self._size += len(raw)
                self._heard.append(raw)

    def heard(self) -> bytes:
        """All of it, in its order."""
        with self._lock:
            return b"\n".join(self._heard)


class _Printed(AbstractContextManager[None]):
    """What Python prints is also told to us."""

    def __init__(self, tell: Any):
        self._tell = tell
        self._tees: dict[str, _Tee] = {}

    def __enter__(self) -> None:
        for name in ("stdout", "stderr"):
            self._tees[name] = _Tee(getattr(sys, name), self._tell)
            setattr(sys, name, self._tees[name])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name, tee in self._tees.items():
            if getattr(sys, name) is tee:  # else somebody has put another one in its place meanwhile
                setattr(sys, name, tee.stream)


class _Tee:
    """A stream that also tells what is written to it."""

    def __init__(self, stream: Any, tell: Any):
        self.stream, self._tell = stream, tell

    def write(self, text: str) -> int:
        self._tell(text)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Attention(AbstractContextManager[None]):
    """Loggers make what they make with `log_level` "debug"; what they would not have made before reaches nobody but us."""

    def __init__(self, tell: Any):
        self._handler = _Handler(tell)
        self._levels: dict[logging.Logger, int] = {}
        self._filtered: list[logging.Handler] = []

    def __enter__(self) -> None:
        root = logging.getLogger()
        known = [one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
        self._levels = {one: one.level for one in map(logging.getLogger, LEVELLED) if one.level}
        self._filtered = [handler for one in (root, *known) for handler in one.handlers]
        if logging.lastResort is not None and not root.handlers:
            self._filtered.append(logging.lastResort)
        for handler in self._filtered:
            handler.addFilter(self._wanted)
        root.addHandler(self._handler)
        for logger in self._levels:
            logger.setLevel(logging.DEBUG)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        logging.getLogger().removeHandler(self._handler)
        for logger, level in self._levels.items():
            if logger.level == logging.DEBUG:  # else somebody has set another one meanwhile
                logger.setLevel(level)
        for handler in self._filtered:
            handler.removeFilter(self._wanted)

    def _wanted(self, record: logging.LogRecord) -> bool:
        """Whether the record would have been made with the levels of before."""
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if level := self._levels.get(logger, logger.level):
                return record.levelno >= level
            logger = logger.parent
        return True


class _Handler(logging.Handler):
    def __init__(self, tell: Any):
        super().__init__(logging.DEBUG)
        self._tell = tell
        self.setFormatter(PLAIN)

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(self.format(record))
