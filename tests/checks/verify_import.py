"""Compare an imported model with an independent implementation of the same GGUF file. Run by hand, see
docs/gguf-import.md:

    python tests/checks/verify_import.py MODEL_FOLDER FILE.gguf

The reference is transformers' own GGUF loading with torch on a CPU in float32; torch is needed for this script alone.
Exit code 0 when all greedy answers are equal.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mlx_panel.engine import blas

TOKENS = 16
PROMPTS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "What is 17 plus 25?",
    "Name three primary colours.",
    "Explain gravity to a child in one sentence.",
    "Translate 'good morning' to Spanish.",
    "Write a Python function that adds two numbers.",
    "Who wrote Hamlet?",
    "List the planets of the solar system.",
    "Why is the sky blue?",
)
TEXTS = (
    "I'll   be back\n\n\tsoon!",
    "3.14159 and 2026-11-20",
    "naïve café – 東京 🙂",
    "x=[i**2 for i in range(10)]",
    " ",
)


def main(folder: Path, file: Path) -> int:
    print(f"BLAS: {blas.preload().name}; torch {torch.__version__}")
    reference = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    their_tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    from mlx_lm import load  # after the BLAS is in place

    model, tokenizer = load(str(folder))
    for text in TEXTS:
        same = tokenizer.encode(text) == their_tokenizer.encode(text)
        print(f"{'same' if same else 'OTHER'} ids for {text!r}")
    results = [compare(prompt, model, tokenizer, reference) for prompt in PROMPTS]
    print(f"{sum(results)} of {len(results)} answers equal")
    return 0 if all(results) else 1


def compare(prompt: str, model: Any, tokenizer: Any, reference: Any) -> bool:
    turn = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
    theirs, ours = torch_answer(reference, ids), mlx_answer(model, ids)
    path = ids + theirs
    expected = torch_logprobs(reference, path)[len(ids) - 1 :]
    gap = np.abs(mlx_logprobs(model, path)[len(ids) - 1 :] - expected)
    chosen = gap[np.arange(len(theirs)), theirs].max()
    top = np.sort(expected[:-1], axis=-1)
    margin = (top[:, -1] - top[:, -2]).min()
    verdict = "equal" if ours == theirs else f"DIFFER: {tokenizer.decode(ours)!r}"
    print(
        f"{verdict}; chosen tokens {chosen:.1e}, all {gap.max():.1e}, margin {margin:.1e}; {tokenizer.decode(theirs)!r}"
    )
    return ours == theirs


def torch_logprobs(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1).numpy()


def torch_answer(model: Any, ids: list[int]) -> list[int]:
    path = list(ids)
    for _ in range(TOKENS):
        path.append(int(torch_logprobs(model, path)[-1].argmax()))
    return path[len(ids) :]


def mlx_logprobs(model: Any, ids: list[int]) -> np.ndarray:
    import mlx.core as mx

    logits = np.array(model(mx.array([ids]))[0].astype(mx.float32), dtype=np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def mlx_answer(model: Any, ids: list[int]) -> list[int]:
    path = list(ids)
    for _ in range(TOKENS):
        path.append(int(mlx_logprobs(model, path)[-1].argmax()))
    return path[len(ids) :]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
