"""Verifies that answers held to a schema meet it, with a real model; and measures what holding them costs.

    python -m tests.checks.verify_schemas MODEL [--schemas 200] [--max-tokens 400] [--batch 32]
    python -m tests.checks.verify_schemas MODEL --speed

The schemas are generated, from a flat object to recursive ones with patterns, formats and unions, and the same at every
run. Each is asked for once, at temperature 1; every answer that is finished has to be valid for jsonschema, formats
included (those that its optional packages check, where they are installed). With `--speed`: the tokens per second of 16
rows that are held to a schema against 16 that are sampled freely, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jsonschema

from mlx_panel.engine.engine import Engine
from mlx_panel.messages import Done, Failed, GenerateRequest, Message, Sampling, Structure, Text
from mlx_panel.tuning import EngineOptions

from ..schemas import PERSON, Schema, generated

PROMPT = "Write a short example of JSON data."
PEOPLE = Structure("json_schema", schema={"type": "array", "items": PERSON, "minItems": 999})


def request(number: int, structure: Structure | None, tokens: int, **more: Any) -> GenerateRequest:
    return GenerateRequest(
        id=str(number),
        model="m",
        messages=(Message("user", PROMPT),),
        sampling=Sampling(temperature=1.0, seed=number),
        max_tokens=tokens,
        structure=structure,
        **more,
    )


def answers(engine: Engine, requests: Iterable[GenerateRequest]) -> dict[str, tuple[str, str]]:
    """Each request's text and how it ended."""
    texts: dict[str, str] = {}
    ends: dict[str, str] = {}
    for one in requests:
        engine.add(one)
        texts[one.id] = ""
    while engine.busy:
        for event in engine.step():
            if isinstance(event, Text):
                texts[event.id] += event.text
            elif isinstance(event, Done):
                ends[event.id] = event.finish_reason
            elif isinstance(event, Failed):
                ends[event.id] = event.code
    return {id: (texts[id], ends[id]) for id in texts}


def verdict(schema: Schema, text: str, end: str) -> str:
    if end != "stop":
        return end
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    try:
        jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError):
        return "INVALID"
    return "valid"


def verify(engine: Engine, count: int, tokens: int) -> bool:
    schemas = generated(count)
    began = time.perf_counter()
    told = answers(
        engine,
        (
            request(number, Structure("json_schema", schema=schema), tokens)
            for number, schema in enumerate(schemas)
        ),
    )
    seconds = time.perf_counter() - began
    verdicts = {number: verdict(schema, *told[str(number)]) for number, schema in enumerate(schemas)}
    for level in range(10):
        part = [verdicts[number] for number in range(count * level // 10, count * (level + 1) // 10)]
        print(f"level {level}: {dict(Counter(part))}")
    counts = Counter(verdicts.values())
    for number in [number for number, found in verdicts.items() if found == "INVALID"]:
        print(f"INVALID {number}: {told[str(number)][0][:200]!r} for {json.dumps(schemas[number])[:300]}")
    finished = counts["valid"] + counts["INVALID"]
    print(
        f"{count} schemas: {finished} finished, {counts['valid']} of these valid, {counts['length']} at their length, "
        f"{count - finished - counts['length']} otherwise; {engine.completion_tokens} tokens in {seconds:.0f} s"
    )
    return counts["INVALID"] == 0 and finished + counts["length"] == count


def rate(engine: Engine, structure: Structure | None, rows: int, steps: int) -> float:
    """Tokens per second of so many rows together, once all of them decode."""
    for number in range(rows):
        engine.add(request(number, structure, 10 * steps, ignore_eos=structure is None))
    speaking: set[str] = set()
    while len(speaking) < rows:
        speaking |= {event.id for event in engine.step() if isinstance(event, Text)}
    before, began = engine.completion_tokens, time.perf_counter()
    for _ in range(steps):
        engine.step()
    seconds = time.perf_counter() - began
    counted = engine.completion_tokens - before
    for number in range(rows):
        engine.cancel(str(number))
    while engine.busy:
        engine.step()
    return counted / seconds


def speed(engine: Engine, rows: int = 16, steps: int = 40, rounds: int = 6) -> None:
    rates: dict[str, list[float]] = {"plain": [], "held": []}
    for number in range(rounds):
        order = ("plain", "held") if number % 2 else ("held", "plain")
        for name in order:
            rates[name].append(rate(engine, PEOPLE if name == "held" else None, rows, steps))
        print(f"round {number + 1}: plain {rates['plain'][-1]:.1f}, held {rates['held'][-1]:.1f} tok/s")
    plain, held = (statistics.median(rates[name]) for name in ("plain", "held"))
    print(f"{rows} rows: plain {plain:.1f} tok/s, held to a schema {held:.1f} tok/s: {held / plain:.0%}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--speed", action="store_true")
    arguments = parser.parse_args()
    engine = Engine.load(arguments.model, options=EngineOptions(max_batch=arguments.batch))
    try:
        if arguments.speed:
            speed(engine)
            return 0
        return 0 if verify(engine, arguments.schemas, arguments.max_tokens) else 1
    finally:
        engine.close(last=True)


if __name__ == "__main__":
    sys.exit(main())
