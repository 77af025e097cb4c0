"""The process around an engine: one model, one socket, one thread.

    python -m mlx_panel.worker --socket ipc:///… --model FOLDER --name ID
    python -m mlx_panel.worker --socket ipc:///… --warm

With `--warm` everything is imported first, and the model comes with a `Load`. Commands come in, reports go out (`messages.py`); a frame holds all events of one step. Exit codes: 0 stopped in
order, 1 a defect (logged by class and place), 3 the model could not be loaded, 4 the process that started it is gone.
SIGTERM stops it in order; SIGINT and SIGHUP are the server's business. One more thread, `watch_parent`, ends a worker
that cannot end itself; it touches nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from .engine import faults
from .engine.embed import recipe
from .engine.fake import FakeEngine, FakeSpec, is_fake
from .engine.protocol import AnyEngine
from .errors import Draining, GenerationFailed, MlxPanelError, WrongModelKind
from .messages import (
    Add,
    Cancel,
    Command,
    EmbedRequest,
    Event,
    Failed,
    Forget,
    Frame,
    Load,
    LoadFailed,
    Loading,
    Ready,
    Report,
    Stop,
    Tune,
    Warm,
    decode_command,
    encode,
)
from .site import site
from .tuning import EngineOptions

log = logging.getLogger("mlx_panel.worker")

BEAT_SECONDS, TELL_SECONDS = 0.5, 0.1
Progress = Callable[[str, int, int], None]
LINGER_MS = 1000
# A worker whose loop still turns gets so long to end in order before the watcher ends it.
WATCH_SECONDS, GRACE_SECONDS = 1.0, 2.0
REASON_LENGTH = 200
STOPPED, DEFECT, LOAD_FAILED, ORPHANED = 0, 1, 3, 4
GONE = "the server is gone; ending"


class Worker:
    """Moves commands into an engine and its events out, until it is told to stop or its parent is gone."""

    def __init__(self, engine: AnyEngine, socket: zmq.Socket, parent: int):
        self.engine = engine
        self.parent = parent
        self.draining = False
        self.stopped = False
        self._socket = socket
        self._failed: list[Event] = []
        self._next_beat = 0.0
        self._bell, self._rope = os.pipe()
        self._poller = zmq.Poller()
        self._poller.register(socket, zmq.POLLIN)
        self._poller.register(self._bell, zmq.POLLIN)

    def __repr__(self) -> str:
        return f"<Worker {self.engine!r} draining={self.draining} stopped={self.stopped}>"

    def run(self) -> int:
        """The loop. Returns the exit code."""
        while not self.stopped:
            if os.getppid() != self.parent:
                log.warning(GONE)
                return ORPHANED
            self._beat()
            self._wait()
            self._take_commands()
            self._step()
            if self.draining and not self.engine.busy:
                break
        self._cancel_all()
        return STOPPED

    def stop(self, *_: object) -> None:
        """Stop before the next step; also the handler of SIGTERM."""
        if not self.stopped:
            self.stopped = True
            # Ends the wait for commands, which a signal alone does not.
            os.write(self._rope, b".")

    def send(self, report: Report) -> None:
        """Never blocks. What a vanished server does not take is lost with it."""
        with contextlib.suppress(zmq.Again):
            self._socket.send(encode(report), zmq.NOBLOCK)

    def _beat(self) -> None:
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + BEAT_SECONDS
            self.send(self.engine.beat())

    def _wait(self) -> None:
        if not self.engine.busy:
            self._poller.poll(max(1, int(1000 * (self._next_beat - time.monotonic()))))

    def _take_commands(self) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                self._obey(self._socket.recv(zmq.NOBLOCK))

    def _obey(self, frame: bytes) -> None:
        try:
            command: Command = decode_command(frame)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("a command was not understood: %s", type(error).__name__)
            return
        if isinstance(command, Add):
            self._add(command)
        elif isinstance(command, Cancel):
            self.engine.cancel(command.id)
        elif isinstance(command, Tune):
            self.engine.tune(command.options)
            self._next_beat = 0.0  # what came of it is told at once
        elif isinstance(command, Forget):
            self.engine.forget()
            self._next_beat = 0.0
        elif isinstance(command, Stop):
            self.draining, self.stopped = True, self.stopped or not command.drain

    def _add(self, command: Add) -> None:
        request = command.request
        try:
            if self.draining:
                raise Draining
            if isinstance(request, EmbedRequest) is not (self.engine.info.kind == "embedding"):
                raise WrongModelKind(field="model")
            self.engine.add(request, command.origin)
        except MlxPanelError as error:
            numbers = {name: int(number) for name, number in error.numbers.items()}
            self._failed.append(Failed(request.id, error.code, numbers=numbers, field=error.field or ""))
        except Exception as error:
            log.error("a request could not be taken: %s", site(error))
            self._failed.append(Failed(request.id, GenerationFailed.code))

    def _step(self) -> None:
        failed, self._failed = self._failed, []
        events = failed + (self._events() if self.engine.busy and not self.stopped else [])
        if events:
            self.send(Frame(events))

    def _events(self) -> list[Event]:
        """What comes of a step: where the time of those that end went is told first."""
        events = self.engine.step()
        return [*self.engine.traces(), *events]

    def _cancel_all(self) -> None:
        for id in self.engine.ids:
            self.engine.cancel(id)
        events = self._events()
        if events:
            self.send(Frame(events))


def load(
    path: str, fake: str, options: EngineOptions, name: str = "", progress: Progress = lambda *_: None
) -> AnyEngine:
    """The engine for a folder, of the kind that its files and its name say; or for the JSON text of a `FakeSpec`."""
    if fake:
        return FakeEngine(msgspec.json.decode(fake, type=FakeSpec), options=options)
    if is_fake(path):
        return FakeEngine.load(path, options=options, progress=progress)
    # mlx is only imported by a process that needs it, after the BLAS it is to use; each engine by those it serves.
    folder = Path(path)
    if recipe.kind_of(folder, recipe.read_json(folder / "config.json"), name or folder.name) == "embedding":
        from .engine.embed.engine import EmbedEngine

        return EmbedEngine.load(path, options=options, progress=progress)
    from .engine.engine import Engine

    return Engine.load(path, options=options, progress=progress)


class Telling:
    """Tells the server how far a load is, not more often than it can be looked at."""

    def __init__(self, socket: zmq.Socket):
        self._socket = socket
        self._last: Loading | None = None
        self._next = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        told = Loading(stage, done, total)
        other = self._last is None or self._last.stage != stage
        if other or done == total or time.monotonic() >= self._next:
            self._last, self._next = told, time.monotonic() + TELL_SECONDS
            self._socket.send(encode(told), zmq.NOBLOCK)


def ready(engine: AnyEngine, load_seconds: float) -> Ready:
    """What a worker says first."""
    return Ready(
        pid=os.getpid(),
        info=engine.info,
        memory=engine.memory(),
        device=engine.device,
        blas=engine.blas,
        load_seconds=load_seconds,
        versions=engine.versions,
    )


def reason(error: Exception, folder: str) -> str:
    """One short line about why a folder could not be loaded, without its place: `FileNotFoundError: config.json`."""
    if isinstance(error, MlxPanelError):
        line = _unplaced(str(error), folder)
    elif isinstance(error, OSError) and error.filename:
        line = f"{type(error).__name__}: {os.path.basename(os.fsdecode(error.filename))}"
    else:
        line = f"{type(error).__name__}: {_unplaced(str(error), folder)}"
    line = " ".join(line.split()).rstrip(".: ")
    return line if len(line) <= REASON_LENGTH else f"{line[: REASON_LENGTH - 1]}…"


# Web addresses stay; a path ends at a space unless it is quoted.
_PATHS = re.compile(
    r"""https?://\S+ | (?<=')(?:~|\.\.?)?/[^'\n]*(?=') | (?<=")(?:~|\.\.?)?/[^"\n]*(?=")
      | (?<![\w./~-])(?:~|\.\.?)?/[^\s'"`,;:()\[\]]+""",
    re.VERBOSE,
)


def _unplaced(words: str, folder: str) -> str:
    """Words with every path cut to its last part."""
    absolute = {os.path.abspath(folder), os.path.realpath(folder)} if folder else set()
    # Those that are known may have spaces in them.
    known = {folder, *absolute, *map(os.path.dirname, absolute), os.path.expanduser("~")} - {"/", ""}
    for place in sorted(known, key=len, reverse=True):
        spelling = rf"(?<![\w.-]){re.escape(place)}"
        words = re.sub(rf"{spelling}(?=/)", "", words)
        words = re.sub(rf"{spelling}(?![\w-]|\.\w)", os.path.basename(place), words)
    return _PATHS.sub(lambda found: _last_part(found[0]), words)


def _last_part(path: str) -> str:
    return path if path.startswith("http") else os.path.basename(path.rstrip("/"))


def warm(socket: zmq.Socket, parent: int) -> Load | None:
    """Import what a model may need, and wait for one; None when there will be none."""
    from .engine.warm import memory

    socket.send(encode(Warm(os.getpid(), memory())))
    while os.getppid() == parent:
        if socket.poll(int(1000 * WATCH_SECONDS)):
            command: Command = decode_command(socket.recv())
            return command if isinstance(command, Load) else None
    return None


def run(options: argparse.Namespace, socket: zmq.Socket) -> int:
    """Load, serve, free. Returns the exit code."""
    if options.warm:
        wanted = warm(socket, options.parent)
        if wanted is None:
            return STOPPED
        options.model, options.name, options.options = wanted.path, wanted.name, wanted.options
    _title(options.name)
    started = time.monotonic()
    try:
        tell = Telling(socket)
        engine = faults.wrap(
            load(options.model, options.fake, options.options, options.name, tell), options.name
        )
    except Exception as error:
        # No request was here yet: the words are about the folder alone.
        words = " ".join(str(error).split())
        log.error("the model could not be loaded: %s, in %s: %s", site(error), options.model, words)
        socket.send(encode(LoadFailed(reason(error, options.model))), zmq.NOBLOCK)
        return LOAD_FAILED
    worker = Worker(engine, socket, options.parent)
    # Only now: while it loads, SIGTERM ends the process at once, as nothing is lost.
    signal.signal(signal.SIGTERM, worker.stop)
    try:
        worker.send(ready(engine, time.monotonic() - started))
        return worker.run()
    except Exception as error:
        # Without the traceback: its last line may quote a prompt.
        log.critical("the worker failed: %s", site(error))
        return DEFECT
    finally:
        engine.close(last=True)


def watch_parent(parent: int) -> None:
    """From a thread of its own, end this process when `parent` is not its parent any more, whatever else it does.

    Loading and a hung step never reach the loop's own look. To look, the thread needs Python's lock: a call into C
    that keeps the lock is not ended before it returns.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        time.sleep(GRACE_SECONDS)
        log.warning(GONE)
        os._exit(ORPHANED)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("mlx_panel.worker", description="Serve one model over a ZeroMQ socket.")
    parser.add_argument("--socket", required=True, help="address of the server's PAIR socket")
    parser.add_argument("--model", default="", help="the model's folder")
    parser.add_argument("--name", default="", help="the model's name, for the process list")
    parser.add_argument("--warm", action="store_true", help="import everything, then wait for a model")
    parser.add_argument(
        "--options", type=_options, default=EngineOptions(), help="JSON of the engine's options"
    )
    parser.add_argument(
        "--parent", type=int, default=os.getppid(), help="end when this is no longer the parent"
    )
    parser.add_argument(
        "--fake", default="", help="JSON of a model that never existed, to try clients and failures"
    )
    return parser.parse_args(arguments)


def _options(text: str) -> EngineOptions:
    return msgspec.json.decode(text, type=EngineOptions)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Models are on this machine: the tokenizer's library must not ask the hub about them.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s[%(process)d] %(message)s"
    )
    if os.getppid() != options.parent:
        log.warning(GONE)
        return ORPHANED
    watch_parent(options.parent)
    context = zmq.Context()
    try:
        return run(options, _connect(context, options.socket))
    finally:
        context.destroy(linger=LINGER_MS)


def _connect(context: zmq.Context, address: str) -> zmq.Socket:
    socket: zmq.Socket = context.socket(zmq.PAIR)
    options: dict[int, int] = {zmq.SNDHWM: 0, zmq.RCVHWM: 0, zmq.LINGER: LINGER_MS}
    set_option: Callable[[int, int], None] = socket.setsockopt
    for option, value in options.items():
        set_option(option, value)
    socket.connect(address)
    return socket


def _title(name: str) -> None:
    """A name in `ps` and `top`, where the system lets a process write its own."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
        comm.write(f"mlx:{name.rsplit('/', 1)[-1]}"[:15])


if __name__ == "__main__":
    sys.exit(main())
