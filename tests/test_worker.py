"""The worker as a process of its own, over a real socket: what it says, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import zmq

from mlx_panel.errors import ModelLoadFailed
from mlx_panel.messages import (
    Add,
    Beat,
    Cancel,
    Cancelled,
    Command,
    Done,
    Event,
    Failed,
    Frame,
    GenerateRequest,
    LoadFailed,
    Origin,
    Ready,
    Report,
    Sampling,
    Stage,
    Stop,
    Text,
    Trace,
    Usage,
    decode_report,
    encode,
)
from mlx_panel.worker import reason

from .models import tiny_model

WORDS = "one two three four"
T = TypeVar("T")


class Peer:
    """The server's end of the socket, and the worker's process."""

    def __init__(self, folder: Path):
        self.address = f"ipc://{folder}/socket"
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.PAIR)
        self.socket.bind(self.address)
        self.process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str, before: tuple[str, ...] = ()) -> None:
        command = [*before, sys.executable, "-m", "mlx_panel.worker", "--socket", self.address, *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def fake(self, **spec: object) -> Ready:
        self.start("--fake", json.dumps({"text": WORDS} | spec))
        return self.take(Ready)

    def send(self, command: Command) -> None:
        self.socket.send(encode(command))

    def receive(self, seconds: float = 20) -> Report:
        assert self.socket.poll(1000 * seconds), "the worker says nothing"
        return decode_report(self.socket.recv())

    def take(self, kind: type[T]) -> T:
        return next(report for report in iter(self.receive, None) if isinstance(report, kind))

    def until(self, wanted: Callable[[Event], bool]) -> list[Event]:
        """All events up to the first wanted one."""
        events: list[Event] = []
        while not any(map(wanted, events)):
            events += self.take(Frame).events
        return events

    def end(self) -> tuple[int, str]:
        """Wait for the process; its exit code and what it logged."""
        assert self.process
        _, logged = self.process.communicate(timeout=10)
        return self.process.returncode, logged

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.communicate()
        self.context.destroy(linger=0)


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    peer = Peer(tmp_path)
    yield peer
    peer.close()


def ask(id: str = "a", **more) -> GenerateRequest:
    return GenerateRequest(id, "tiny", prompt="Once upon a time", **({"sampling": Sampling(0.0)} | more))


def said(events: list[Event], id: str = "a") -> str:
    return "".join(event.text for event in events if isinstance(event, Text) and event.id == id)


def ends(event: Event) -> bool:
    return isinstance(event, Done | Failed | Cancelled)


def test_a_real_model_streams_cancels_and_stops_in_order(peer: Peer, tmp_path: Path) -> None:
    peer.start("--model", str(tiny_model(tmp_path / "tiny")), "--name", "tiny")
    ready = peer.take(Ready)
    assert (ready.pid, ready.info.architecture) == (peer.process.pid, "llama")
    assert set(ready.versions) == {"mlx-panel", "mlx", "mlx-lm"}
    now = time.monotonic()
    peer.send(Add(ask(max_tokens=8), Origin("caller's", now - 1.0, now)))
    events = peer.until(ends)
    assert events[-1].usage.completion_tokens == 8
    (trace,) = (event for event in events if isinstance(event, Trace))
    assert events.index(trace) < len(events) - 1  # before the end, and in its frame
    assert trace.spans[0].at_ms == pytest.approx(1000, abs=0.01)  # when it was sent, on the arrival's clock
    assert {"tokenise", "prefill", "decode"} <= {span.kind for span in trace.spans}
    peer.send(Add(ask("b", max_tokens=1000)))
    peer.until(lambda event: isinstance(event, Text))
    peer.send(Cancel("b"))
    assert isinstance(peer.until(ends)[-1], Cancelled)
    assert peer.take(Beat).running == 0
    peer.send(Add(ask("c", max_tokens=1000)))
    peer.until(lambda event: isinstance(event, Text))
    peer.send(Stop())
    assert isinstance(peer.until(ends)[-1], Cancelled)
    assert peer.end() == (0, "")


def test_sigterm_is_an_orderly_stop_and_ctrl_c_is_the_servers(peer: Peer, tmp_path: Path) -> None:
    peer.start("--model", str(tiny_model(tmp_path / "tiny")))
    peer.take(Ready)
    peer.send(Add(ask(max_tokens=1000)))
    peer.until(lambda event: isinstance(event, Text))
    peer.process.send_signal(signal.SIGINT)
    peer.process.send_signal(signal.SIGHUP)
    peer.until(lambda event: isinstance(event, Text))
    peer.process.send_signal(signal.SIGTERM)
    assert isinstance(peer.until(ends)[-1], Cancelled)
    assert peer.end() == (0, "")


def test_draining_finishes_what_runs_and_refuses_the_rest(peer: Peer) -> None:
    peer.fake(step_seconds=0.05)
    peer.send(Add(ask()))
    peer.until(lambda event: isinstance(event, Text))
    peer.send(Stop(drain=True))
    peer.send(Add(ask("late")))
    events = peer.until(lambda event: isinstance(event, Done))
    assert Failed("late", "draining") in events
    assert events[-1] == Done("a", "stop", Usage(4, 0, 5))
    assert peer.end() == (0, "")


def test_refusals_come_back_with_code_and_numbers(peer: Peer) -> None:
    peer.fake(context_length=16)
    peer.socket.send(b"\x81\xa4type\xa4Nope")
    peer.socket.send(b"\xc1")
    peer.send(Add(ask(max_tokens=13)))
    numbers = {"context_length": 16, "prompt_tokens": 4, "max_tokens": 13}
    assert peer.take(Frame).events == [
        Failed("a", "context_length_exceeded", numbers=numbers, field="prompt")
    ]
    peer.send(Stop())
    code, logged = peer.end()
    assert code == 0
    assert logged.count("a command was not understood") == 2


def test_a_folder_that_cannot_be_loaded_is_named_in_one_line(peer: Peer, tmp_path: Path) -> None:
    peer.start("--model", str(tmp_path))
    assert peer.receive() == LoadFailed("FileNotFoundError: config.json")
    code, logged = peer.end()
    assert code == 3
    assert "FileNotFoundError at" in logged


def test_where_a_broken_model_lies_is_in_the_log_alone(peer: Peer, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "my models" / "tiny")
    (folder / "model.safetensors").write_bytes(b"broken" * 100)
    peer.start("--model", str(folder))
    said = peer.receive().reason
    assert "model.safetensors" in said
    assert "/" not in said
    code, logged = peer.end()
    assert code == 3
    assert str(folder / "model.safetensors") in logged
    assert len(logged.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("no header: /srv/my models/tiny/a.bin"), "RuntimeError: no header: a.bin"),
        (RuntimeError("/srv/my models/tiny: empty."), "RuntimeError: tiny: empty"),
        (
            ValueError("'/tmp/a b/c.json' or ~/d.txt (/x/e), and/or f"),
            "ValueError: 'c.json' or d.txt (e), and/or f",
        ),
        (ValueError("see https://huggingface.co/docs/x"), "ValueError: see https://huggingface.co/docs/x"),
        (PermissionError(13, "denied", "/srv/my models/other/g"), "PermissionError: g"),
        (KeyError("model_type"), "KeyError: 'model_type'"),
        (ModelLoadFailed("no place in /srv/my models/h"), "no place in h"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_reason_is_short_and_says_no_place(error: Exception, line: str) -> None:
    assert reason(error, "/srv/my models/tiny") == line
    assert len(reason(ValueError("words " * 100), "")) == 200


def test_a_fake_folder_loads_like_a_model_and_its_fields_are_checked(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "fake.json").write_text('{"txt": "typo"}')
    peer.start("--model", str(tmp_path))
    assert "unknown field `txt`" in peer.receive().reason
    assert peer.end()[0] == 3
    (tmp_path / "fake.json").write_text('{"text": "a b  c\\n"}')
    peer.start("--model", str(tmp_path))
    assert peer.take(Ready).info.architecture == "fake"
    peer.send(Add(ask(stop=("c",))))
    assert said(peer.until(ends)) == "a b  "


def test_the_pulse_beats_while_idle_and_while_a_request_stalls(peer: Peer) -> None:
    peer.fake(stall_after=2)
    peer.send(Add(ask()))
    start = time.monotonic()
    beats = [peer.take(Beat) for _ in range(4)]
    assert time.monotonic() - start < 4
    assert (beats[-1].running, beats[-1].completion_tokens, beats[-1].prompt_tokens) == (1, 2, 4)
    peer.send(Cancel("a"))
    assert peer.until(ends)[-1] == Cancelled("a", Usage(4, 0, 2))


def test_a_fake_can_fail_alone_and_can_die(peer: Peer) -> None:
    peer.fake(fail_after=3, die_after=3)
    peer.send(Add(ask()))
    events = peer.until(ends)
    assert said(events) == "one two three"
    assert events[-1] == Failed("a", "generation_failed", Usage(4, 0, 3))
    peer.process.kill()
    assert peer.end()[0] == -signal.SIGKILL
    for by, code in (("kill", -signal.SIGKILL), ("exit", 1)):
        peer.fake(die_after=2, die_by=by)
        peer.send(Add(ask()))
        events = peer.until(lambda event: isinstance(event, Text) and "two" in event.text)
        assert events[0] == Stage("a", "decode", 4, 4)
        assert peer.end()[0] == code


def test_a_hung_fake_has_no_pulse_and_only_sigkill_ends_it(peer: Peer) -> None:
    peer.fake(hang_after=1)
    peer.send(Add(ask()))
    peer.until(lambda event: isinstance(event, Text))
    # A last beat may have left between the token and the step that hangs.
    time.sleep(0.3)
    while peer.socket.poll(0):
        peer.socket.recv()
    peer.process.send_signal(signal.SIGTERM)
    assert not peer.socket.poll(1200)
    assert peer.process.poll() is None
    peer.process.kill()
    assert peer.end()[0] == -signal.SIGKILL


def test_a_worker_without_a_model_does_without_mlx() -> None:
    light = "import mlx_panel.worker, mlx_panel.engine.blas, sys; sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", light]).returncode == 0


def test_sigterm_ends_an_idle_worker_at_once(peer: Peer) -> None:
    peer.fake()
    taken = []
    for _ in range(3):
        # Right after a beat: the next look at the clock is half a second away.
        peer.take(Beat)
        time.sleep(0.05)
        peer.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert peer.end() == (0, "")
        taken.append(time.monotonic() - started)
        peer.fake()
    assert min(taken) < 0.3


@pytest.mark.parametrize("spec", [{"load_seconds": 60}, {"hang_after": 1}])
def test_an_orphan_that_loads_or_hangs_is_ended(peer: Peer, spec: dict[str, int]) -> None:
    script = '"$@" & echo $! >&2; wait'
    peer.start("--fake", json.dumps(spec), before=("/bin/sh", "-c", script, "sh"))
    pid = int(peer.process.stderr.readline())
    if "hang_after" in spec:
        peer.send(Add(ask()))
        peer.until(lambda event: isinstance(event, Text))
    else:
        time.sleep(1)
    peer.process.kill()
    peer.process.wait()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and alive(pid):
        time.sleep(0.05)
    assert not alive(pid)
    assert "the server is gone; ending" in peer.process.stderr.read()


def test_a_parent_that_is_gone_already_is_noticed_at_the_start(peer: Peer) -> None:
    peer.start("--fake", json.dumps({"load_seconds": 60}), "--parent", "1")
    code, logged = peer.end()
    assert code == 4
    assert "the server is gone; ending" in logged


def test_the_watcher_ends_a_process_that_does_nothing_else() -> None:
    code = "import time; from mlx_panel.worker import watch_parent; watch_parent(1); time.sleep(60)"
    assert subprocess.run([sys.executable, "-c", code], timeout=20, stderr=subprocess.DEVNULL).returncode == 4


@pytest.mark.parametrize("spec", [{}, {"stall_after": 1}])
def test_an_orphan_ends_by_itself(peer: Peer, spec: dict[str, int]) -> None:
    # The parent is a shell that only waits; killing it says nothing to the worker.
    script = '"$@" & echo $! >&2; wait'
    peer.start("--fake", json.dumps(spec), before=("/bin/sh", "-c", script, "sh"))
    pid = peer.take(Ready).pid
    peer.send(Add(ask()))
    peer.take(Frame)
    peer.process.kill()
    peer.process.wait()
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline and alive(pid):
        time.sleep(0.05)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
