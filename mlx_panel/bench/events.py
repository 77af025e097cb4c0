"""Server-sent events from bytes, whatever their borders (WHATWG HTML, section 9.2.6 "Interpreting an event stream")."""

from __future__ import annotations

BOM = b"\xef\xbb\xbf"


class EventParser:
    """`feed()` takes bytes as they come and returns the data of the events that are complete.

    Only `data` is kept: an event's name, id and retry time say nothing a benchmark needs, and comments are skipped. An
    event that no blank line ends is never returned.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._after_return = False
        self._begun = False

    def __repr__(self) -> str:
        return f"<EventParser {len(self._rest)} bytes wait>"

    def feed(self, data: bytes) -> list[bytes]:
        """The data of each event that these bytes complete; several data lines are joined by a line feed."""
        if self._after_return and data.startswith(b"\n"):
            data, self._after_return = data[1:], False
        if not data:
            return []
        if b"\r" in data:
            self._after_return = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        else:
            self._after_return = False
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        return [found for block in blocks if (found := self._data(block)) is not None]

    def _data(self, block: bytes) -> bytes | None:
        if not self._begun:
            self._begun = True
            block = block.removeprefix(BOM)
        if block.startswith(b"data: ") and b"\n" not in block:
            return block[6:]
        lines = [value for line in block.split(b"\n") if (value := _value(line)) is not None]
        return b"\n".join(lines) if lines else None


def _value(line: bytes) -> bytes | None:
    """The value of a `data` line; one space after the colon belongs to the format."""
    name, _, value = line.partition(b":")
    return value.removeprefix(b" ") if name == b"data" else None
