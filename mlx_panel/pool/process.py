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
from typing import Any

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
    Load,
    LoadFailed,
    Loading,
    LocalModel,
    Memory,
    Origin,
    Ready,
    Stop,
    Tune,
    Warm,
    decode_report,
    encode,
)
from ..tuning import EngineOptions
from .events import ended
from .line import Line
from .look import Seen
from .stream import Stream, Streams
from .tail import Tail

log = logging.getLogger(__name__)
NOWHERE = Origin()
NOBODY = LocalModel("", "", "", "", 0, 0, 0)  # the model of a process that waits for one
REAP_SECONDS = 0.05
KILL_SECONDS = 3.0


class WorkerOptions(msgspec.Struct, frozen=True):
    """What a worker is started with; durations are seconds."""

    logs: Path
    run: Path
    engine: EngineOptions = EngineOptions()
    load_timeout: float = 600
    silence: float = 120
    watchdog: float = 300
    stop_timeout: float = 5


class Worker:
    """A process that runs one model, or waits for one. `on_exit(worker)` is called once when the process is gone, however
    it went; `on_news(worker)` when a load has come further or a pulse was heard."""

    def __init__(
        self,
        options: WorkerOptions,
        on_exit: Callable[[Worker], None],
        on_news: Callable[[Worker], None],
        model: LocalModel = NOBODY,
    ):
        self.model = model
        self.options = options
        self.wanted = options.engine
        self.on_exit, self.on_news = on_exit, on_news
        self.ready: Ready | None = None
        self.warm: Warm | None = None
        self.loading = Loading("starting")
        self.beat = Beat()
        self.heard = self.started = self.advanced = time.monotonic()
        self.stopping = False
        self.exited = asyncio.Event()
        self.reason = self.cause = ""  # why it ended, in words, and in one for the audit log
        self.crashed = False  # whether it ended without a word about why
        self._streams = Streams()
        self._first: asyncio.Future[Ready | None] = asyncio.get_running_loop().create_future()
        self._warmed: asyncio.Future[Warm | None] = asyncio.get_running_loop().create_future()
        self._tail = Tail(options.logs / "worker.log")
        self.log: tuple[str, ...] = ()
        self.seen: Seen | None = None  # at the last look from outside
        self._tasks: list[asyncio.Task[None]] = []
        self._doomed = False
        self._bound = False
        self._beginning: asyncio.Task[None] | None = None
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
    def gone(self) -> bool:
        """Whether the process has ended, also where nobody has noticed yet."""
        return self.exited.is_set() or self._process is None or self._process.poll() is not None

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
        await self._begin()
        return await self._loaded()

    async def hatch(self) -> Warm:
        """Start the process without a model and wait until everything is imported. Raises ModelLoadFailed."""
        await self._begin()
        await self._wait(self._warmed)
        assert self.warm is not None
        return self.warm

    async def adopt(
        self,
        model: LocalModel,
        options: WorkerOptions,
        on_exit: Callable[[Worker], None],
        on_news: Callable[[Worker], None],
    ) -> Ready:
        """Give a process that waits its model. Raises like `start`."""
        self.model, self.options, self.on_exit, self.on_news = model, options, on_exit, on_news
        self.wanted = options.engine
        self.started = self.heard = self.advanced = time.monotonic()
        await asyncio.to_thread(self._tail.mark)
        self.send(Load(model.path, model.id, options.engine))
        return await self._loaded()

    async def _begin(self) -> None:
        """Start the process. Who is cancelled meanwhile leaves one that is watched, and that `stop` waits for."""
        self._beginning = asyncio.create_task(self._born())
        await asyncio.shield(self._beginning)

    async def _born(self) -> None:
        await asyncio.to_thread(_make, self.options.run, self.options.logs)
        self._path = self.options.run / uuid.uuid4().hex[:12]
        self._line = Line(f"ipc://{self._path}", self._take)
        self._bound = True
        try:
            self._process = await asyncio.to_thread(self._spawn)
        except OSError:
            self._line.close()
            raise
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._reap())]

    async def _loaded(self) -> Ready:
        self.ready = await self._wait(self._first)
        assert self.ready is not None
        return self.ready

    async def _wait(self, future: asyncio.Future[Any]) -> Any:
        """What a start is waiting for, within `load_timeout`."""
        found = None
        try:
            async with asyncio.timeout(self.options.load_timeout):
                found = await asyncio.shield(future)
        except TimeoutError:
            self.reason, self.cause = (
                f"loading took longer than {self.options.load_timeout:g} s",
                "load_timeout",
            )
        if found is None:
            await self.kill()
            raise ModelLoadFailed(f"The model {self.model.id!r} could not be loaded: {self.reason}.")
        return found

    def _spawn(self) -> subprocess.Popen[bytes]:
        options: dict[str, Any] = {"socket": f"ipc://{self._path}", "parent": os.getpid()}
        if self.model is not NOBODY:
            options |= {
                "model": self.model.path, "name": self.model.id,
                "options": msgspec.json.encode(self.options.engine).decode(),
            }  # fmt: skip
        # One word each: a model's name may begin with a dash.
        command = [
            sys.executable,
            "-m",
            "mlx_panel.worker",
            *(f"--{name}={value}" for name, value in options.items()),
            *(["--warm"] if self.model is NOBODY else []),
        ]
        self._tail.mark()
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

    def _note(self, report: Warm | Loading | Ready | LoadFailed | Beat) -> None:
        if isinstance(report, Beat):
            self._pulse(report)
        elif isinstance(report, Loading):
            self.loading = report
        elif isinstance(report, LoadFailed):
            self.reason = report.reason
        elif isinstance(report, Warm):
            self.warm = report
            _settle(self._warmed, report)
        else:
            _settle(self._first, report)
        self.on_news(self)

    def _pulse(self, beat: Beat) -> None:
        before, self.beat = self.beat, beat
        working = beat.running or beat.queued
        moved = (beat.prompt_tokens, beat.completion_tokens) != (
            before.prompt_tokens,
            before.completion_tokens,
        )
        if moved or not working:
            self.advanced = time.monotonic()

    async def _watch(self) -> None:
        """End a worker that says nothing any more, or that says it is alive and gets nowhere: a hung kernel looks alive
        to everything else."""
        while True:
            limits = [one for one in (self.options.silence, self.options.watchdog) if one]
            await asyncio.sleep(min(1.0, *(one / 4 for one in limits)))
            if reason := self._stuck():
                self.reason, self.cause = reason, "stuck"
                log.error("worker of %s: %s; ending it", self.model.id, self.reason)
                self._doomed = True
                self._streams.fail(WorkerDied.code)
                await self.kill()
                return

    def _stuck(self) -> str:
        """Why the process should be ended; empty when it should not."""
        now, silence, watchdog = time.monotonic(), self.options.silence, self.options.watchdog
        if self.ready and now - self.heard > silence:
            return f"it was silent for {silence:g} s"
        if self.ready and watchdog and now - self.advanced > watchdog:
            return f"it had requests and made no progress for {watchdog:g} s"
        return ""

    def watched(self, *, silence: float, watchdog: float) -> None:
        """Other limits for `_watch`, from now on."""
        self.options = msgspec.structs.replace(self.options, silence=silence, watchdog=watchdog)

    @property
    def memory(self) -> Memory:
        """What the process said last of its memory."""
        if self.beat.memory.process or self.ready is None:
            return self.beat.memory if self.warm is None or self.beat.memory.process else self.warm.memory
        return self.ready.memory

    async def _reap(self) -> None:
        assert self._process is not None
        while (code := self._process.poll()) is None:
            await asyncio.sleep(REAP_SECONDS)
        while self._line.look():
            pass  # its last words
        if not self.reason and not self.stopping:
            self.crashed, how = True, ended(code)
            self.reason, self.cause = f"its process ended with {how}", how.lower().replace(" ", "_")
        if not self.stopping:
            self.log = await asyncio.to_thread(self._tail.lines, self.pid)
        self.exited.set()
        self._streams.fail(WorkerDied.code)
        _settle(self._first, None)
        _settle(self._warmed, None)
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
        if self._beginning is not None:
            await asyncio.wait((self._beginning,))
        if self.exited.is_set() or self._process is None:
            return
        if drain and len(self._streams):
            await self._leave(Stop(drain=True), timeout)
        if self.ready is not None or self.warm is not None:
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

    def submit(self, *requests: GenerateRequest | EmbedRequest, origin: Origin = NOWHERE) -> Stream:
        """Hand requests that came from there to the worker; the events of all arrive in one stream. Raises WorkerDied."""
        if not self.alive:
            raise WorkerDied
        stream = self._streams.open(*(request.id for request in requests))
        for request in requests:
            self.send(Add(request, origin))
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


def _make(run: Path, logs: Path) -> None:
    """Make the folders again where somebody has cleared them away. Raises OSError where that of sockets is another's."""
    for folder in (run, logs):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    run.chmod(0o700)


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)
