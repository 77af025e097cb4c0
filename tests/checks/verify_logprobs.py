"""Compare the log-probabilities that the API tells with an independent implementation. Run by hand:

    python tests/checks/verify_logprobs.py reference FILE.gguf REFERENCE.json     with torch, transformers and gguf
    python tests/checks/verify_logprobs.py compare URL MODEL REFERENCE.json       against a running server

The reference is transformers' own GGUF loading with torch on a CPU in float32. Texts go to the server as token prompts
with `echo` and `logprobs`, so every token's log-probability and the likeliest alternatives are compared; chat replies
are compared with the legacy form on the way. Exit code 0 within 1e-3 nats.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TOLERANCE = 1e-3
TOP = 20
TEXTS = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))",
    "naïve café – 東京 🙂 3.14159 and 2026-11-20",
    "Gravity is what pulls things toward the ground. " * 12,
    '{"name": "Ada", "age": 36, "tags": ["mathematics", "engines"]}',
)


def reference(file: Path, to: Path) -> int:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    told = []
    for text in TEXTS:
        ids = tokenizer.encode(text)
        with torch.no_grad():
            rows = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)[:-1]
        values, tokens = rows.topk(TOP)
        own = rows[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].tolist()
        told.append({"ids": ids, "own": own, "top": [tokens.tolist(), values.tolist()]})
    to.write_text(json.dumps({"torch": torch.__version__, "texts": told}))
    print(f"{len(told)} texts, {sum(len(one['ids']) for one in told)} tokens written")
    return 0


def compare(url: str, model: str, file: Path) -> int:
    import httpx

    known = json.loads(file.read_text())
    worst_own = worst_top = 0.0
    for one in known["texts"]:
        body = {"model": model, "prompt": one["ids"], "echo": True, "logprobs": TOP, "max_tokens": 0}
        reply = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
        reply.raise_for_status()
        told = reply.json()["choices"][0]["logprobs"]
        assert told["token_logprobs"][0] is None
        assert len(told["token_logprobs"]) == len(one["ids"])
        worst_own = max(
            worst_own, *(abs(a - b) for a, b in zip(told["token_logprobs"][1:], one["own"], strict=True))
        )
        tops = zip(told["top_logprobs"][1:], one["top"][1], one["own"], strict=True)
        worst_top = max(worst_top, *(gap(*entry) for entry in tops))
    print(
        f"chosen tokens within {worst_own:.1e} nats, the {TOP} likeliest within {worst_top:.1e}; torch {known['torch']}"
    )
    return 0 if max(worst_own, worst_top) < TOLERANCE else 1


def gap(told: dict[str, Any], expected: list[float], own: float) -> float:
    """Tokens that are written alike share an entry, so values are looked for rather than counted off; the chosen token
    is told even where it is not among the likeliest."""
    return max(min(abs(value - other) for other in [*expected, own]) for value in told.values())


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    sys.exit(reference(*map(Path, rest)) if kind == "reference" else compare(rest[0], rest[1], Path(rest[2])))
