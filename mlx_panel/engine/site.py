"""Where an exception happened, in words that are safe to log: a class and a place, never its message."""

from __future__ import annotations

import traceback
from pathlib import Path


def site(error: BaseException) -> str:
    """`ValueError at row.py:61 in take`: class and innermost frame. The message may quote a prompt: left out."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return type(error).__name__
    last = frames[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno} in {last.name}"
