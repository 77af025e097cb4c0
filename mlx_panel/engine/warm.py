"""What a process without a model gets ready for one: everything is imported, and mlx has computed once."""

from __future__ import annotations

from . import blas

# Before mlx: a BLAS library opened after `mlx.core` was imported comes too late to be used by it.
blas.preload()

import mlx.core as mx  # noqa: E402
from transformers import AutoTokenizer as AutoTokenizer  # noqa: E402
from transformers import PreTrainedTokenizerFast as PreTrainedTokenizerFast  # noqa: E402

from ..messages import Memory  # noqa: E402
from .embed import engine as embedding  # noqa: E402
from .engine import Engine as Engine  # noqa: E402
from .used import memory as used  # noqa: E402

LOADED = embedding.EmbedEngine


def memory() -> Memory:
    """What this process takes by now, after a first matrix product."""
    mx.eval(mx.ones((8, 8)) @ mx.ones((8, 8)))
    return used()
