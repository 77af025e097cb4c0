"""What one process said last in a log that all write to."""

from __future__ import annotations

import re
from pathlib import Path

BYTES, LINES, LENGTH = 1 << 16, 12, 500
SIGNATURE = re.compile(r"^\S+ \S+ [A-Z]+ [\w.]+\[(\d+)\] ")  # of a line that a worker logs


class Tail:
    """The end of a log, from where `mark` was called. Both calls block; a file that somebody has taken away is empty."""

    def __init__(self, file: Path):
        self._file = file
        self._mark = 0

    def __repr__(self) -> str:
        return f"<Tail of {self._file.name} from byte {self._mark}>"

    def mark(self) -> None:
        """What comes from now on may be the process's."""
        self._mark = self._size()

    def lines(self, pid: int | None) -> tuple[str, ...]:
        """The last lines since the mark that no other process signed."""
        try:
            with self._file.open("rb") as file:
                file.seek(max(self._mark, self._size() - BYTES))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ()
        signed = (SIGNATURE.search(line) for line in lines)
        mine = [line for line, other in zip(lines, signed, strict=True) if not other or int(other[1]) == pid]
        return tuple(line[:LENGTH] for line in mine[-LINES:])

    def _size(self) -> int:
        try:
            return self._file.stat().st_size
        except OSError:
            return 0
