"""Compares the logits of rows in a batch with those of the same rows alone: how far rounding can move a greedy choice.

    python -m tests.checks.verify_batch MODEL_FOLDER [--steps 40]

Tells the largest difference of a logit between a batch of eight and each row alone, and between a prompt processed in
chunks of 2 and at once, beside the smallest distance between the two likeliest tokens that was met: a greedy choice
can only change where that distance is smaller than twice the difference.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mlx_panel.engine import blas

BLAS = blas.preload()  # before mlx

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402

from mlx_panel.engine import kv, loader  # noqa: E402

PROMPTS = (
    "The capital of France is", "Once upon a time there was", "def add(a, b):\n    return", "In 1969 the first man",
    "Water boils at a temperature of", "My favourite colour is", "The largest ocean on Earth is the", "Apple, pear,",
)  # fmt: skip


def processed(model: Any, tokens: list[int], chunk: int) -> list[Any]:
    """A prompt's caches, all but its last token in them."""
    caches = kv.make_caches(model)
    for start in range(0, len(tokens) - 1, chunk):
        model(mx.array([tokens[start : min(start + chunk, len(tokens) - 1)]]), cache=caches)
        mx.eval([cache.state for cache in caches])
    return caches


def logits(model: Any, tokens: list[int], caches: list[Any]) -> np.ndarray:
    return np.array(model(mx.array(tokens)[:, None], cache=caches)[:, -1].astype(mx.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    model, tokenizer, info, _ = loader.load(options.model)
    prompts = [list(tokenizer.encode(text)) for text in PROMPTS]
    alone = [processed(model, prompt, 1000) for prompt in prompts]
    cut = [processed(model, prompt, 2) for prompt in prompts]
    batch = kv.merge([processed(model, prompt, 1000) for prompt in prompts])
    last = [prompt[-1] for prompt in prompts]
    differences: dict[str, float] = {"batch of 8": 0.0, "chunks of 2": 0.0}
    nearest = float("inf")
    for _ in range(options.steps):
        own = np.concatenate(
            [logits(model, [token], caches) for token, caches in zip(last, alone, strict=True)]
        )
        others = {
            "batch of 8": logits(model, last, batch),
            "chunks of 2": np.concatenate(
                [logits(model, [token], caches) for token, caches in zip(last, cut, strict=True)]
            ),
        }
        for name, other in others.items():
            differences[name] = max(differences[name], float(np.abs(own - other).max()))
        top = np.sort(own, axis=-1)[:, -2:]
        nearest = min(nearest, float((top[:, 1] - top[:, 0]).min()))
        last = own.argmax(-1).tolist()
    print(f"{options.model.name}, {info.dtype}, {BLAS.name}: {options.steps} steps of {len(prompts)} rows")
    print(
        f"largest difference of a logit: {differences}; smallest distance of the two likeliest: {nearest:.2e}"
    )
    mx.clear_streams()


if __name__ == "__main__":
    main()
