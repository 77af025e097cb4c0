"""A load process from its parent's side: start it, hand it workloads, end it. Nothing here blocks the loop."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from typing import IO

from .records import BenchmarkError, Target, TargetInfo, Workload
from .wire import Answer, Broken, Job, Measured, Moved, Opened, PastFile, decode_answer, encode

LONGEST_LINE = 1 << 30
END_SECONDS = 10.0
LAST_WORDS = 2000


@contextlib.asynccontextmanager
async def driving(
    target: Target, first: Workload, key: str = "", past: PastFile | None = None
) -> AsyncIterator[Driver]:
    """A load process for the length of a block; `past` holds a replay's requests. Raises BenchmarkError where the target
    does not take `first`."""
    driver = Driver(target, first, key, past)
    try:
        await driver.open()
        yield driver
    finally:
        await driver.close()


class Driver:
    """One target in a process of its own; `driving()` opens and closes it."""

    def __init__(self, target: Target, first: Workload, key: str = "", past: PastFile | None = None):
        self.target = target
        self._job = Job(target, first, key, past)
        self._process: subprocess.Popen[bytes] | None = None
        self._lines = asyncio.StreamReader(limit=LONGEST_LINE)
        self._errors: IO[bytes] | None = None
        self._transport: asyncio.BaseTransport | None = None
        self._info: TargetInfo | None = None
        self._busy = False

    def __repr__(self) -> str:
        return f"<Driver {self.target.url or self.target.engine} {'open' if self._info else 'closed'}>"

    @property
    def info(self) -> TargetInfo:
        assert self._info is not None, "not open"
        return self._info

    async def open(self) -> None:
        """Reach the server or load the engine. Raises BenchmarkError."""
        await self._start()
        answer = await self._ask(encode(self._job))
        if not isinstance(answer, Opened):
            raise BenchmarkError("The load process spoke out of turn.")
        self._info = answer.info

    async def measure(
        self, workload: Workload, tell: Callable[[Moved], None] = lambda moved: None
    ) -> Measured:
        """One run; `tell` hears how far it is. Raises BenchmarkError. After a cancellation only leaving makes sense."""
        answer = await self._ask(encode(workload), tell)
        if not isinstance(answer, Measured):
            raise BenchmarkError("The load process spoke out of turn.")
        return answer

    async def _start(self) -> None:
        self._process = await asyncio.to_thread(self._spawn)
        assert self._process.stdout is not None
        protocol = asyncio.StreamReaderProtocol(self._lines)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(lambda: protocol, self._process.stdout)

    def _spawn(self) -> subprocess.Popen[bytes]:
        module = "engine_process" if self.target.engine else "url_process"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        # A session of its own: Ctrl-C reaches the parent alone, which keeps what is done and then ends this.
        return subprocess.Popen(
            [sys.executable, "-m", f"mlx_panel.bench.{module}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True,
        )  # fmt: skip

    async def _ask(self, line: bytes, tell: Callable[[Moved], None] = lambda moved: None) -> Answer:
        self._busy = True
        with contextlib.suppress(BrokenPipeError):  # its last words say why
            await asyncio.to_thread(self._write, line)
        while text := await self._lines.readline():
            answer = decode_answer(text)
            self._busy = isinstance(answer, Moved)
            if isinstance(answer, Broken):
                raise BenchmarkError(answer.reason)
            if not isinstance(answer, Moved):
                return answer
            tell(answer)
        raise BenchmarkError(f"The load process ended. {await asyncio.to_thread(self._last_words)}".rstrip())

    def _write(self, line: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def _last_words(self) -> str:
        """The last line it wrote to standard error: an interpreter's own, for no text of a model is printed there."""
        if self._errors is None:
            return ""
        self._errors.seek(0)
        lines = self._errors.read()[-LAST_WORDS:].decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""

    async def close(self) -> None:
        """End the process, at once where it is in the middle of a run."""
        if self._process is not None:
            # Shielded: a process must not outlive a cancelled task.
            await asyncio.shield(asyncio.to_thread(_stop, self._process, not self._busy))
        if self._transport is not None:
            self._transport.close()
        if self._errors is not None:
            self._errors.close()


def _stop(process: subprocess.Popen[bytes], kindly: bool) -> None:
    """Close its input, which ends an idle one in order; a busy one is ended by SIGTERM."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    if kindly:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    process.kill()
    process.wait()
