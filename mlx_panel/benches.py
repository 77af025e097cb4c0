"""The server's benchmarks: the one that runs, which belongs to the server and not to who started it, and those stored.

The load comes from a process of its own (`bench`), as ordinary requests over HTTP. What drives that process runs on a
loop in a thread, for it reads about the machine; nothing here blocks the server's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil

from .bench import BenchmarkError, Plan, Progress, Result, Target, load, save, sweep
from .errors import Conflict, NotFound, Unavailable
from .job import Job, JobState, Order, Shelved, Stored, level, share, stored
from .messages import LocalModel
from .site import site

log = logging.getLogger(__name__)
TOKENIZER = "tokenizer.json"
SURE = 0.02  # of the time; before that nothing is known about the rest
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}


class Benches:
    """Runs one benchmark at a time against this server's own `url()` and keeps results in `folder`.

    `find` looks a model up, `changed` is called whenever a page should look again. All of it on the server's loop.
    """

    def __init__(
        self,
        folder: Path,
        *,
        find: Callable[[str], Awaitable[LocalModel]],
        url: Callable[[], str],
        changed: Callable[[], None],
    ):
        self.folder = folder
        self.job: Job | None = None
        self._find, self._url, self._changed = find, url, changed
        self._sweeping: Sweeping | None = None
        self._task: asyncio.Task[None] | None = None
        self._result: Result | None = None
        self._began = 0.0
        self._known: dict[Path, tuple[int, Stored]] = {}

    def __repr__(self) -> str:
        state = "idle" if self.job is None else f"{self.job.state} {self.job.fraction:.0%}"
        return f"<Benches {self.folder} {state}>"

    @property
    def running(self) -> bool:
        return self._sweeping is not None

    # --- the one that runs -----------------------------------------------------------------------------------

    async def start(self, order: Order) -> Job:
        """Begin. Raises Conflict while one runs, ModelNotFound, and Unavailable where this server's address is not known."""
        self._demand_idle()
        target = await self._target(order)
        self._demand_idle()  # another start may have come meanwhile
        plan = Plan(target=target, workloads=order.workloads)
        self._sweeping = Sweeping(plan, order.command(target.url), self._heard)
        self._result = None
        self._began = time.monotonic()
        self._show(Job(order=order, started=datetime.now(UTC), steps=len(plan.workloads)))
        self._task = asyncio.create_task(self._run(self._sweeping))
        self._task.add_done_callback(self._ended)
        return self._shown

    async def cancel(self) -> Job:
        """End the one that runs; its measured levels are stored. Raises NotFound where none runs."""
        if self._sweeping is None:
            raise NotFound("No benchmark is running.")
        await self.stop()
        return self._shown

    async def stop(self) -> None:
        """End the one that runs, if one does, and its process."""
        if self._sweeping is not None and self._task is not None:
            self._sweeping.cancel()
            await asyncio.wait((self._task,))

    def _demand_idle(self) -> None:
        if self._sweeping is not None:
            raise Conflict("A benchmark is running. Wait until it is done, or cancel it.")

    async def _target(self, order: Order) -> Target:
        model = await self._find(order.model)
        url = self._url() or await asyncio.to_thread(own_url)
        exact = await asyncio.to_thread((Path(model.path) / TOKENIZER).is_file)
        return Target(url=f"{url}/v1", model=order.model, tokenizer=model.path if exact else "")

    async def _run(self, sweeping: Sweeping) -> None:
        try:
            result = await sweeping.run()
        except BenchmarkError as error:
            await self._keep("failed", str(error))
        else:
            self._result = result or self._result
            await self._keep("cancelled" if result is None else "done")

    async def _keep(self, state: JobState, error: str = "") -> None:
        """Store what was measured, and say how it ended."""
        stored = ""
        if self._result is not None and self._result.runs:
            try:
                stored = (await asyncio.to_thread(save, self._result, self.folder)).stem
            except OSError as wrong:
                state, error = "failed", f"The result could not be written ({wrong.strerror})."
        self._end(state, error, stored)

    def _end(self, state: JobState, error: str, stored: str = "") -> None:
        self._sweeping = None
        whole = {"step": self._shown.steps, "fraction": 1.0} if state == "done" else {}
        ended = {"state": state, "error": error, "result": stored, "seconds_left": None, **whole}
        self._show(msgspec.structs.replace(self._shown, **ended))

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A defect: class and place go to the log."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a benchmark failed: %s", site(error))
            self._end("failed", "The benchmark failed; the server's log names the place.")

    def _heard(self, progress: Progress) -> None:
        if self._sweeping is None:
            return
        self._result = progress.result
        fraction = share(self._shown.order.workloads, progress)
        if not fraction:
            self._began = time.monotonic()  # loading the model says nothing about the rest
        spent = time.monotonic() - self._began
        self._show(
            msgspec.structs.replace(
                self._shown, step=progress.step, label=progress.label, done=int(progress.done), total=int(progress.total),
                tokens_per_second=progress.tokens_per_second, fraction=max(fraction, self._shown.fraction),
                seconds_left=spent * (1 - fraction) / fraction if fraction > SURE else None,
                levels=tuple(map(level, progress.result.runs)),
            )
        )  # fmt: skip

    def _show(self, job: Job) -> None:
        self.job = job
        self._changed()

    @property
    def _shown(self) -> Job:
        assert self.job is not None, "nothing was started"
        return self.job

    # --- those stored ----------------------------------------------------------------------------------------

    async def stored(self) -> Shelved:
        """The results on disk."""
        return await asyncio.to_thread(self._read_all)

    async def result(self, id: str) -> Result:
        """One result, with every request. Raises NotFound, also for a file that is no result."""
        try:
            return await asyncio.to_thread(lambda: load(self._file(id)))
        except BenchmarkError as error:
            raise NotFound(str(error)) from error

    async def delete(self, id: str) -> None:
        """Delete a result. Raises NotFound, and Unavailable where the disk refuses."""
        await asyncio.to_thread(self._unlink, id)
        self._changed()

    def _read_all(self) -> Shelved:
        found, skipped = [], []
        for file in self.folder.glob("*.json"):
            try:
                found.append(self._one(file))
            except BenchmarkError as error:
                skipped.append(str(error))
        return Shelved(sorted(found, key=lambda one: one.created, reverse=True), sorted(skipped))

    def _one(self, file: Path) -> Stored:
        """A file in one line; one that has not changed is not read again."""
        with contextlib.suppress(FileNotFoundError):
            changed = file.stat().st_mtime_ns
            if self._known.get(file, (0, None))[0] != changed:
                self._known[file] = (changed, stored(load(file), file.stem))
            return self._known[file][1]
        raise BenchmarkError(f"{file} is gone.")

    def _file(self, id: str) -> Path:
        """The file of a result: one of those in the folder, so that an id cannot lead elsewhere."""
        for file in self.folder.glob("*.json"):
            if file.stem == id:
                return file
        raise NotFound("There is no benchmark with that id.")

    def _unlink(self, id: str) -> None:
        try:
            self._file(id).unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(f"The result could not be deleted ({error.strerror}).") from error


class Sweeping:
    """A sweep on a loop of its own in a thread. `heard` is called on the loop that waits for `run()`."""

    def __init__(self, plan: Plan, command: str, heard: Callable[[Progress], None]):
        self._plan, self._command, self._heard = plan, command, heard
        self._home = asyncio.get_running_loop()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Result] | None = None
        self._cancelled = False

    def __repr__(self) -> str:
        return f"<Sweeping {self._plan.target.url} {'cancelled' if self._cancelled else 'on'}>"

    async def run(self) -> Result | None:
        """The result, or None where it was cancelled. Raises BenchmarkError."""
        return await asyncio.to_thread(self._work)

    def cancel(self) -> None:
        """End it soon. May be repeated."""
        self._cancelled = True
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                self._loop.call_soon_threadsafe(self._task.cancel)

    def _work(self) -> Result | None:
        try:
            return asyncio.run(self._sweep())
        except asyncio.CancelledError:
            return None

    async def _sweep(self) -> Result:
        self._task = asyncio.create_task(sweep(self._plan, self._tell, command=self._command))
        self._loop = asyncio.get_running_loop()
        if self._cancelled:
            self._task.cancel()
        return await self._task

    def _tell(self, progress: Progress) -> None:
        with contextlib.suppress(RuntimeError):  # the server's loop has ended
            self._home.call_soon_threadsafe(self._heard, progress)


def own_url() -> str:
    """Where this process listens, for a server that was not told. Blocks. Raises Unavailable where that is not clear."""
    sockets = psutil.Process().net_connections("tcp")
    places = {one.laddr for one in sockets if one.status == psutil.CONN_LISTEN}
    ports = {place.port for place in places}
    if len(ports) != 1:
        raise Unavailable("This server does not know its own address; `mlx-benchmark` can be told it.")
    host = next(place.ip for place in places)
    return f"http://{LOOPBACK.get(host, f'[{host}]' if ':' in host else host)}:{ports.pop()}"
