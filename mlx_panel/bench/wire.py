"""Between a benchmark and the process that makes its load: JSON lines, and the loop that answers them.

The load comes from a process of its own so that a progress bar, a dashboard or a notebook does not slow what is
measured, and so that an engine's memory is really gone afterwards. Keys come in over standard input, never on a
command line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import BinaryIO, Protocol

import msgspec

from .records import BenchmarkError, Run, Target, TargetInfo, Workload

Tell = Callable[[float, float, int], None]
"""Called with what is done, the total (both requests or seconds), and the tokens so far."""


class PastFile(msgspec.Struct, frozen=True):
    """The requests of a replay: a file with JSON lines of `inquiry.Past`, and the folder of each model's tokenizer, of those
    that are on this machine."""

    path: str
    tokenizers: dict[str, str] = {}


class Job(msgspec.Struct, frozen=True, tag=True):
    """The first line in: what is to be measured, and what it will be asked first. Each further line is a workload."""

    target: Target
    first: Workload
    key: str = ""
    past: PastFile | None = None


class Opened(msgspec.Struct, frozen=True, tag=True):
    info: TargetInfo


class Moved(msgspec.Struct, frozen=True, tag=True):
    done: float
    total: float
    tokens: int


class Measured(msgspec.Struct, frozen=True, tag=True):
    """`messages` are what a server said of failed requests; they are told and not stored."""

    run: Run
    messages: list[str] = []


class Broken(msgspec.Struct, frozen=True, tag=True):
    """It cannot be measured, for this reason."""

    reason: str


Answer = Opened | Moved | Measured | Broken
decode_answer = msgspec.json.Decoder(Answer).decode
encode = msgspec.json.Encoder().encode


class Side(Protocol):
    """What is measured, seen from the process that measures it. Both methods raise BenchmarkError."""

    def open(self) -> TargetInfo: ...
    def measure(self, workload: Workload, tell: Tell) -> Measured: ...
    def close(self) -> None: ...


def main(make: Callable[[Job], Side]) -> int:
    """Serve one parent until it closes standard input."""
    # Libraries may print; only answers go where the parent listens.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    lines = sys.stdin.buffer
    first = lines.readline()
    if not first:
        return 0  # the parent thought better of it
    try:
        side = make(msgspec.json.decode(first, type=Job))
    except BenchmarkError as error:
        _say(out, Broken(str(error)))
        return 1
    try:
        return _serve(side, lines, out)
    except BrokenPipeError:
        return 1  # the parent is gone
    finally:
        side.close()


def _serve(side: Side, lines: BinaryIO, out: BinaryIO) -> int:
    def tell(done: float, total: float, tokens: int) -> None:
        _say(out, Moved(done, total, tokens))

    try:
        _say(out, Opened(side.open()))
    except BenchmarkError as error:
        _say(out, Broken(str(error)))
        return 1
    for line in lines:
        try:
            _say(out, side.measure(msgspec.json.decode(line, type=Workload), tell))
        except BenchmarkError as error:
            _say(out, Broken(str(error)))
    return 0


def _say(out: BinaryIO, answer: Answer) -> None:
    out.write(encode(answer) + b"\n")
    out.flush()
