"""The prefix cache of a model that was loaded, as the engine's options want it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...tuning import EngineOptions
from .. import kv
from ..loader import Loaded
from .cache import PrefixCache
from .disk import DiskTier
from .key import model_key


def prefix_cache(path: Path, loaded: Loaded, options: EngineOptions) -> PrefixCache:
    """The cache for the model of folder `path`; without room it finds and keeps nothing. Raises OSError."""
    kv_options = {"kv_bits": options.kv_bits, "kv_group_size": options.kv_group_size}

    def empty() -> list[Any]:
        return kv.make_caches(loaded.model, **kv_options)

    key = model_key(path, dtype=loaded.info.dtype, **kv_options)
    # Also without room on disk: there may be some later, and what lies there has to go.
    room = options.prefix_disk_mb << 20
    disk = DiskTier(Path(options.prefix_disk), key, budget=room) if options.prefix_disk else None
    return PrefixCache(key, empty, budget=options.prefix_cache_mb << 20, disk=disk)
