"""Log-probabilities of a prompt's own tokens, for `echo` with `logprobs`."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from .sampling import RowLogprobs, pick
from .sampling.host import logprobs

# A row of logits is as wide as the vocabulary, so few prompt tokens are processed at once.
CHUNK = 64


def told(logits: mx.array, tokens: Sequence[int], wanted: int) -> list[RowLogprobs]:
    """Of `tokens`, each predicted by the row of `logits` (tokens, vocabulary) at its place, with `wanted` alternatives."""
    rows = np.array(logits.astype(mx.float32), copy=False)
    scratch = pick.Scratch(rows.shape[-1])
    found: list[RowLogprobs] = []
    for start in range(0, len(tokens), scratch.rows):
        ids = np.array(tokens[start : start + scratch.rows], np.intp)
        part = rows[start : start + len(ids)]
        found += logprobs(part, ids, [(row, wanted) for row in range(len(ids))], scratch)
    return found
