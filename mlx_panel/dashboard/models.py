"""The models of a server and the buttons that load and unload them."""

from __future__ import annotations

from .live import Live
from .source import Source


class Models(Live):
    """One row a model: state, memory, size, work, and Load or Unload."""

    def __init__(self, source: Source):
        super().__init__(source, ("models",))
