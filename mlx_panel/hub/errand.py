"""A job in a process of its own: `python -m mlx_panel.hub.errand_process` with an order, heard line by line, ended at will."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Literal

import msgspec

from ..errors import ImportRefused, ModelLoadFailed, Unavailable
from ..library import ConvertOrder, ImportOrder

GRACE_SECONDS = 3.0
LINE = 1 << 16


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is to do: make the folder `draft` of the model folder `source`, as `convert` says, or in it a
    model of the GGUF file that `gguf` names."""

    draft: str
    source: str = ""
    convert: ConvertOrder | None = None
    gguf: ImportOrder | None = None


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """What it says, a line of JSON each: how far a step is, and at last what came of it."""

    kind: Literal["step", "done", "refused"]
    step: str = ""
    done: int = 0
    total: int = 0
    text: str = ""


Heard = Callable[[Word], None]


async def run(errand: Errand, heard: Heard) -> None:
    """Have it done; `heard` gets its words on this loop. Cancelling ends the process before this returns.

    Raises ImportRefused or ModelLoadFailed with what the process says of the files, and Unavailable where it died.
    """
    process = await _started(errand)
    loop = asyncio.get_running_loop()
    reading = asyncio.ensure_future(asyncio.to_thread(_read, process, lambda word: _hand(loop, heard, word)))
    try:
        last = await asyncio.shield(reading)
    except asyncio.CancelledError:
        await _end(process, reading)
        raise
    code = await asyncio.to_thread(process.wait)
    if last is not None and last.kind == "done":
        return
    if last is not None:
        raise (
            ImportRefused(last.text)
            if errand.gguf is not None
            else ModelLoadFailed(f"mlx-lm could not do it: {last.text}")
        )
    raise Unavailable(
        f"The process that did this ended ({_cause(code)}); its model may be too large for this machine."
    )


async def _started(errand: Errand) -> subprocess.Popen[bytes]:
    """The process. One that comes after this was cancelled is ended at once: nobody else knows of it."""
    starting = asyncio.ensure_future(asyncio.to_thread(_start, errand))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await asyncio.wait((starting,))
        if starting.exception() is None:
            await asyncio.to_thread(_kill, starting.result())
        raise


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _start(errand: Errand) -> subprocess.Popen[bytes]:
    """A session of its own: Ctrl-C reaches the server alone, which then ends it."""
    command = [
        sys.executable,
        "-m",
        "mlx_panel.hub.errand_process",
        str(os.getpid()),
        msgspec.json.encode(errand).decode(),
    ]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _read(process: subprocess.Popen[bytes], say: Heard) -> Word | None:
    """Its words, each handed on; the last one, if it came to that."""
    last = None
    assert process.stdout is not None
    with process.stdout as lines:
        while line := lines.readline(LINE):
            with contextlib.suppress(msgspec.MsgspecError):
                word = msgspec.json.decode(line, type=Word)
                if word.kind != "step":
                    last = word
                else:
                    say(word)
    return last


def _hand(loop: asyncio.AbstractEventLoop, heard: Heard, word: Word) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(heard, word)


async def _end(process: subprocess.Popen[bytes], reading: asyncio.Future[Word | None]) -> None:
    """SIGTERM, a wait, and only then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)
        done, _ = await asyncio.wait((reading,), timeout=GRACE_SECONDS)
        if done:
            break
    await asyncio.to_thread(process.wait)


def _cause(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
