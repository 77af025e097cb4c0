"""One download's life: what it is, which way it may go, and the work from the list of files to the snapshot."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import httpx
import msgspec

from ..errors import Conflict, HubUnavailable, MlxPanelError
from ..library import Download, DownloadState, HubFile
from ..site import site
from .cache_layout import CachedRepository, etag_of
from .disk import need_space
from .fetch import Fetch, Source, Stop, Stopped, disk_error
from .wanted import wanted

log = logging.getLogger(__name__)
T = TypeVar("T")
Action = Literal["pause", "resume", "cancel", "retry", "forget"]
OVER: tuple[DownloadState, ...] = ("completed", "failed", "cancelled")
ALLOWED: dict[Action, tuple[DownloadState, ...]] = {
    "pause": ("queued", "downloading"),
    "resume": ("paused",),
    "cancel": ("queued", "downloading", "paused", "failed"),
    "retry": ("failed", "cancelled"),
    "forget": OVER,
}
FILES = 3  # of one model at a time
TICK_SECONDS = 0.25
SAVE_SECONDS = 2.0
RATE_SECONDS = 5.0
DEFECT = "It failed; the server's log names the place."


def demand(download: Download, action: Action) -> None:
    """Raises Conflict unless a download in this state can do that."""
    if download.state not in ALLOWED[action]:
        fitting = " or ".join(ALLOWED[action])
        raise Conflict(
            f"The download of {download.model} is {download.state}; {action} is for one that is {fitting}."
        )


class Hub(Protocol):
    """The hub as far as a download needs it (`hub/api.py`)."""

    endpoint: str

    @property
    def offline(self) -> bool: ...
    def demand(self) -> None: ...
    def headers(self) -> dict[str, str]: ...
    async def files(self, id: str, revision: str = "main") -> tuple[str, tuple[HubFile, ...]]: ...


class Shop(msgspec.Struct, frozen=True):
    """What all downloads share. `turns` lets so many of them run at a time, in the threads of `pool`; `spoken_for` are
    the bytes that the others will still write; `pause` and `attempts` are those of `fetch.Source`."""

    cache: Path
    hub: Hub
    client: Callable[[], Awaitable[httpx.Client]]
    pool: Executor
    turns: asyncio.Semaphore
    spoken_for: Callable[[Job], int]
    kept_by_others: Callable[[Job], set[str]]
    changed: Callable[[], None]
    save: Callable[[], Awaitable[None]]
    pause: float
    attempts: int


class Rate:
    """Bytes per second over the last seconds, of a count that grows."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def __repr__(self) -> str:
        return f"<Rate of {len(self._seen)} counts>"

    def add(self, now: float, count: int) -> float:
        """The rate, with a new count."""
        self._seen.append((now, count))
        while self._seen[0][0] < now - RATE_SECONDS:
            self._seen.popleft()
        begun, first = self._seen[0]
        return (count - first) / (now - begun) if now > begun else 0.0


class Job:
    """A download on the server's loop. `shown` is what others see of it, `files` what it fetches (once that is known)."""

    def __init__(self, shop: Shop, shown: Download, files: Sequence[HubFile] = ()):
        self.shown, self.files = shown, tuple(files)
        self._shop = shop
        self._repository = CachedRepository(shop.cache, shown.model)
        self._stop = Stop()
        self._halted = asyncio.Event()
        self._news = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._fetches: list[Fetch] = []

    def __repr__(self) -> str:
        return f"<Job {self.shown.model} {self.shown.state} {self.shown.done} of {self.shown.total} bytes>"

    # --- what others see -------------------------------------------------------------------------------------

    async def watch(self) -> AsyncIterator[Download]:
        """It as it is, then whenever that changes, until it is over."""
        last: Download | None = None
        while True:
            news = self._news
            if self.shown != last:
                last = self.shown
                yield last
            if last.state in OVER:
                return
            if news is self._news:
                await news.wait()

    def show(self, **changes: Any) -> None:
        """Change what others see, and wake those who watch."""
        before, self.shown = self.shown, msgspec.structs.replace(self.shown, **changes)
        if self.shown == before:
            return
        news, self._news = self._news, asyncio.Event()
        news.set()
        if self.shown.state != before.state:
            self._shop.changed()

    def end(self, state: DownloadState, error: str = "") -> None:
        """It goes no further for now."""
        ended = time.time() if state in OVER else None
        self.show(state=state, error=error, ended=ended, rate=0.0, seconds_left=None, file="", note="")

    @property
    def etags(self) -> dict[str, HubFile]:
        """Its blobs, each with one of the files it is the content of."""
        return {etag_of(file.path, file.sha256, file.oid): file for file in self.files}

    # --- begin and end ---------------------------------------------------------------------------------------

    def start(self, *, afresh: bool) -> None:
        """Queue it; with `afresh` the hub is asked what the model is now. What it did before ends first."""
        self.show(state="queued", error="", ended=None)
        self._stop, self._halted = Stop(), asyncio.Event()
        self._then(self._run(self._stop, afresh))

    def clean(self) -> None:
        """Delete what it fetched and nobody else has a use for, once it has stopped."""
        self._then(self._delete())

    def halt(self) -> None:
        """End the work soon; what is on disk stays."""
        self._stop.set()
        self._halted.set()

    async def ended(self, timeout: float | None = None) -> None:
        """Wait until no work goes on."""
        if self._work is not None:
            await asyncio.wait((self._work,), timeout=timeout)

    def _then(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = asyncio.create_task(_after(self._work, work), name=f"download {self.shown.model}")
        self._work.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        """A defect: class and place go to the log."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a download failed: %s", site(error))
            self.end("failed", DEFECT)

    async def _delete(self) -> None:
        etags = self.etags.keys() - self._shop.kept_by_others(self)
        try:
            await asyncio.to_thread(self._repository.drop, etags)
        except OSError as error:
            log.warning("what a download left could not be deleted: %s", error.strerror)
        self.show(done=0, files_done=0)

    # --- the work --------------------------------------------------------------------------------------------

    async def _run(self, stop: Stop, afresh: bool) -> None:
        halted = self._halted
        try:
            await self._or_halt(self._shop.turns.acquire())
            try:
                await self._through(stop, afresh)
            finally:
                self._shop.turns.release()
        except (Stopped, MlxPanelError, OSError) as error:
            if not halted.is_set():  # else who halted it has said what it is now
                self._failed(error)
        await self._shop.save()

    def _failed(self, error: Exception) -> None:
        offline = isinstance(error, HubUnavailable) and self._shop.hub.offline
        words = disk_error(self._repository.folder, error) if isinstance(error, OSError) else error
        self.end("paused" if offline else "failed", str(words))

    async def _through(self, stop: Stop, afresh: bool) -> None:
        self._shop.hub.demand()
        if afresh or not self.files:
            await self._or_halt(self.prepare())
        stop.check()
        self.show(state="downloading")
        await self._fetch(stop)
        self.show(state="verifying", file="", note="")
        await asyncio.to_thread(self._publish)
        total = self.shown.total
        self.show(done=total, files_done=self.shown.files)
        self.end("completed")

    async def _or_halt(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result. Raises Stopped, the work cancelled, where it is to end."""
        task, halted = asyncio.ensure_future(work), asyncio.ensure_future(self._halted.wait())
        try:
            await asyncio.wait((task, halted), return_when=asyncio.FIRST_COMPLETED)
        finally:
            halted.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
            raise Stopped
        return task.result()

    async def prepare(self) -> None:
        """Ask the hub for the commit and its files, and see to the room for them.

        Raises HubRefused, HubModelNotFound, HubUnavailable, InvalidParameter, and Conflict for a disk without room.
        """
        before = self.etags.keys()
        commit, files = await self._shop.hub.files(self.shown.model, self.shown.revision)
        self.files = wanted(self.shown.model, files)
        source = await self._source(commit)
        await asyncio.to_thread(source.demand, self.files[0].path)
        total = sum(file.bytes for file in self.etags.values())
        have = sum((await asyncio.to_thread(self._here)).values())
        need = total - have + self._shop.spoken_for(self)
        await asyncio.to_thread(need_space, self._shop.cache, need)
        gone = before - self.etags.keys() - self._shop.kept_by_others(self)
        if gone:  # of a commit that is no longer what the revision names
            await asyncio.to_thread(self._repository.drop, gone)
        self.show(commit=commit, total=total, done=have, files=len(self.files))

    async def _source(self, commit: str) -> Source:
        hub, client = self._shop.hub, await self._shop.client()
        return Source(
            client, hub.endpoint, self.shown.model, commit, hub.headers,
            pause=self._shop.pause, attempts=self._shop.attempts,
        )  # fmt: skip

    def _here(self) -> dict[str, int]:
        """The bytes of each blob that are on disk. Blocks."""
        return {etag: self._repository.have(etag, file.bytes) for etag, file in self.etags.items()}

    def _publish(self) -> None:
        files = {file.path: etag_of(file.path, file.sha256, file.oid) for file in self.files}
        self._repository.publish(self.shown.commit, self.shown.revision, files)

    async def _fetch(self, stop: Stop) -> None:
        await asyncio.to_thread(self._repository.make)
        here = await asyncio.to_thread(self._here)
        # What came between the last save and the server's being killed came over the network, too.
        unsaved = max(0, sum(here.values()) - self.shown.done)
        base = (self.shown.fetched + unsaved, self.shown.retries)
        source = await self._source(self.shown.commit)
        self._fetches = [
            Fetch(file, source, self._repository, stop, here[etag]) for etag, file in self.etags.items()
        ]
        ticking = asyncio.create_task(self._tick(base))
        try:
            await self._all(stop)
        finally:
            ticking.cancel()
            self._look(base, 0.0)

    async def _all(self, stop: Stop) -> None:
        """Fetch all files, some at a time. The first error stops the others and is raised once they have stopped."""
        queue = deque(self._fetches)
        workers = [asyncio.create_task(self._one_by_one(queue, stop)) for _ in range(FILES)]
        await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        errors = [worker.exception() for worker in workers if worker.done() and not worker.cancelled()]
        found = [error for error in errors if error is not None]
        if found:
            stop.set()
        await asyncio.wait(workers)
        for error in sorted(found, key=lambda error: isinstance(error, Stopped)):
            raise error
        stop.check()

    async def _one_by_one(self, queue: deque[Fetch], stop: Stop) -> None:
        loop = asyncio.get_running_loop()
        while queue and not stop.stopped:
            await loop.run_in_executor(self._shop.pool, queue.popleft().run)

    async def _tick(self, base: tuple[int, int]) -> None:
        rate, saved = Rate(), time.monotonic()
        while True:
            now = time.monotonic()
            now_rate = rate.add(now, sum(fetch.fetched for fetch in self._fetches))
            self._look(base, 0.0 if self._stop.stopped else now_rate)
            if now > saved + SAVE_SECONDS:
                saved = now
                await self._shop.save()
            await asyncio.sleep(TICK_SECONDS)

    def _look(self, base: tuple[int, int], rate: float) -> None:
        """Show how far the files are."""
        done = sum(fetch.have for fetch in self._fetches)
        whole = {fetch.etag for fetch in self._fetches if fetch.done}
        busy = max((one for one in self._fetches if one.busy), key=lambda one: one.file.bytes, default=None)
        self.show(
            done=done, fetched=base[0] + sum(fetch.fetched for fetch in self._fetches),
            retries=base[1] + sum(fetch.retries for fetch in self._fetches), rate=rate,
            seconds_left=(self.shown.total - done) / rate if rate else None,
            files_done=sum(etag_of(file.path, file.sha256, file.oid) in whole for file in self.files),
            file=busy.file.path if busy else "", note=next((one.note for one in self._fetches if one.busy and one.note), ""),
        )  # fmt: skip


async def _after(before: asyncio.Task[None] | None, work: Coroutine[Any, Any, None]) -> None:
    if before is not None:
        await asyncio.wait((before,))
    await work
