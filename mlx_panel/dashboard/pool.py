"""The model pool: a picture of the memory that models share, and what each of them does with it."""

from __future__ import annotations

from .live import Live
from .source import Source


class Pool(Live):
    """A bar of the memory models may take, and a row a model: load, unload, pin, progress, failures."""

    def __init__(self, source: Source):
        super().__init__(source, ("memory", "models"))
