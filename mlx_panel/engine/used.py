"""What mlx and this process hold of the machine's memory."""

from __future__ import annotations

import mlx.core as mx
import psutil

from ..messages import Memory


def memory(process: psutil.Process) -> Memory:
    """Now, in bytes."""
    return Memory(
        active=mx.get_active_memory(),
        peak=mx.get_peak_memory(),
        cache=mx.get_cache_memory(),
        process=process.memory_info().rss,
    )
