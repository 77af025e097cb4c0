"""Faults on demand, to see what becomes of those who depend on a worker. Nothing happens unless somebody asks for it.

The environment variable `MLX_SERVER_FAULTS` holds JSON: for the name of a model what goes wrong with it, for instance

    MLX_SERVER_FAULTS='{"tiny": {"do": "abort", "after_tokens": 20}}'
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec

from ..errors import ModelLoadFailed
from ..messages import Beat, Cancelled, Event, Memory, Origin, Reasoning, Text, ToolCall, Trace
from ..tuning import EngineOptions
from .protocol import AnyEngine
from .timeline import NOWHERE

VARIABLE = "MLX_SERVER_FAULTS"
# Memory is taken in so many steps; a stalled engine looks for commands so often, seconds.
STEPS, TICK = 16, 0.01


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes wrong, and when.

    - `do`: "exit" ends the process with code 1; "abort" by SIGABRT, as an uncatchable Metal error does; "stall" makes
      no progress for `seconds` (0: ever), while commands are obeyed and the pulse beats; "hang" does nothing at all any
      more, for `seconds` (0: until SIGKILL); "allocate" takes `bytes` of memory and keeps them; "fail_load" fails the
      load.
    - `after_tokens`: once so many tokens were told, of all requests together; `after_steps`: at that step of the engine;
      neither: at its first step. `at` "load": instead of being ready.
    - `once`: a file. The fault happens only while it is not there, and makes it: so only in the first process.
    """

    do: Literal["exit", "abort", "stall", "hang", "allocate", "fail_load"]
    after_tokens: int | None = None
    after_steps: int | None = None
    at: Literal["", "load"] = ""
    bytes: int = 0
    seconds: float = 0.0
    once: str = ""


def wrap(engine: AnyEngine, name: str, environment: Mapping[str, str] = os.environ) -> AnyEngine:
    """The engine, with what `MLX_SERVER_FAULTS` says of its model; itself where that says nothing.

    Raises ModelLoadFailed for a variable that cannot be read, and where loading is to fail.
    """
    text = environment.get(VARIABLE, "")
    if not text:
        return engine
    try:
        specs = msgspec.json.decode(text, type=dict[str, Faults])
    except msgspec.DecodeError as error:
        raise ModelLoadFailed(f"{VARIABLE} cannot be read: {error}") from None
    spec = specs.get(name)
    return engine if spec is None else Faulty(engine, spec)


class Faulty:
    """An engine that fails once as `spec` says, and is otherwise the one it holds."""

    def __init__(self, engine: AnyEngine, spec: Faults):
        self.engine, self.spec = engine, spec
        self.info, self.blas, self.device, self.versions = (
            engine.info, engine.blas, engine.device, engine.versions,
        )  # fmt: skip
        self.steps = self.tokens = 0
        self._done = False
        self._until = 0.0
        self._kept: list[bytearray] = []
        self._dropped: list[str] = []  # while it stalled, and not told yet
        self._told: set[str] = set()
        if spec.do == "fail_load" or spec.at == "load":
            self._fail()
            while self._stalls:
                time.sleep(TICK)

    def __repr__(self) -> str:
        return f"<Faulty {self.spec.do} {'done' if self._done else 'to come'}, {self.engine!r}>"

    # --- what goes wrong -------------------------------------------------------------------------------------

    def step(self) -> list[Event]:
        self.steps += 1
        if self._due:
            self._fail()
        if self._stalls:
            time.sleep(TICK)
            return self._let_go()
        events = [event for event in self.engine.step() if not self._known(event)]
        self.tokens += sum(event.tokens for event in events if isinstance(event, Text | Reasoning | ToolCall))
        return events

    def _let_go(self) -> list[Event]:
        """Who gives up on a stalled engine hears so; what the engine itself says of it later is dropped."""
        told, self._dropped = self._dropped, []
        self._told.update(told)
        return [Cancelled(id) for id in told]

    def _known(self, event: Event) -> bool:
        known = isinstance(event, Cancelled) and event.id in self._told
        self._told.discard(event.id)
        return known

    @property
    def _due(self) -> bool:
        spec = self.spec
        if self._done:
            return False
        if spec.after_tokens is not None:
            return self.tokens >= spec.after_tokens
        return self.steps >= (spec.after_steps or 1)

    @property
    def _stalls(self) -> bool:
        return time.monotonic() < self._until

    def _fail(self) -> None:
        self._done = True
        if self.spec.once and not _first(Path(self.spec.once)):
            return
        spec = self.spec
        seconds = spec.seconds or float("inf")
        if spec.do == "fail_load":
            raise ModelLoadFailed("it was asked to fail")
        if spec.do in ("exit", "abort"):
            _die(spec.do)
        if spec.do == "hang":
            _hang(seconds)
        if spec.do == "stall":
            self._until = time.monotonic() + seconds
        if spec.do == "allocate":
            self._allocate()

    def _allocate(self) -> None:
        """Take memory and touch it, or it would be promised only."""
        step = max(1, self.spec.bytes // STEPS)
        left = self.spec.bytes
        while left > 0:
            block = bytearray(min(step, left))
            block[:] = b"\1" * len(block)
            self._kept.append(block)
            left -= len(block)

    # --- the engine it holds ---------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return self.engine.busy

    @property
    def ids(self) -> tuple[str, ...]:
        return self.engine.ids

    def add(self, request: Any, origin: Origin = NOWHERE) -> None:
        self.engine.add(request, origin)

    def traces(self) -> list[Trace]:
        return [] if self._stalls else self.engine.traces()

    def cancel(self, id: str) -> bool:
        there = self.engine.cancel(id)
        if there and self._stalls:
            self._dropped.append(id)
        return there

    def tune(self, options: EngineOptions) -> None:
        self.engine.tune(options)

    def forget(self) -> None:
        self.engine.forget()

    def generate(self, request: Any) -> Iterator[Event]:
        self.add(request)
        while self.busy:
            yield from self.step()

    def memory(self) -> Memory:
        return self.engine.memory()

    def beat(self) -> Beat:
        return self.engine.beat()

    def close(self, *, last: bool = False) -> None:
        self.engine.close(last=last)


def _first(mark: Path) -> bool:
    """Whether nobody made this file before."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _die(by: str) -> NoReturn:
    # What was said so far leaves the process first: sending happens in a thread of ZeroMQ's.
    time.sleep(0.05)
    sys.stderr.flush()
    if by == "abort":
        os.kill(os.getpid(), signal.SIGABRT)
    os._exit(1)


def _hang(seconds: float) -> None:
    """Hold this thread; a signal's handler runs, and nothing that it wants happens."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(3600.0, end - time.monotonic()))
