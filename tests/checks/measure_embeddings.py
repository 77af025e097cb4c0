"""Measures embeddings over HTTP against torch on the same machine, in alternating rounds.

    python -m tests.checks.measure_embeddings MODEL_FOLDER --torch /path/to/python [--clients 32] [--rounds 5]

Not a test: machines differ. Sentences have 32 tokens, special ones included. Each client asks for one sentence at a
time (`--format base64` is what the openai client asks for) and asks again when it has its vector; the clients run in
this process, so they share the cores with the server. The other side is a process of the Python that `--torch` names,
with sentence-transformers: nothing but `encode` over as many sentences at once as there are clients, without HTTP, which
is the best it can do; and one thread a client, each with one sentence, which is what 32 clients of it would be. While
one side is measured the other one sleeps. What other processes took meanwhile is said, as it moves the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

TOKENS = 32
WAYS = {
    "together": "sentence-transformers, one encode() over all",
    "threads": "sentence-transformers, a thread a client",
}


def sentences(folder: Path, count: int) -> list[str]:
    """Sentences of 30 words of the vocabulary, a token each; with the two special ones that makes 32."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = sorted(word for word in vocabulary if word.isascii() and word.isalpha())
    draw = random.Random(7)
    return [" ".join(draw.choice(words) for _ in range(TOKENS - 2)) for _ in range(count)]


# --- the other side: a process of its own, in another environment ------------------------------------------------


def other(folder: Path, clients: int) -> None:
    """Answer lines of JSON: {"way", "seconds"} → {"sentences", "seconds"}."""
    import threading

    import sentence_transformers
    import torch
    import transformers

    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    texts = sentences(folder, 16 * clients)

    def together(end: float) -> int:
        done = 0
        while time.monotonic() < end:
            start = done % len(texts)
            done += len(
                model.encode(texts[start : start + clients], batch_size=clients, show_progress_bar=False)
            )
        return done

    def alone(end: float, first: int, done: list[int]) -> None:
        while time.monotonic() < end:
            model.encode(texts[(first + clients * done[first]) % len(texts)], show_progress_bar=False)
            done[first] += 1

    def threads(end: float) -> int:
        done = [0] * clients
        all_of_them = [threading.Thread(target=alone, args=(end, number, done)) for number in range(clients)]
        for thread in all_of_them:
            thread.start()
        for thread in all_of_them:
            thread.join()
        return sum(done)

    together(time.monotonic() + 1)
    packages = {"torch": torch, "transformers": transformers, "sentence-transformers": sentence_transformers}
    versions = ", ".join(f"{name} {package.__version__}" for name, package in packages.items())
    print(json.dumps({"versions": versions, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.monotonic()
        done = {"together": together, "threads": threads}[asked["way"]](began + asked["seconds"])
        print(json.dumps({"sentences": done, "seconds": time.monotonic() - began}), flush=True)


class Other:
    """That process, from here."""

    def __init__(self, python: str, folder: Path, clients: int):
        command = [python, __file__, str(folder), "--other", "--clients", str(clients)]
        quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=quiet,
        )
        self.about = self._read()

    def rate(self, way: str, seconds: float) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"way": way, "seconds": seconds}) + "\n")
        self._process.stdin.flush()
        told = self._read()
        return told["sentences"] / told["seconds"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


# --- this side ---------------------------------------------------------------------------------------------------


async def load(
    url: str, model: str, texts: list[str], clients: int, seconds: float, form: str
) -> tuple[float, list[float]]:
    """Sentences a second, and how long each took."""
    from mlx_panel.bench.http1 import Client

    client = Client(url)
    took: list[float] = []

    async def caller(number: int, end: float) -> None:
        while time.monotonic() < end:
            text = texts[(number + clients * len(took)) % len(texts)]
            body = json.dumps({"model": model, "input": text, "encoding_format": form}).encode()
            began = time.monotonic()
            response, content = await client.read("POST", "/v1/embeddings", body)
            assert response.status == 200, content
            took.append(time.monotonic() - began)

    began = time.monotonic()
    await asyncio.gather(*(caller(number, began + seconds) for number in range(clients)))
    rate = len(took) / (time.monotonic() - began)
    client.close()
    return rate, sorted(took)


class Others:
    """What processes that are not part of this measurement take of the machine."""

    def __init__(self) -> None:
        import psutil

        self._psutil = psutil

    def wait(self, seconds: float) -> None:
        """Wait until they take next to nothing, but no longer than so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._psutil.cpu_percent(1.0) > 8:
            pass

    def begin(self) -> None:
        self._began, self._busy, self._own = time.monotonic(), self._all(), self._mine()

    def share(self) -> float:
        """Of one core, since `begin`."""
        took = self._all() - self._busy - (self._mine() - self._own)
        return max(0.0, took) / (time.monotonic() - self._began)

    def _all(self) -> float:
        times = self._psutil.cpu_times()
        return times.user + times.nice + times.system

    def _mine(self) -> float:
        me = self._psutil.Process()
        used = [one.cpu_times() for one in (me, *me.children(recursive=True))]
        return sum(times.user + times.system for times in used)


def measure(server: Any, model: str, folder: Path, rival: Other | None, options: argparse.Namespace) -> None:
    texts = sentences(folder, 16 * options.clients)
    others = Others()
    found: list[dict[str, float]] = []
    asyncio.run(load(server.url, model, texts, options.clients, 1, options.format))
    for number in range(options.rounds):
        one: dict[str, float] = {}
        line, most = f"round {number + 1}:", 0.0
        for way in ("ours", *(options.ways if rival else ())):
            others.wait(options.idle)
            others.begin()
            if way == "ours":
                one[way], took = asyncio.run(
                    load(server.url, model, texts, options.clients, options.seconds, options.format)
                )
                line += f" mlx-panel {one[way]:.1f}/s, p50 {took[len(took) // 2] * 1000:.0f} ms;"
            else:
                one[way] = rival.rate(way, options.seconds)  # type: ignore[union-attr]
                line += f" {way} {one[way]:.1f}/s;"
            most = max(most, others.share())
        found.append({**one, "others": most})
        print(f"{line} others took {most:.0%} of a core at most", flush=True)
    tell(found, options.ways if rival else ())


def tell(found: list[dict[str, float]], ways: list[str] | tuple[()]) -> None:
    """Medians over all rounds, and over those in which nobody else took more than a tenth of a core."""
    quiet = [one for one in found if one["others"] < 0.1]
    for name, rounds in (("all", found), ("undisturbed", quiet)):
        for way in ways if rounds else ():
            ratios = sorted(one["ours"] / one[way] for one in rounds)
            ours, theirs = (statistics.median(one[side] for one in rounds) for side in ("ours", way))
            print(
                f"{len(rounds)} rounds ({name}) against {WAYS[way]}: {ours:.0f} and {theirs:.0f} sentences/s, "
                f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that has sentence-transformers")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument(
        "--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="which of the other side"
    )
    parser.add_argument(
        "--idle", type=float, default=0, help="wait so long for an idle machine before each load"
    )
    parser.add_argument("--format", default="base64", choices=("base64", "float"))
    parser.add_argument("--prefill-step", type=int, help="the most tokens of a pass")
    parser.add_argument("--other", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.model.resolve()
    if options.other:
        other(folder, options.clients)
        return
    serve(folder, options)


def serve(folder: Path, options: argparse.Namespace) -> None:
    from ..server import running

    settings = {"prefill_step": options.prefill_step} if options.prefill_step else {}
    rival = Other(options.torch, folder, options.clients) if options.torch else None
    with tempfile.TemporaryDirectory() as data:
        (Path(data) / "models").mkdir()
        (Path(data) / "models" / folder.name).symlink_to(folder)
        command = ("-m", "mlx_panel", "serve")
        with running(Path(data), command=command, models=folder.name, **settings) as server:
            while server.client.get("/health").status_code != 200:
                time.sleep(0.1)
            about = server.client.get("/api/system").json()
            print(f"{platform.platform()}, {about['cpu_count']} cores, Python {platform.python_version()}")
            print(
                ", ".join(
                    f"{name} {metadata.version(name)}" for name in ("mlx-panel", "mlx", "numpy", "tornado")
                )
            )
            if rival:
                print(f"{rival.about['versions']}, {rival.about['threads']} threads")
            print(f"{folder.name}, {options.clients} clients, {TOKENS} tokens, {options.format}")
            measure(server, folder.name, folder, rival, options)
    if rival:
        rival.close()


if __name__ == "__main__":
    main()
