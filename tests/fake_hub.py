"""The fake hub (`mlx_panel/hub/fake.py`) as a process, asked over HTTP like any other."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .server import Running, running


class HubProcess:
    """`url` goes into HF_ENDPOINT."""

    def __init__(self, url: str):
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=30)

    def __repr__(self) -> str:
        return f"<HubProcess {self.url}>"

    def set(self, **faults: Any) -> dict[str, Any]:
        """Set faults, or change a repository; all faults as they are now."""
        return self.client.post("/_fake", json=faults).raise_for_status().json()

    def served(self, path: str = "") -> list[list[int]]:
        """The byte ranges that left of the files whose name ends so."""
        files = self.log()["files"]
        return [range for name, ranges in files.items() if name.endswith(path) for range in ranges]

    def log(self) -> dict[str, Any]:
        return self.client.get("/_fake/served").raise_for_status().json()

    def forget(self) -> None:
        """Begin the log anew."""
        self.client.delete("/_fake/served").raise_for_status()


@contextlib.contextmanager
def fake_hub(
    *generate: str, folder: Path | None = None, port: int = 0, token: str = ""
) -> Iterator[HubProcess]:
    """A hub of made-up models (`org/name:bytes[:shards]`) and of those in a folder, until the end of the block."""
    words = [word for spec in generate for word in ("--generate", spec)]
    words += ["--folder", str(folder)] if folder else []
    words += ["--token", token] if token else []
    process = subprocess.Popen(
        [sys.executable, "-m", "mlx_panel.hub.fake", "--port", str(port), *words],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        hub = HubProcess(process.stdout.readline().strip())
        assert hub.url.startswith("http"), "the fake hub did not start"
        with hub.client:
            yield hub
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


@contextlib.contextmanager
def serving(hub: HubProcess, folder: Path) -> Iterator[Running]:
    """A server that takes this hub for the hub, and has no token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
            patch.delenv(name, raising=False)
        with running(folder) as one:
            yield one
