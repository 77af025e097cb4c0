"""What an engine's caches hold, in numbers."""

from __future__ import annotations

from typing import Any

import msgspec

from ..tuning import CacheFigures
from . import kv
from .lanes import Lanes
from .lone import Lone
from .prefill import Prefill
from .prefix.cache import PrefixCache


def figures(
    prefix: PrefixCache | None, prefill: Prefill, lanes: Lanes, lone: Lone, held: int
) -> CacheFigures:
    """The caches now; those of running requests take `held` bytes."""
    known = CacheFigures() if prefix is None else prefix.figures
    waiting: list[Any] = next((row.caches for row in prefill.queue), [])
    return msgspec.structs.replace(
        known,
        kv_dtype=lanes.kv_dtype or kv.kv_dtype(waiting),
        kv_bytes=held,
        drafted=lone.drafted,
        accepted=lone.accepted,
    )
