"""The figures a person looks at first."""

from __future__ import annotations

from .live import Live
from .source import Source


class Overview(Live):
    """Speed, requests, time to first token and memory, each with its last two minutes."""

    def __init__(self, source: Source):
        super().__init__(source, ("cards", "memory"))
