"""Writes a tiny random llama with a real tokenizer, so that two servers can be compared on what surrounds a model.

    python -m tests.checks.tiny_model FOLDER --like MODEL_FOLDER

2 layers, 64 wide, 4 heads, a vocabulary of 49,152 as real models have: the forward pass costs next to nothing, and
sampling, batching and HTTP are what is measured. Tokenizer and chat template are those of the folder it is like, the
demo model's for instance (`mlx-panel models demo`). Any server that takes an MLX model folder can serve it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from mlx_panel.engine import blas

blas.preload()

from ..models import tiny_model  # noqa: E402

VOCABULARY = 49_152
CONTEXT = 8192
COPIED = ("tokenizer.json", "tokenizer_config.json")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the model is written")
    parser.add_argument("--like", type=Path, required=True, help="the folder whose tokenizer it gets")
    options = parser.parse_args()
    tiny_model(options.folder, vocab=VOCABULARY, context=CONTEXT)
    for name in COPIED:
        shutil.copyfile(options.like / name, options.folder / name)
    print(f"{options.folder}: llama, 2 layers, 64 wide, a vocabulary of {VOCABULARY:,}")


if __name__ == "__main__":
    main()
