"""Keeps a real server busy with requests that come and go at random, then looks at what is left behind.

    python -m tests.checks.soak [--minutes 10] [--clients 24] [--seed 0] [--model FOLDER]

Without `--model` a tiny random one is made. Requests differ in length, sampling, seed, streaming, determinism, and in
whether their client waits for the end. Ends with status 1 if a request that was not given up failed, a cache went
over its budget, memory kept growing, or anything was left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil

from ..server import Running, running

BUDGET_MB, DISK_MB = 24, 48
SERVE = ("-m", "mlx_panel", "serve")
LOOK_SECONDS = 2.0
# What a process may hold more at the end than after the first third, as a share.
GROWTH = 0.25


class Soak:
    """One run: random clients on one server, and what was seen of its caches and memory meanwhile."""

    def __init__(self, server: Running, model: str, seed: int):
        self.server, self.model = server, model
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.memory: list[tuple[float, int, int]] = []
        self.most_cached = self.most_on_disk = 0

    def body(self) -> dict[str, Any]:
        """A request unlike the last one; a third begin like others, so that the prefix cache has work."""
        draw = self.random
        system = f"You are helper number {draw.randrange(12)}. " * draw.choice((1, 8, 40))
        words = " ".join(str(draw.randrange(1000)) for _ in range(draw.choice((1, 5, 60, 300))))
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": words}],
            "max_tokens": draw.choice((1, 2, 17, 64, 200)),
            "temperature": draw.choice((0, 0, 0.7, 1.3)),
            "stream": draw.random() < 0.8,
        }
        more = {
            "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": draw.randrange(9), "frequency_penalty": 0.5,
            "repetition_penalty": 1.1, "logit_bias": {"7": -100}, "stop": ["e", "qu"], "deterministic": True,
        }  # fmt: skip
        return body | {name: value for name, value in more.items() if draw.random() < 0.15}

    async def client(self, http: httpx.AsyncClient, until: float) -> None:
        while time.monotonic() < until:
            leaves = self.random.random() < 0.25
            patience = self.random.uniform(0.005, 0.5) if leaves else 120.0
            try:
                async with asyncio.timeout(patience):
                    await self.ask(http, self.body())
            except TimeoutError:
                self.seen["left"] += 1
                if not leaves:
                    self.wrong.append("a request hung for two minutes")
            await asyncio.sleep(self.random.choice((0, 0, 0.01, 0.2)))

    async def ask(self, http: httpx.AsyncClient, body: dict[str, Any]) -> None:
        async with http.stream("POST", "/v1/chat/completions", json=body) as reply:
            text = (await reply.aread()).decode()
        whole = text.endswith("data: [DONE]\n\n") if body["stream"] else "finish_reason" in text
        self.seen["answered"] += 1
        if reply.status_code != 200 or not whole or '"error"' in text:
            self.wrong.append(f"status {reply.status_code}, whole: {whole}")

    async def watch(self, http: httpx.AsyncClient, until: float) -> None:
        """Memory of server and worker, and what the caches say of themselves, now and then."""
        while time.monotonic() < until:
            await asyncio.sleep(LOOK_SECONDS)
            figures = await self.figures(http)
            self.most_cached = max(self.most_cached, figures["bytes"])
            self.most_on_disk = max(self.most_on_disk, figures["disk_bytes"])
            processes = (psutil.Process(self.server.process.pid), *self.server.workers())
            rss = [process.memory_info().rss for process in processes]
            self.memory.append((time.monotonic(), rss[0], sum(rss[1:])))

    async def figures(self, http: httpx.AsyncClient) -> dict[str, Any]:
        models = (await http.get("/v1/admin/cache")).raise_for_status().json()["models"]
        figures: dict[str, Any] = models[self.model]
        return figures

    async def run(self, seconds: float, clients: int) -> dict[str, Any]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.server.url, timeout=None, limits=limits) as http:
            await self.ask(http, self.body())
            until = time.monotonic() + seconds
            await asyncio.gather(self.watch(http, until), *(self.client(http, until) for _ in range(clients)))
            await asyncio.sleep(2)
            return await self.figures(http)

    def judge(self, left: dict[str, Any]) -> list[str]:
        """What is not as it should be."""
        faults = [f"{count} × {what}" for what, count in Counter(self.wrong).items()]
        if self.most_cached > BUDGET_MB << 20 or self.most_on_disk > DISK_MB << 20:
            faults.append(
                f"caches of {self.most_cached} and {self.most_on_disk} bytes are over their budgets"
            )
        if left["kv_bytes"]:
            faults.append(f"{left['kv_bytes']} bytes of KV cache are left")
        early = self.memory[len(self.memory) // 3][1:]
        for name, before, after in zip(("server", "worker"), early, self.memory[-1][1:], strict=True):
            if after > before * (1 + GROWTH):
                faults.append(f"the {name} grew from {before >> 20} to {after >> 20} MB")
        return faults


def tiny(folder: Path) -> Path:
    from ..models import tiny_model  # mlx, only when one is to be made

    return tiny_model(folder / "soak", context=4096)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.model or tiny(Path(temporary))
        return soak(folder, Path(temporary), options)


def soak(folder: Path, temporary: Path, options: argparse.Namespace) -> int:
    data = temporary / "data"
    (data / "models").mkdir(parents=True)
    (data / "models" / folder.name).symlink_to(folder)
    with running(data, command=SERVE, prefix_cache_mb=BUDGET_MB, prefix_cache_disk_mb=DISK_MB) as server:
        run = Soak(server, folder.name, options.seed)
        left = asyncio.run(run.run(options.minutes * 60, options.clients))
        worker, log = server.workers()[0], server.output()
    faults = run.judge(left)
    faults += [] if not worker.is_running() else ["the worker outlived its server"]
    faults += ["a traceback in the log"] if "Traceback" in log else []
    print(f"{options.minutes:g} minutes, {options.clients} clients: {dict(run.seen)}")
    print(
        f"prefix cache at most {run.most_cached >> 20} of {BUDGET_MB} MB, on disk {run.most_on_disk >> 20} of {DISK_MB} MB"
    )
    print(
        "memory of server and worker, MB:",
        [(a >> 20, b >> 20) for _, a, b in run.memory[:: max(1, len(run.memory) // 10)]],
    )
    print("left:", json.dumps(left))
    print("\n".join(faults) or "nothing wrong")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
