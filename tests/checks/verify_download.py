"""A download over a hub that drops the connection again and again, into a server that is killed twice.

    python -m tests.checks.verify_download [--size 1000000000] [--drop 100000000] [--rate BYTES_PER_SECOND]

The hub is a process of its own and counts what leaves; the server is a real one, ended with SIGKILL at a third and at two
thirds. Printed: bytes served and size, the bytes fetched twice at each kill (what was on its way in buffers), the hash of
the file, and whether the model is listed. Exits 1 where a byte beyond those of the kills was fetched twice.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

from tests.fake_hub import HubProcess, fake_hub
from tests.server import Running, environment, free_port, wait_until_live

MODEL = "org/large"
WEIGHTS = "model.safetensors"
TORN = (
    12 << 20
)  # bytes that a connection's buffers may hold: those that Linux gives both ends at most, and some


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. `twice` are the bytes served again, `torn` those of them after a kill, one number a kill."""

    size: int
    served: int
    twice: int
    torn: tuple[int, ...]
    requests: int
    retries: int
    fetched: int
    seconds: float
    right: bool
    listed: bool
    left: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether nothing but the torn block of each kill was fetched twice, and the file is right."""
        within = self.twice == sum(self.torn) and all(one <= TORN for one in self.torn)
        return self.right and self.listed and within and not self.left


def download(
    folder: Path, size: int, drop: int, rate: float = 0.0, kills: tuple[float, ...] = (1 / 3, 2 / 3)
) -> Outcome:
    """Fetch a model of so many bytes with a server that is killed at these shares of it."""
    with fake_hub(f"{MODEL}:{size}") as hub:
        hub.set(drop_every=drop, bytes_per_second=rate)
        began = time.monotonic()
        task = ""
        for share in kills:
            server = start(folder, hub)
            task = (
                task
                or server.client.post("/api/models/download", json={"model": MODEL})
                .raise_for_status()
                .json()["task"]
            )
            wait(server, task, lambda now, share=share: now["done"] >= share * now["total"] > 0)
            kill(server)
        server = start(folder, hub)
        last = wait(server, task, lambda now: now["state"] in ("completed", "failed"))
        seconds = time.monotonic() - began
        names = [one["id"] for one in server.client.get("/v1/models").json()["data"]]
        server.client.close()
        server.stop()
        return looked(folder, hub, last, seconds, MODEL in names)


def start(folder: Path, hub: HubProcess) -> Running:
    folder.mkdir(exist_ok=True)
    port = free_port()
    with (folder / "server.out").open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlx_panel", "serve", "--port", str(port)],
            env={**environment(folder, port=port), "HF_ENDPOINT": hub.url}, stdout=out, stderr=out, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    server = Running(process, f"http://127.0.0.1:{port}", folder, folder / "server.out")
    wait_until_live(server)
    return server


def kill(server: Running) -> None:
    """End a server without a word, and whatever it left."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(10)
    server.client.close()
    psutil.wait_procs(children, timeout=10)


def wait(server: Running, task: str, done: Any, seconds: float = 600) -> dict[str, Any]:
    """The download once `done` says so of it, or once it failed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = server.client.get(f"/api/models/download/{task}/status").raise_for_status().json()
        if done(now) or now["state"] == "failed":
            return now
        time.sleep(0.02)
    raise AssertionError(f"the download stands still: {now}\n{server.output()}")


def looked(folder: Path, hub: HubProcess, last: dict[str, Any], seconds: float, listed: bool) -> Outcome:
    """What came of it, as the hub and the disk tell."""
    ranges = hub.served(WEIGHTS)
    torn = [max(0, before[1] - after[0]) for before, after in itertools.pairwise(ranges)]
    repository = folder / "hub" / f"models--{MODEL.replace('/', '--')}"
    files = list(repository.glob(f"snapshots/*/{WEIGHTS}"))
    size = sum(file.stat().st_size for file in files)
    served = sum(stop - start for start, stop in ranges)
    return Outcome(
        size=size, served=served, twice=served - size, torn=tuple(one for one in torn if one), requests=len(ranges),
        retries=last["retries"], fetched=last["fetched"], seconds=seconds, listed=listed,
        right=last["state"] == "completed" and len(files) == 1 and sha256(files[0]) == files[0].resolve().name,
        left=tuple(file.name for file in repository.rglob("*.incomplete")),
    )  # fmt: skip


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1_000_000_000)
    parser.add_argument("--drop", type=int, default=100_000_000)
    parser.add_argument("--rate", type=float, default=0.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        outcome = download(Path(folder) / "server", given.size, given.drop, given.rate)
    for name, value in msgspec.to_builtins(outcome).items():
        print(f"{name:10} {value:,.1f}" if isinstance(value, float) else f"{name:10} {value}")
    print("good" if outcome.good else "NOT GOOD")
    sys.exit(not outcome.good)


if __name__ == "__main__":
    main()
