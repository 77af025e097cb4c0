"""Where an exception happened, in words that are safe to log: a class and a place, never its message."""

from __future__ import annotations

import traceback
from pathlib import Path

HOME = str(Path(__file__).parent)


def site(error: BaseException) -> str:
    """`ValueError at row.py:61 in take`: the class, and the innermost frame of this package or else of all.

    The message may quote a prompt: it is left out.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return type(error).__name__
    ours = [frame for frame in frames if frame.filename.startswith(HOME)]
    last = (ours or frames)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno} in {last.name}"
