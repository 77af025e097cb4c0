"""How long it takes to store and restore the KV cache of a 2,000-token prompt, from memory and from disk.

The shape is that of SmolLM2-135M in float32: 30 layers, 3 heads of 64 for keys and values, 46 kB a token. Run with
`python -m tests.checks.measure_prefix [tokens] [--bits 8]`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mlx_panel.engine import blas

blas.preload()

import mlx.core as mx  # noqa: E402
from mlx_lm.models.cache import KVCache, QuantizedKVCache  # noqa: E402

from mlx_panel.engine.prefix.cache import Match, PrefixCache  # noqa: E402
from mlx_panel.engine.prefix.disk import DiskTier  # noqa: E402
from mlx_panel.engine.prefix.key import ModelKey  # noqa: E402

LAYERS, HEADS, WIDTH = 30, 3, 64
KEY = ModelKey("measured", "measured", "float32")


def timed(what: str, work: Callable[[], object], repeat: int = 1) -> None:
    best = 1e9
    for _ in range(repeat):
        at = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - at)
    print(f"{what:<52} {best * 1e3:9.1f} ms")


def empty(bits: int) -> list[KVCache | QuantizedKVCache]:
    return [QuantizedKVCache(64, bits) if bits else KVCache() for _ in range(LAYERS)]


def grow(caches: list, tokens: int) -> None:
    for cache in caches:
        cache.update_and_fetch(*mx.random.normal((2, 1, HEADS, tokens, WIDTH)))
    mx.eval([cache.state for cache in caches])


def restored(prefix: PrefixCache, tokens: list[int]) -> Match:
    match = prefix.find(tokens)
    assert match.caches is not None
    mx.eval([cache.state for cache in match.caches])
    return match


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tokens", type=int, nargs="?", default=2000)
    parser.add_argument("--bits", type=int, default=0)
    parser.add_argument("--block", type=int, default=64)
    given = parser.parse_args()
    tokens = [(index * 7919) % 49152 for index in range(given.tokens)]
    later = [*tokens, *range(30)]
    with tempfile.TemporaryDirectory() as folder:
        disk = DiskTier(Path(folder), KEY, budget=8 << 30, pending=4 << 30)
        prefix = PrefixCache(KEY, lambda: empty(given.bits), budget=8 << 30, disk=disk, block=given.block)
        caches = empty(given.bits)
        for end in range(512, given.tokens + 512, 512):
            grow(caches, min(512, given.tokens - end + 512))
            known = tokens[: min(end, given.tokens)]
            timed(f"store after {len(known)} tokens", lambda known=known: prefix.store(known, caches))
        timed("hand to the writer", prefix.flush)
        timed("wait for the writer", lambda: disk.close(60))
        timed("find nothing", lambda: prefix.find([5, *later]), 3)
        timed("restore from memory", lambda: restored(prefix, later), 5)
        match = restored(prefix, later)
        timed("append 30 tokens to it", lambda: grow(match.caches or [], 30))
        print(f"{prefix!r}\n{disk!r}")
        prefix.clear()

        def after_restart() -> None:
            tier = DiskTier(Path(folder), KEY, budget=8 << 30)
            fresh = PrefixCache(KEY, lambda: empty(given.bits), budget=8 << 30, disk=tier, block=given.block)
            match = restored(fresh, later)
            assert match.tier == "disk", match.tier
            assert match.tokens > given.tokens - given.block, match.tokens
            fresh.close()

        timed("open the folder, restore from disk (page cache)", after_restart, 3)


if __name__ == "__main__":
    main()
