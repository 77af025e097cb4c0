"""One worker process as the server sees it: started, listened to, spoken to, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..engine_settings import waiting
from ..errors import ModelLoadFailed, WorkerDied
from ..messages import (
    Add,
    Beat,
    Cancel,
    Command,
    EmbedRequest,
    Event,
    Frame,
    GenerateRequest,
    LoadFailed,
    LocalModel,
    Ready,
    Stop,
    Tune,
    decode_report,
    encode,
)
from ..tuning import EngineOptions
from .line import Line
from .stream import Stream, Streams

log = logging.getLogger(__name__)
REAP_SECONDS = 0.05
KILL_SECONDS = 3.0


class WorkerOptions(msgspec.Struct, frozen=True):
    """What a worker is started with; durations are seconds."""

    logs: Path
    run: Path
    engine: EngineOptions = EngineOptions()
    load_timeout: float = 600
    silence: float = 120
    stop_timeout: float = 5


class Worker:
    """A process running one model. `on_exit(worker)` is called once when the process is gone, however it went."""

    def __init__(self, model: LocalModel, options: WorkerOptions, on_exit: Callable[[Worker], None]):
        self.model = model
        self.options = options
        self.wanted = options.engine
        self.on_exit = on_exit
        self.ready: Ready | None = None
        self.beat = Beat()
        self.heard = self.started = time.monotonic()
        self.stopping = False
        self.exited = asyncio.Event()
        self.reason = ""
        self._streams = Streams()
        self._first = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._doomed = False
        self._bound = False
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        state = (
            "exited"
            if self.exited.is_set()
            else "stopping"
            if self.stopping
            else "ready"
            if self.ready
            else "loading"
        )
        return f"<Worker {self.model.id} pid {self.pid} {state}, {len(self._streams)} streams>"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        return self.ready is not None and not (self.stopping or self._doomed or self.exited.is_set())

    @property
    def reachable(self) -> bool:
        """Whether a command will find its process: it runs, or is being started."""
        return self._bound and not self.exited.is_set()

    @property
    def pending(self) -> tuple[str, ...]:
        """The settings that were changed since the model was loaded and wait for its next load."""
        return waiting(self.options.engine, self.wanted)

    # --- life ------------------------------------------------------------------------------------------------

    async def start(self) -> Ready:
        """Start the process and wait until its model is loaded.

        Raises ModelLoadFailed with a one-line reason; the process is gone by then.
        """
        self._path = self.options.run / uuid.uuid4().hex[:12]
        self._line = Line(f"ipc://{self._path}", self._take)
        self._bound = True
        self._process = await asyncio.to_thread(self._spawn)
        self._tasks = [
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._reap()),
        ]
        try:
            async with asyncio.timeout(self.options.load_timeout):
                self.ready = await self._first
        except TimeoutError:
            self.reason = f"loading took longer than {self.options.load_timeout:g} s"
        if self.ready is None:
            await self.kill()
            raise ModelLoadFailed(f"The model {self.model.id!r} could not be loaded: {self.reason}.")
        return self.ready

    def _spawn(self) -> subprocess.Popen[bytes]:
        options = {
            "socket": f"ipc://{self._path}", "model": self.model.path, "name": self.model.id, "parent": os.getpid(),
            "options": msgspec.json.encode(self.options.engine).decode(),
        }  # fmt: skip
        # One word each: a model's name may begin with a dash.
        command = [
            sys.executable,
            "-m",
            "mlx_panel.worker",
            *(f"--{name}={value}" for name, value in options.items()),
        ]
        output = os.open(self.options.logs / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            # A session of its own: Ctrl-C and a closing terminal reach the server alone, which then stops its workers.
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        finally:
            os.close(output)

    def _take(self, frames: list[bytes]) -> None:
        """All frames that wait, as one: a loop that lagged writes to each stream once."""
        self.heard = time.monotonic()
        events: list[Event] = []
        for frame in frames:
            report = decode_report(frame)
            if isinstance(report, Frame):
                events += report.events
            else:
                self._note(report)
        self._streams.deliver(events)

    def _note(self, report: Ready | LoadFailed | Beat) -> None:
        if isinstance(report, Beat):
            self.beat = report
        elif isinstance(report, LoadFailed):
            self.reason = report.reason
        elif not self._first.done():
            self._first.set_result(report)

    async def _watch(self) -> None:
        """End a worker that says nothing any more: a hung kernel looks alive to everything else."""
        while True:
            await asyncio.sleep(min(1.0, self.options.silence / 4))
            if self.ready and time.monotonic() - self.heard > self.options.silence:
                self.reason = f"it was silent for {self.options.silence:g} s"
                log.error("worker of %s: %s; ending it", self.model.id, self.reason)
                self._doomed = True
                self._streams.fail(WorkerDied.code)
                await self.kill()
                return

    async def _reap(self) -> None:
        assert self._process is not None
        while (code := self._process.poll()) is None:
            await asyncio.sleep(REAP_SECONDS)
        while self._line.look():
            pass  # its last words
        if not self.reason and not self.stopping:
            self.reason = f"its process ended with {_cause(code)}"
        self.exited.set()
        self._streams.fail(WorkerDied.code)
        if not self._first.done():
            self._first.set_result(None)
        self.on_exit(self)
        await self._close()

    async def _close(self) -> None:
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._line.close()
        await asyncio.to_thread(self._path.unlink, missing_ok=True)

    async def stop(self, *, drain: bool = False, timeout: float | None = None) -> None:
        """End the process in order; with `drain` its requests finish first, for at most `timeout` seconds."""
        self.stopping = True
        if self.exited.is_set() or self._process is None:
            return
        if drain and len(self._streams):
            await self._leave(Stop(drain=True), timeout)
        if self.ready is not None:
            await self._leave(Stop(), self.options.stop_timeout)
        await self.kill()

    async def _leave(self, command: Stop, timeout: float | None) -> None:
        self.send(command)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.exited.wait(), timeout)

    async def kill(self) -> None:
        """SIGTERM, a wait, and only then SIGKILL: a hard end can leave wired memory behind on macOS."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.exited.wait(), min(self.options.stop_timeout, KILL_SECONDS))
        self.signal(signal.SIGKILL)
        await self.exited.wait()

    def signal(self, number: int) -> None:
        if self._process is not None and not self.exited.is_set():
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    # --- requests --------------------------------------------------------------------------------------------

    def submit(self, *requests: GenerateRequest | EmbedRequest) -> Stream:
        """Hand requests to the worker; the events of all arrive in one stream. Raises WorkerDied."""
        if not self.alive:
            raise WorkerDied
        stream = self._streams.open(*(request.id for request in requests))
        for request in requests:
            self.send(Add(request))
        return stream

    def cancel(self, id: str) -> None:
        """End a request before the worker's next step; harmless when it has ended already."""
        if self._streams.close(id):
            self.send(Cancel(id))

    def tune(self, engine: EngineOptions) -> None:
        """New options for the engine. What waits for the next load does so; the rest holds from the next step on."""
        if engine != self.wanted:
            self.wanted = engine
            self.send(Tune(engine))

    def send(self, command: Command) -> None:
        if not self.exited.is_set():
            self._line.send(encode(command))


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"signal {signal.Signals(-code).name}"
