"""A real server as a real process: started, waited for, stopped, and looked at afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

WORDS = "The quick brown fox jumps over the lazy dog."
# Scripted stand-ins, one a temper (`mlx_panel/engine/fake.py`).
TEMPERS: dict[str, dict[str, Any]] = {
    "plain": {"text": WORDS},
    "slow": {"text": WORDS, "repeat": 400, "step_seconds": 0.02},
    "stalled": {"text": WORDS, "stall_after": 3},
    "silent": {"text": WORDS, "stall_after": 0},
    "failing": {"text": WORDS, "fail_after": 2},
    "dying": {"text": WORDS, "die_after": 2},
    "broken": {"fail_load": "its weights are missing"},
    "late": {"text": WORDS, "load_seconds": 1.0},
    "small": {"text": WORDS, "context_length": 8},
}


class Running:
    """A server process. `url` has no slash at its end; `folder` is its data folder."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, folder: Path, log: Path):
        self.process, self.url, self.folder, self.log = process, url, folder, log
        self.client = httpx.Client(base_url=url, timeout=30)

    def workers(self) -> list[psutil.Process]:
        """The worker processes that live now."""
        return [child for child in psutil.Process(self.process.pid).children() if _is_worker(child)]

    def chat(self, model: str = "plain", text: str = "Hello", **more: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        return self.client.post("/v1/chat/completions", json=body)

    def rows(self, request_id: str) -> list[dict[str, Any]]:
        """The audit rows of a request. The page waits for the writer, so no sleep is needed."""
        page = self.client.get(
            "/v1/admin/audit-logs", params={"scope": "all", "limit": 1000}
        ).raise_for_status()
        return [row for row in page.json()["rows"] if row["request_id"] == request_id]

    def row(self, request_id: str, timeout: float = 5) -> dict[str, Any]:
        """The one row of a request, which a client that left cannot wait for otherwise."""
        end = time.monotonic() + timeout
        while not (found := self.rows(request_id)) and time.monotonic() < end:
            time.sleep(0.05)
        assert len(found) == 1, f"{len(found)} audit rows"
        return found[0]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the server with a signal; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "mlx_panel.worker" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def scripted(folder: Path, name: str, **spec: Any) -> None:
    """Put a scripted model on a server's shelf."""
    model = folder / "models" / name
    model.mkdir(parents=True, exist_ok=True)
    (model / "fake.json").write_text(json.dumps(spec), encoding="utf-8")


def environment(folder: Path, **settings: Any) -> dict[str, str]:
    """This process's environment with a data folder of its own and settings."""
    named = {f"MLX_SERVER_{name.upper()}": str(value) for name, value in settings.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLX_SERVER_")}
    return {
        **kept,
        "PYTHONUNBUFFERED": "1",
        "MLX_SERVER_WARM_SPARE": "false",  # hundreds of servers would import mlx once more each
        "HF_HUB_CACHE": str(folder / "hub"),
        "MLX_SERVER_DATA_DIR": str(folder),
        **named,
    }


@contextlib.contextmanager
def running(
    folder: Path,
    *,
    command: tuple[str, ...] = ("-m", "tests.run_server", "serve"),
    port: int = 0,
    **settings: Any,
) -> Iterator[Running]:
    """A server until the end of the block. It must end in order and leave neither a process nor a traceback."""
    for name, spec in TEMPERS.items():
        scripted(folder, name, **spec)
    port = port or free_port()
    log = folder / "server.out"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-W", "error::ResourceWarning", *command, *(("--port", str(port)) if "serve" in command[-1:] else ())],
            env=environment(folder, port=port, **settings), stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=Path(__file__).parent.parent,
        )  # fmt: skip
    server = Running(process, f"http://127.0.0.1:{port}", folder, log)
    try:
        wait_until_live(server)
        yield server
    finally:
        end(server)


def wait_until_live(server: Running, seconds: float = 40) -> None:
    """Wait until the server answers at all."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            server.client.get("/health")
            return
        time.sleep(0.05)
    raise AssertionError(f"the server did not come up:\n{server.output()}")


def end(server: Running) -> None:
    """Stop and check what a server leaves behind."""
    workers = server.workers() if server.process.poll() is None else []
    server.client.close()
    already = server.process.poll()
    status = server.stop()
    _, alive = psutil.wait_procs(workers, timeout=6)
    for process in alive:
        process.kill()
    assert not alive, f"workers outlived the server: {alive}"
    if already is None:
        assert status == 0, server.output()
    assert "Traceback" not in server.output(), server.output()
