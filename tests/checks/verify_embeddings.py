"""Compares vectors with those of transformers in float32: 200 sentences of 1 to 256 tokens, cosine by cosine.

    python tests/checks/verify_embeddings.py MODEL_FOLDER --write reference.npz     where torch and transformers are
    python -m tests.checks.verify_embeddings MODEL_FOLDER --reference reference.npz  where mlx-panel is

The first makes the sentences, of words of the model's vocabulary, and the reference vectors: transformers' BertModel
with its plain attention, the mean over the tokens, normalised. The second sends the same sentences through the engine,
all of them mixed in a few passes, once in numpy and once in mlx. Exits with 1 where a cosine is below 0.9999.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

SENTENCES, LONGEST, LEAST = 200, 256, 0.9999


def sentences(folder: Path) -> list[str]:
    """So many words that a sentence with its two special tokens has 3 to 256 tokens; the first have one word."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = sorted(word for word in vocabulary if word.isascii() and word.isalpha())
    draw = random.Random(4)
    lengths = [round(1 + (LONGEST - 3) * number / (SENTENCES - 1)) for number in range(SENTENCES)]
    return [" ".join(draw.choice(words) for _ in range(length)) for length in lengths]


def write(folder: Path, file: Path) -> None:
    import torch
    import transformers

    texts = sentences(folder)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    vectors, counts = [], []
    with torch.inference_mode():
        for text in texts:
            tokens = tokenizer(text, truncation=True, max_length=LONGEST, padding=False, return_tensors="pt")
            mean = model(**tokens).last_hidden_state[0].mean(0)
            vectors.append(torch.nn.functional.normalize(mean, dim=0).numpy())
            counts.append(tokens["input_ids"].shape[1])
    made = f"torch {torch.__version__}, transformers {transformers.__version__}, float32"
    np.savez(file, vectors=np.stack(vectors), counts=counts, texts=texts, made=made)
    print(f"{file}: {len(texts)} sentences of {min(counts)} to {max(counts)} tokens, {made}")


def compare(folder: Path, file: Path) -> bool:
    """Print what was found; whether every cosine is high enough."""
    from mlx_panel.engine.embed import bert, engine, model, recipe
    from mlx_panel.messages import Embedded, EmbedRequest

    known = np.load(file)
    texts, wanted = tuple(map(str, known["texts"])), known["vectors"]
    one = engine.EmbedEngine.load(folder)
    print(f"{folder.name}, {one.info.dtype}; {platform.platform()}, {one.versions}")
    print(
        f"reference: {known['made']}, {len(texts)} sentences of {min(known['counts'])} to {max(known['counts'])} tokens"
    )
    good = True
    config = recipe.read_json(folder / "config.json")
    for host in (True, False):
        one.embedder.model.close()
        encoder = model.Encoder(bert.load(folder, config), one.embedder.recipe, host=host)
        one.embedder = one.embedder._replace(model=encoder)
        before = one.passes
        done = next(
            event for event in one.generate(EmbedRequest("one", "", texts)) if isinstance(event, Embedded)
        )
        vectors = np.frombuffer(done.vectors, "<f4").reshape(len(texts), done.dimensions).astype(np.float64)
        cosines = (vectors * wanted).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(wanted, axis=1)
        assert done.usage.prompt_tokens == known["counts"].sum(), "not the same tokens"
        print(
            f"{'numpy' if host else 'mlx'}: {one.passes - before} passes, cosine at least {cosines.min():.9f}, "
            f"median {np.median(cosines):.9f}, largest difference of a value {np.abs(vectors - wanted).max():.2e}"
        )
        good = good and bool(cosines.min() >= LEAST)
    one.close(last=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--write", type=Path, metavar="FILE", help="make the reference")
    which.add_argument("--reference", type=Path, metavar="FILE", help="compare with it")
    options = parser.parse_args()
    if options.write:
        write(options.model, options.write)
        return 0
    return 0 if compare(options.model, options.reference) else 1


if __name__ == "__main__":
    sys.exit(main())
