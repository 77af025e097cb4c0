"""Stop strings, found in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Iterable


class StopStrings:
    """Ends a text before the first place where any stop string begins.

    `feed` and `flush` return `(text, stopped)`: text that can go out now, and whether a stop string was met.
    All text that went out, joined, equals the whole text cut at the earliest occurrence, wherever the borders of
    the pieces lie. Only a tail that could still become a stop string is held back. Empty stop strings are ignored.
    """

    def __init__(self, stops: Iterable[str] = ()):
        self._stops = tuple(stop for stop in stops if stop)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self._stopped = False

    def __repr__(self) -> str:
        return f"<StopStrings {len(self._stops)} stops, {len(self._held)} held, stopped={self._stopped}>"

    def feed(self, text: str) -> tuple[str, bool]:
        """The next piece of text. After a stop was met everything else is swallowed."""
        if self._stopped:
            return "", True
        self._held += text
        match, open_from = self._match(), self._open_from()
        # A longer stop string may have begun before a complete shorter one: the earlier beginning decides.
        if match is not None and match <= open_from:
            return self._end(match)
        emit, self._held = self._held[:open_from], self._held[open_from:]
        return emit, False

    def flush(self) -> tuple[str, bool]:
        """No more text comes: what was held back, cut if it contains a stop string."""
        if self._stopped:
            return "", True
        match = self._match()
        if match is not None:
            return self._end(match)
        emit, self._held = self._held, ""
        return emit, False

    def _end(self, at: int) -> tuple[str, bool]:
        emit, self._held, self._stopped = self._held[:at], "", True
        return emit, True

    def _match(self) -> int | None:
        found = [at for at in map(self._held.find, self._stops) if at >= 0]
        return min(found, default=None)

    def _open_from(self) -> int:
        """Where the longest tail begins which is the beginning of a stop string, else the end of the text."""
        length = len(self._held)
        for start in range(max(0, length - self._longest + 1), length):
            tail = self._held[start:]
            if any(stop.startswith(tail) for stop in self._stops):
                return start
        return length
