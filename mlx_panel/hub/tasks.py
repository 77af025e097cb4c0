"""Jobs on local models: queued, one at a time, watched by any number, cancelled, kept until the server ends."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from ..errors import MlxPanelError, NotFound
from ..library import Finding, Task, TaskKind, TaskState
from ..site import site

log = logging.getLogger(__name__)
T = TypeVar("T")
KEPT = 100  # that are over
RECENT_SECONDS = 60.0
NEWS_SECONDS = 0.1  # between two words of one step's progress
OVER: tuple[TaskState, ...] = ("done", "failed", "cancelled")
DEFECT = "It failed; the server's log names the place."


class Job:
    """What the work of a task is given: where it tells how far it is. May be told from any thread.

    `stopping` is set when the task is cancelled, for work in a thread, which nothing else can stop.
    """

    def __init__(self, show: Callable[..., None]):
        self.stopping = threading.Event()
        self.findings: tuple[Finding, ...] = ()
        self._show = show
        self._loop = asyncio.get_running_loop()
        self._said = ("", 0.0)

    def __repr__(self) -> str:
        return f"<Job {self._said[0]} {len(self.findings)} findings{' stopping' if self.stopping.is_set() else ''}>"

    def step(self, step: str, done: int = 0, total: int = 0, unit: str = "steps") -> None:
        """It is at `done` of `total` of a step. News of one step come a tenth of a second apart, its end always."""
        now = time.monotonic()
        if step == self._said[0] and done < total and now < self._said[1] + NEWS_SECONDS:
            return
        self._said = (step, now)
        self._tell(step=step, done=done, total=total, unit=unit)

    def found(self, *findings: Finding) -> None:
        """Add lines to the report."""
        self.findings += findings
        self._tell(findings=self.findings)

    def say(self, **changes: Any) -> None:
        """Set other fields of the task: `report`, `result`."""
        self._tell(**changes)

    def _tell(self, **changes: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(lambda: self._show(**changes))
        except RuntimeError:  # the loop has ended, and nobody looks any more
            self.stopping.set()


Work = Callable[[Job], Awaitable[None]]


async def in_thread(job: Job, work: Callable[[], T]) -> T:
    """Work that blocks; a cancelled task waits until it has looked at `job.stopping` and come to its end."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        job.stopping.set()
        await asyncio.wait((running,))
        running.exception()  # whatever it was: nobody asks any more
        raise


class Tasks:
    """The jobs of this server's run, oldest first. All of it on the server's loop.

    `changed()` is called when one begins or ends.
    """

    def __init__(self, changed: Callable[[], None] = lambda: None):
        self._changed = changed
        self._tasks: dict[str, Task] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._making: dict[str, str] = {}
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Tasks {len(self._tasks)}, {len(self._running)} not over>"

    def start(self, kind: TaskKind, model: str, work: Work, *, making: str = "") -> Task:
        """Queue work; it begins when all that was queued before is over. What it raises ends the task as failed.

        `making` is the model that will come of it.
        """
        task = Task(id=uuid.uuid4().hex[:12], kind=kind, model=model, created=time.time())
        self._tasks[task.id] = task
        self._news[task.id] = asyncio.Event()
        self._making[task.id] = making
        running = asyncio.create_task(self._run(task.id, work), name=f"{kind} {model}")
        running.add_done_callback(lambda over: self._over(task.id, over))
        self._running[task.id] = running
        self._changed()
        return task

    def get(self, id: str) -> Task:
        """Raises NotFound."""
        if id not in self._tasks:
            raise NotFound("There is no task of that id; those of this run of the server are kept.")
        return self._tasks[id]

    def all(self) -> tuple[Task, ...]:
        return tuple(self._tasks.values())

    def recent(self) -> tuple[Task, ...]:
        """Those that are not over, and those that ended in the last minute."""
        since = time.time() - RECENT_SECONDS
        return tuple(task for task in self._tasks.values() if task.ended is None or task.ended > since)

    def on(self, model: str, kind: TaskKind | None = None) -> Task | None:
        """A task that is not over and reads or makes a model, of any kind or of one."""
        for task in self._tasks.values():
            own = (task.model, self._making.get(task.id))
            if task.ended is None and model in own and kind in (None, task.kind):
                return task
        return None

    async def cancel(self, id: str) -> Task:
        """End a task and wait until it is over; one that is over stays as it is. Raises NotFound."""
        self.get(id)
        if (running := self._running.get(id)) is not None:
            running.cancel()
            await asyncio.wait((running,))
        return self.get(id)

    async def forget(self, id: str) -> Task:
        """Take a task off the list, cancelled if it is not over. Raises NotFound."""
        task = await self.cancel(id)
        self._tasks.pop(id, None)
        self._news.pop(id, None)
        self._changed()
        return task

    async def stop(self) -> None:
        """End all of them."""
        running = list(self._running.values())
        for one in running:
            one.cancel()
        if running:
            await asyncio.wait(running)

    async def watch(self, id: str) -> AsyncIterator[Task]:
        """A task as it is, then at each change, until it is over. A slow reader misses some. Raises NotFound."""
        self.get(id)
        while id in self._tasks:
            news, task = self._news[id], self._tasks[id]
            yield task
            if task.state in OVER:
                return
            await news.wait()

    async def _run(self, id: str, work: Work) -> None:
        job = Job(lambda **changes: self._show(id, **changes))
        try:
            async with self._turn:
                self._show(id, state="running")
                await work(job)
            await asyncio.sleep(0)  # what the work told from its thread is shown before its end
        finally:
            job.stopping.set()

    def _over(self, id: str, running: asyncio.Task[None]) -> None:
        """It has ended, or was cancelled before it began."""
        del self._running[id], self._making[id]
        state, error = _outcome(running)
        self._show(id, state=state, error=error, ended=time.time())
        over = [task.id for task in self._tasks.values() if task.ended is not None]
        for old in over[:-KEPT]:
            self._tasks.pop(old, None)
            self._news.pop(old, None)
        self._changed()

    def _show(self, id: str, **changes: Any) -> None:
        if id not in self._tasks or (self._tasks[id].ended is not None):
            return
        self._tasks[id] = msgspec.structs.replace(self._tasks[id], **changes)
        news, self._news[id] = self._news[id], asyncio.Event()
        news.set()


def _outcome(running: asyncio.Task[None]) -> tuple[TaskState, str]:
    """How a task ended, and in words why. Of a defect class and place go to the log."""
    if running.cancelled():
        return "cancelled", ""
    error = running.exception()
    if error is None:
        return "done", ""
    if isinstance(error, MlxPanelError):
        return "failed", str(error)
    if isinstance(error, OSError):
        return "failed", f"The disk refused: {error.strerror or type(error).__name__}."
    log.error("a task failed (%s): %s", running.get_name().partition(" ")[0], site(error))
    return "failed", DEFECT
