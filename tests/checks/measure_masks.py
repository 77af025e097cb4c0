"""Measures what holding an answer to a grammar costs: masks, and a sampler's step with and without them.

    python -m tests.checks.measure_masks MODEL [--tokens 300]

MODEL is a folder with a byte-level tokenizer. It is measured as it is, and with its vocabulary grown to 151,936 tokens
(pairs of its own), the size of Qwen's. For each grammar: microseconds to compute a mask, to apply it to a row of logits,
and both, median and 99th percentile, over random answers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from mlx_panel.engine import blas

blas.preload()

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
from mlx_lm.utils import load_tokenizer  # noqa: E402

from mlx_panel.engine.detokenize import Vocabulary  # noqa: E402
from mlx_panel.engine.grammar import Grammars  # noqa: E402
from mlx_panel.engine.grammar.source import source  # noqa: E402
from mlx_panel.engine.guide import Guide  # noqa: E402
from mlx_panel.engine.sampling import HostSampler, RowSpec  # noqa: E402
from mlx_panel.engine.sampling.led import Spread  # noqa: E402
from mlx_panel.messages import GenerateRequest, Sampling, Structure, Tool, Tools  # noqa: E402
from mlx_panel.parse import detect  # noqa: E402

from ..schemas import PERSON, allowed, generated  # noqa: E402

LARGE = 151_936
ROWS = 16
ASKED: dict[str, dict[str, Any]] = {
    "json_object": {"structure": Structure("json_object")},
    "a person": {"structure": Structure("json_schema", schema=PERSON)},
    "people": {
        "structure": Structure("json_schema", schema={"type": "array", "items": PERSON, "minItems": 99})
    },
    "regex": {"structure": Structure("regex", text="([A-Z][a-z]+ ){3,80}[0-9]{4}-[0-9]{2}")},
    "text, tools": {"tools": Tools((Tool("f", parameters=PERSON),))},
}


def grown(folder: Path, size: int, into: Path) -> Path:
    """A copy of a byte-level tokenizer with so many tokens: each new one is two old ones that follow each other."""
    made = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary, merges = made["model"]["vocab"], made["model"]["merges"]
    words = [token for token in vocabulary if len(token) > 2 and token.lstrip("Ġ").isalpha()]
    added = max(size - len(made["added_tokens"]), len(vocabulary))
    number = max([*vocabulary.values(), *(token["id"] for token in made["added_tokens"])]) + 1
    pairs = ((first, second) for second in words[7::11] for first in words[3::97])
    for first, second in pairs:
        if number >= size or len(vocabulary) >= added + len(made["added_tokens"]):
            break
        if first + second not in vocabulary:
            vocabulary[first + second] = number
            merges.append([first, second] if isinstance(merges[0], list) else f"{first} {second}")
            number += 1
    (into / "tokenizer.json").write_text(json.dumps(made), encoding="utf-8")
    (into / "config.json").write_text("{}")
    (into / "tokenizer_config.json").write_text(
        (folder / "tokenizer_config.json").read_text(encoding="utf-8"), encoding="utf-8"
    )
    return into


def grammar(grammars: Grammars, **asked: Any) -> Guide:
    text = source(
        GenerateRequest("1", "m", **asked),
        dialect=detect.BY_NAME["hermes_json"],
        style=None,
        opened=False,
        special={},
    )
    assert text is not None
    return grammars.compile(text).result()


def measure(name: str, guide: Guide, vocabulary: int, eos: set[int], tokens: int) -> None:
    """Random answers to `guide`, one after the other, until so many tokens are drawn."""
    random = np.random.default_rng(0)
    logits, spread = random.normal(size=vocabulary).astype(np.float32), Spread()
    computing, applying = [], []
    fresh = guide.copy()
    for _ in range(tokens):
        row = logits.copy()
        began = time.perf_counter()
        mask = fresh.mask()
        computed = time.perf_counter()
        assert mask is not None
        spread(row, mask)
        applied = time.perf_counter()
        computing.append(computed - began)
        applying.append(applied - computed)
        token = int(random.choice(allowed(mask, vocabulary)))
        fresh.accept(token)
        fresh = guide.copy() if token in eos else fresh
    both = np.array(computing) + np.array(applying)
    figures = [
        f"{np.median(values) * 1e6:7.0f} {np.percentile(values, 99) * 1e6:7.0f}"
        for values in (computing, applying, both)
    ]
    print(f"  {name:24} {'  |'.join(figures)}")


def steps(vocabulary: int, guides: list[Guide | None], rounds: int = 30) -> float:
    """Seconds a sampler's step takes with these rows, without a model."""
    random = np.random.default_rng(0)
    made = HostSampler()
    made.join([RowSpec(Sampling(0.8, 0.95, seed=row), guide=guide) for row, guide in enumerate(guides)])
    logits = mx.array(random.normal(size=(len(guides), vocabulary)).astype(np.float32) * 3)
    mx.eval(logits)
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        made.begin(logits).take()
        took.append(time.perf_counter() - began)
    return float(np.median(took))


def measured(folder: Path, tokens: int) -> None:
    tokenizer = load_tokenizer(folder)
    eos = set(tokenizer.eos_token_ids)
    vocabulary = Vocabulary(tokenizer)
    grammars = Grammars(tokenizer, vocabulary.size, eos)
    began = time.perf_counter()
    grammar(grammars, structure=Structure("choice", choices=("a",)))
    print(f"{vocabulary.size} tokens; first grammar after {time.perf_counter() - began:.2f} s; µs:")
    print(f"  {'':24} {'mask  (p99)':>15}  |{'apply  (p99)':>15}  |{'both  (p99)':>15}")
    for name, asked in ASKED.items():
        measure(name, grammar(grammars, **asked), vocabulary.size, eos, tokens)
    for number, schema in enumerate(generated(200)[::40]):
        asked = {"structure": Structure("json_schema", schema=schema)}
        measure(f"generated, level {number * 2}", grammar(grammars, **asked), vocabulary.size, eos, tokens)
    people = grammar(grammars, **ASKED["people"])
    plain = steps(vocabulary.size, [None] * ROWS)
    held = steps(vocabulary.size, [people.copy() for _ in range(ROWS)])
    print(f"  a step of {ROWS} sampled rows: {plain * 1e3:.2f} ms free, {held * 1e3:.2f} ms held to a schema")
    grammars.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=300)
    arguments = parser.parse_args()
    measured(arguments.model, arguments.tokens)
    with tempfile.TemporaryDirectory() as folder:
        measured(grown(arguments.model, LARGE, Path(folder)), arguments.tokens)
    mx.clear_streams()


if __name__ == "__main__":
    main()
