"""What mlx and this process hold of the machine's memory."""

from __future__ import annotations

import os

import mlx.core as mx

from ..footprint import footprint, trim
from ..messages import Memory


def memory() -> Memory:
    """Now, in bytes."""
    return Memory(
        active=mx.get_active_memory(),
        peak=mx.get_peak_memory(),
        cache=mx.get_cache_memory(),
        process=footprint(os.getpid()),
        recommended=recommended(),
    )


def resting() -> int:
    """What the process takes while nothing is computed, after what was freed is given back; bytes.

    The C library keeps much of what a batch has freed: on Linux 170 MB of 880 after eight answers of 1200 tokens.
    """
    trim()
    return footprint(os.getpid()) - mx.get_cache_memory()


def keeps() -> int:
    """How many bytes that it freed mlx keeps for what comes next, at most."""
    most: int = mx.set_cache_limit(0)
    mx.set_cache_limit(most)
    return most


def recommended() -> int:
    """What all models should take together on this GPU, as Metal tells it; 0 elsewhere."""
    return int(mx.device_info().get("max_recommended_working_set_size", 0)) if mx.metal.is_available() else 0
