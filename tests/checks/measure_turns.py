"""Measures what a conversation's second turn costs, and what a long prompt costs those whose answers run.

    python -m tests.checks.measure_turns MODEL_FOLDER [--prompt 2000] [--long 6000] [--rounds 3]

Not a test: machines differ. The first turn, the second, and the second after a restart of the server (from disk) are
the time to the first piece of the answer; each round has a conversation of its own. Then four answers run, a long
prompt comes, and the gaps between the pieces of the four are told until its first token.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec

from ..server import Running, running

SERVE = ("-m", "mlx_panel", "serve")
WORDS = (
    "river",
    "stone",
    "morning",
    "garden",
    "letter",
    "winter",
    "music",
    "paper",
    "window",
    "silver",
    "road",
)


def prose(words: int, seed: int) -> str:
    """Words that nothing else begins with."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(words))


class Client:
    """Streams answers of one model and says when each piece came."""

    def __init__(self, server: Running, model: str):
        self.server, self.model = server, model
        self.usage: dict[str, Any] = {}

    async def pieces(self, messages: list[dict[str, str]], tokens: int) -> AsyncIterator[str]:
        body = {
            "model": self.model, "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, "logit_bias": {"2": -100, "0": -100},
        }  # fmt: skip
        async with (
            httpx.AsyncClient(base_url=self.server.url, timeout=None) as http,
            http.stream("POST", "/v1/chat/completions", json=body) as reply,
        ):
            async for line in reply.aiter_lines():
                data = line.removeprefix("data: ")
                if data.startswith("{"):
                    chunk = msgspec.json.decode(data)
                    self.usage = chunk.get("usage") or self.usage
                    if any(choice["delta"].get("content") for choice in chunk["choices"]):
                        yield chunk["choices"][0]["delta"]["content"]

    async def turn(self, messages: list[dict[str, str]], tokens: int = 16) -> tuple[float, str, dict]:
        """Seconds to the first piece, the answer, and its token counts."""
        began, first, answer = time.perf_counter(), 0.0, ""
        async for piece in self.pieces(messages, tokens):
            first = first or time.perf_counter() - began
            answer += piece
        return first, answer, self.usage


def said(*texts: str) -> list[dict[str, str]]:
    roles = ("system", "user", "assistant")
    return [
        {"role": roles[0] if not at else roles[1 + (at + 1) % 2], "content": text}
        for at, text in enumerate(texts)
    ]


async def turns(folder: Path, model: str, words: int, rounds: int) -> None:
    """First and second turns of several conversations, and the second turns once more after a restart."""
    first, second, restarted = [], [], []
    talks = []
    with running(folder, command=SERVE) as server:
        client = Client(server, model)
        await client.turn(said("Hello.", "Hello."))
        for number in range(rounds):
            system, question = prose(words, number), f"What is word number {number}?"
            seconds, answer, usage = await client.turn(said(system, question))
            first.append(seconds)
            talks.append(said(system, question, answer, "And the one after it?"))
            seconds, _, again = await client.turn(talks[-1])
            second.append(seconds)
            cached = again["prompt_tokens_details"]["cached_tokens"]
            print(
                f"  conversation {number}: {usage['prompt_tokens']} tokens; second turn {cached} of {again['prompt_tokens']} cached"
            )
    with running(folder, command=SERVE) as server:
        client = Client(server, model)
        await client.turn(said("Hello.", "Hello."))
        restarted = [(await client.turn(talk))[0] for talk in talks]
    told = [statistics.median(seconds) for seconds in (first, second, restarted)]
    print(
        f"time to first token, median of {rounds}: first turn {told[0]:.3f} s; second {told[1]:.3f} s ({told[1] / told[0]:.1%}); second after a restart {told[2]:.3f} s ({told[2] / told[0]:.1%})"
    )


async def stall(folder: Path, model: str, words: int) -> None:
    """Gaps of four running answers, before and while a long prompt is processed."""
    gaps: list[tuple[float, float]] = []

    async def answer(client: Client, number: int) -> None:
        before = 0.0
        async for _ in client.pieces(said("Count.", f"Count to {number}."), 4000):
            now = time.perf_counter()
            gaps.extend([(now, now - before)] if before else [])
            before = now

    with running(folder, command=SERVE) as server:
        running_answers = [
            asyncio.create_task(answer(Client(server, model), 900 + number)) for number in range(4)
        ]
        await asyncio.sleep(12)
        began = time.perf_counter()
        client = Client(server, model)
        first, _, usage = await client.turn(said(prose(words, 99), "Hello?"), tokens=1)
        for task in running_answers:
            task.cancel()
        await asyncio.gather(*running_answers, return_exceptions=True)
    alone = sorted(gap for at, gap in gaps if began - 8 < at < began)
    beside = sorted(gap for at, gap in gaps if began < at < began + first)
    for name, some in (("before", alone), ("meanwhile", beside)):
        p50, p95, most = (some[min(len(some) - 1, int(len(some) * part))] * 1000 for part in (0.5, 0.95, 1))
        print(f"  gaps {name}: {len(some)}, p50 {p50:.0f} ms, p95 {p95:.0f} ms, longest {most:.0f} ms")
    print(f"  the prompt of {usage['prompt_tokens']} tokens took {first:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompt", type=int, default=2000, help="words of the conversation's system prompt")
    parser.add_argument("--long", type=int, default=6000, help="words of the long prompt")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{options.model.name} on {platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "models").mkdir()
        (folder / "models" / options.model.name).symlink_to(options.model.resolve())
        asyncio.run(turns(folder, options.model.name, options.prompt, options.rounds))
        asyncio.run(stall(folder, options.model.name, options.long))


if __name__ == "__main__":
    main()
