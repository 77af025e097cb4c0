"""What the keyed hashes of a prompt cost the worker: `python -m tests.checks.measure_replay`."""

from __future__ import annotations

import random
import secrets
import statistics
import time

from mlx_panel.engine.block_hashes import HASH_BYTES, block_hashes

LENGTHS = (1_000, 10_000, 100_000)
ROUNDS = 50


def main() -> None:
    key = secrets.token_bytes(32)
    for length in LENGTHS:
        tokens = random.choices(range(150_000), k=length)
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            hashes = block_hashes(tokens, key)
            times.append((time.perf_counter() - began) * 1000)
        p50, worst = statistics.median(times), max(times)
        print(
            f"{length:>7,} tokens: {len(hashes) // HASH_BYTES:>5} hashes, {len(hashes):>6,} bytes, "
            f"{p50:.2f} ms (median of {ROUNDS}), {worst:.2f} ms at most"
        )


if __name__ == "__main__":
    main()
