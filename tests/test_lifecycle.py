"""Starting, stopping and dying: nothing is lost, nothing is left behind."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import httpx
import psutil
import pytest

from .server import Running, environment, free_port, running, scripted, wait_until_live
from .test_doors import body, wait_for


class Reader(threading.Thread):
    """Reads a stream to its end beside the test."""

    def __init__(self, server: Running, model: str = "slow", **more: Any):
        super().__init__(daemon=True)
        self.lines: list[str] = []
        self.began = threading.Event()
        self.error: Exception | None = None
        self._server, self._body = server, body("chat", model, stream=True, **more)
        self.start()
        assert self.began.wait(20)

    def run(self) -> None:
        try:
            with httpx.stream(
                "POST", f"{self._server.url}/v1/chat/completions", json=self._body, timeout=30
            ) as stream:
                for line in stream.iter_lines():
                    self.lines += [line] if line else []
                    self.began.set()
        except httpx.HTTPError as error:
            self.error = error
            self.began.set()

    def last(self) -> str:
        self.join(30)
        assert not self.is_alive()
        return self.lines[-1].removeprefix("data: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_drain_finishes_what_runs_and_takes_nothing_new(serve: Any, number: int) -> None:
    server: Running = serve()
    stream = Reader(server, max_tokens=100)
    server.process.send_signal(number)
    wait_for(lambda: server.client.get("/health").json()["status"] == "draining")
    health = server.client.get("/health")
    assert (health.status_code, health.json()["live"], health.json()["ready"]) == (503, True, False)
    refused = server.chat()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert stream.last() == "[DONE]"
    assert server.process.wait(15) == 0
    assert statuses(server) == {"success": 1, "rejected": 1}


def test_a_drain_that_takes_too_long_ends_streams_with_an_error(serve: Any) -> None:
    server: Running = serve(drain_timeout_seconds=0.5)
    stream = Reader(server)
    assert server.stop() == 0
    event = json.loads(stream.last())
    assert event["error"]["code"] == "draining"
    assert event["request_id"]
    assert statuses(server) == {"error": 1}


def test_a_second_signal_does_not_wait(serve: Any) -> None:
    server: Running = serve(drain_timeout_seconds=600)
    stream = Reader(server)
    server.process.send_signal(signal.SIGINT)
    wait_for(lambda: server.client.get("/health").status_code == 503)
    assert server.stop(signal.SIGINT) == 0
    assert json.loads(stream.last())["error"]["code"] == "draining"


def test_a_killed_server_leaves_no_process_and_no_lost_row(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        for _ in range(20):
            assert server.chat().status_code == 200
        time.sleep(0.4)  # the quarter second that may be lost
        Reader(server)
        workers = server.workers()
        assert len(workers) == 2
        server.stop(signal.SIGKILL)
        _, alive = psutil.wait_procs(workers, timeout=6)
        assert not alive
        assert statuses(server)["success"] == 20


def test_a_crash_loop_ends_and_says_why(serve: Any) -> None:
    server: Running = serve(models="dying")
    wait_for(lambda: server.client.get("/health").status_code == 200, 20)
    for _ in range(6):
        server.chat("dying")
    assert server.chat("plain").status_code == 200
    state = next(
        model
        for model in server.client.get("/v1/admin/models/status").json()["models"]
        if model["id"] == "dying"
    )
    assert "SIGKILL" in state["reason"] or state["state"] == "ready"


def test_a_hung_worker_is_replaced(serve: Any) -> None:
    server: Running = serve(silence_seconds=1)
    scripted(server.folder, "hung", text="one two three four", hang_after=2)
    wait_for(lambda: "hung" in server.client.get("/v1/models").text)
    reply = server.chat("hung")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "worker_died")


def test_a_load_that_takes_too_long(serve: Any) -> None:
    reply = serve(load_timeout_seconds=1).chat("late", max_tokens=1)
    if reply.status_code == 200:
        pytest.skip("the worker was up within the second")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_load_failed")


def test_concurrent_requests_share_one_load(serve: Any) -> None:
    server: Running = serve()
    readers = [Reader(server, "late") for _ in range(4)]
    assert [reader.last() for reader in readers] == ["[DONE]"] * 4
    assert len(server.workers()) == 1


def test_load_unload_and_load_again(serve: Any) -> None:
    server: Running = serve()
    assert server.client.post("/v1/admin/models/load/plain").json() == {"status": "loaded", "model": "plain"}
    assert len(server.workers()) == 1
    assert server.client.post("/v1/admin/models/unload/plain").json()["status"] == "unloaded"
    assert server.workers() == []
    assert server.chat().status_code == 200
    stream = Reader(server, max_tokens=50)
    server.client.post("/v1/admin/models/unload/slow").raise_for_status()
    assert stream.last() == "[DONE]"


def test_an_unload_does_not_wait_for_ever(serve: Any) -> None:
    server: Running = serve(drain_timeout_seconds=1)
    stream = Reader(server, "stalled")
    server.client.post("/v1/admin/models/unload/stalled").raise_for_status()
    assert json.loads(stream.last())["error"]["code"] == "model_stopped"


def test_unloading_twice_does_not_wait_at_all(serve: Any) -> None:
    server: Running = serve(drain_timeout_seconds=600)
    stream = Reader(server, "stalled")
    first = threading.Thread(
        target=httpx.post, args=(f"{server.url}/v1/admin/models/unload/stalled",), kwargs={"timeout": 30}
    )
    first.start()
    wait_for(lambda: "stopping" in server.client.get("/v1/admin/models/status").text)
    server.client.post("/v1/admin/models/unload/stalled").raise_for_status()
    assert json.loads(stream.last())["error"]["code"] == "model_stopped"
    first.join(10)
    assert not first.is_alive()


@pytest.mark.parametrize("model", ["late", "hung"])
def test_a_killed_server_takes_loading_and_hung_workers_along(tmp_path: Path, model: str) -> None:
    scripted(tmp_path, "hung", text="one two three four", hang_after=2)
    scripted(tmp_path, "late", text="one", load_seconds=60)
    with running(tmp_path, models="late" if model == "late" else "") as server:
        if model == "late":
            scripted(tmp_path, "late", text="one", load_seconds=60)
        else:
            Reader(server, "hung")
        wait_for(lambda: len(server.workers()) == 1)
        workers = server.workers()
        server.stop(signal.SIGKILL)
        _, alive = psutil.wait_procs(workers, timeout=6)
        assert not alive


def test_a_data_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "mlx_panel", "serve"],
        env=environment(tmp_path / "file"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_that_looks_like_a_setting(serve: Any) -> None:
    server: Running = serve(timout_chat_seconds=5)
    assert "MLX_SERVER_TIMOUT_CHAT_SECONDS" in server.output()


def test_nothing_is_left_in_the_folder_for_sockets(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        server.chat()
        assert len(list((tmp_path / "run").iterdir())) == 1
        server.stop(signal.SIGKILL)
    with running(tmp_path) as server:
        assert list((tmp_path / "run").iterdir()) == []


def test_health_waits_for_the_needed_models(serve: Any) -> None:
    server: Running = serve(models="late,broken")
    health = server.client.get("/health")
    assert health.status_code == 503
    assert set(health.json()["waiting_for"]) == {"late", "broken"}
    wait_for(lambda: server.client.get("/health").json()["waiting_for"] == {"broken": "failed"}, 15)
    assert server.client.get("/health").json()["status"] == "failed"


def test_a_needed_model_that_is_not_there(serve: Any) -> None:
    server: Running = serve(models="nothing,plain")
    wait_for(lambda: server.client.get("/health").json()["waiting_for"] == {"nothing": "failed"}, 15)
    assert server.chat("plain").status_code == 200
    assert server.chat("nothing").status_code == 404


def test_closing_the_terminal_ends_the_server(tmp_path: Path) -> None:
    """The terminal goes, and with it the place to print to; the server drains all the same and takes its workers along."""
    scripted(tmp_path, "plain", text="Hello.")
    port = free_port()
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mlx_panel", "serve", "--port", str(port), "--model", "plain"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(tmp_path),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    server = Running(process, f"http://127.0.0.1:{port}", tmp_path, tmp_path / "none")
    wait_until_live(server)
    wait_for(lambda: server.client.get("/health").status_code == 200, 20)
    workers = server.workers()
    server.client.close()
    os.close(master)
    assert process.wait(15) == 0
    assert not psutil.wait_procs(workers, timeout=5)[1]
    assert len(workers) == 1


def test_a_model_dropped_in_while_the_server_runs(serve: Any) -> None:
    server: Running = serve()
    scripted(server.folder, "new", text="I am new.")
    assert server.chat("new").json()["choices"][0]["message"]["content"] == "I am new."
    shutil.rmtree(server.folder / "models" / "new")
    assert server.chat("new").status_code == 200  # it is in memory
    server.client.post("/v1/admin/models/unload/new").raise_for_status()
    assert server.client.get("/v1/models/new").status_code == 404
    assert "new" not in [
        model["id"] for model in server.client.get("/v1/admin/models/status").json()["models"]
    ]


def test_a_second_server_on_the_same_folder_is_told_why(serve: Any) -> None:
    server: Running = serve()
    second = subprocess.run(
        [sys.executable, "-m", "mlx_panel", "serve", "--port", str(free_port())], env=environment(server.folder), capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    assert second.returncode == 1
    assert str(server.process.pid) in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--address", "0.0.0.0"], "ssh -N -L"),
        (["--num-procs", "2"], "own copy of every model"),
        (["--port", "99999"], "port cannot be"),
    ],
)
def test_what_serve_refuses(tmp_path: Path, flags: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlx_panel", "serve", *flags],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_panel_serve_with_the_plugin(tmp_path: Path) -> None:
    """One port, one loop, the same API and page; Panel's own command, with its own signals."""
    path = subprocess.run(
        [sys.executable, "-m", "mlx_panel", "app-path"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout.strip()
    with running(
        tmp_path,
        command=(
            "-m",
            "panel",
            "serve",
            path,
            "--plugins",
            "mlx_panel.plugin",
            "--index",
            "main",
            "--port",
            str(port := free_port()),
        ),
        port=port,
    ) as server:
        assert server.chat().status_code == 200
        assert "mlx-panel" in server.client.get("/main").text
        stream = Reader(server, max_tokens=60)
        server.process.send_signal(signal.SIGTERM)
        assert stream.last() == "[DONE]"


def test_help_is_quick_and_light() -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mlx_panel", "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    print(f"mlx-panel --help took {time.monotonic() - began:.2f} s")
    for heavy in ("panel.io", "mlx.core", "tornado", "duckdb", "bokeh", "httpx"):
        assert f"| {heavy}" not in done.stderr.replace("mlx_panel", ""), heavy
    assert "serve" in done.stdout


def statuses(server: Running) -> dict[str, int]:
    """What the audit file says once the server is gone."""
    assert not psutil.pid_exists(server.process.pid) or server.process.poll() is not None
    with duckdb.connect(os.fspath(server.folder / "audit.duckdb"), read_only=False) as file:
        return dict(
            file.execute(
                "SELECT status, count(*) FROM audit WHERE dialect = 'openai' GROUP BY status"
            ).fetchall()
        )
