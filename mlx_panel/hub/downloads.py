"""The downloads of a server: jobs of its own that go on whoever looks, and after the server was killed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec

from ..errors import NotFound
from ..library import Download, HubFile
from .download_job import FILES, OVER, Action, Hub, Job, Shop, demand
from .fetch import ATTEMPTS, new_client

log = logging.getLogger(__name__)
AT_A_TIME = 2  # models
KEPT = 100  # that are over
RECENT_SECONDS = 60.0
STOP_SECONDS = 5.0


class Kept(msgspec.Struct, frozen=True):
    """A download as it is written down."""

    download: Download
    files: tuple[HubFile, ...] = ()


class Downloads:
    """Fetches models from `hub` into the hub cache `cache` and keeps its books in `folder`/downloads.json.

    One download a model and revision. `changed()` is called whenever one changes its state. All of it on the server's
    loop; what blocks is done in threads. `pause` and `attempts` say how patient it is with the network (`fetch.Source`).
    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        hub: Hub,
        changed: Callable[[], None] = lambda: None,
        *,
        pause: float = 0.5,
        attempts: int = ATTEMPTS,
    ):
        self.file = folder / "downloads.json"
        self.cache = cache
        self._jobs: dict[str, Job] = {}
        self._admitting: dict[tuple[str, str], asyncio.Task[Job]] = {}
        self._client: httpx.Client | None = None
        self._making, self._writing = asyncio.Lock(), asyncio.Lock()
        self._written = b""
        self._pool = ThreadPoolExecutor(AT_A_TIME * FILES, thread_name_prefix="download")
        self._shop = Shop(
            cache, hub, self._open, self._pool, asyncio.Semaphore(AT_A_TIME), self._spoken_for, self._kept_by_others,
            changed, self._save, pause, attempts,
        )  # fmt: skip

    def __repr__(self) -> str:
        going = sum(download.state not in OVER for download in self.all())
        return f"<Downloads into {self.cache}: {going} not over, {len(self._jobs) - going} over>"

    # --- the server's life -----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up the books; those that were under way go on where they were."""
        for kept in await asyncio.to_thread(self._read):
            job = Job(self._shop, kept.download, kept.files)
            self._jobs[kept.download.task] = job
            if kept.download.state in ("queued", "downloading", "verifying"):
                job.start(afresh=False)

    async def stop(self) -> None:
        """Halt all work; the next start goes on with it. May be repeated."""
        for admitting in self._admitting.values():
            admitting.cancel()
        for job in self._jobs.values():
            job.halt()
        await asyncio.gather(*(job.ended(STOP_SECONDS) for job in self._jobs.values()))
        self._pool.shutdown(wait=False, cancel_futures=True)
        client, self._client = self._client, None
        if client is not None:
            await asyncio.to_thread(client.close)
        await self._save()

    # --- what one can do -------------------------------------------------------------------------------------

    async def get(self, model: str, revision: str = "main") -> Download:
        """Fetch a model. One that is under way is not begun twice; one that was paused, failed or cancelled goes on.

        Raises HubRefused, HubModelNotFound, HubUnavailable, InvalidParameter, and Conflict for a disk without room.
        """
        key = (model, revision)
        for job in self._jobs.values():
            if (job.shown.model, job.shown.revision) == key and job.shown.state != "completed":
                if job.shown.state in ("paused", "failed", "cancelled"):
                    job.start(afresh=True)
                    await self._save()
                return job.shown
        admitting = self._admitting.get(key)
        if admitting is None:
            admitting = self._admitting[key] = asyncio.create_task(self._admit(model, revision))
            admitting.add_done_callback(lambda task: self._admitted(key, task))
        return (await asyncio.shield(admitting)).shown

    def _admitted(self, key: tuple[str, str], task: asyncio.Task[Job]) -> None:
        """Whoever asked may have left: then nobody looks at the error."""
        del self._admitting[key]
        if not task.cancelled():
            task.exception()

    async def _admit(self, model: str, revision: str) -> Job:
        """A new job in the place of one that is completed."""
        download = Download(task=uuid.uuid4().hex[:12], model=model, revision=revision, created=time.time())
        job = Job(self._shop, download)
        await job.prepare()
        for old in list(self._jobs.values()):
            if (old.shown.model, old.shown.revision) == (model, revision):
                del self._jobs[old.shown.task]
        self._jobs[download.task] = job
        job.start(afresh=False)
        self._tidy()
        self._shop.changed()
        await self._save()
        return job

    async def pause(self, task: str) -> Download:
        """Halt one; what has come is kept. Raises NotFound, Conflict; so do the others."""
        job = self._job(task, "pause")
        job.end("paused")
        job.halt()
        await job.ended(STOP_SECONDS)
        return await self._said(job)

    async def resume(self, task: str) -> Download:
        """Go on with one that is paused."""
        return await self._go_on(task, "resume")

    async def retry(self, task: str) -> Download:
        """Begin again with one that failed or was cancelled; what is on disk still counts."""
        return await self._go_on(task, "retry")

    async def _go_on(self, task: str, action: Action) -> Download:
        job = self._job(task, action)
        job.start(afresh=True)
        return await self._said(job)

    async def cancel(self, task: str) -> Download:
        """End one, and delete what it fetched unless something else needs it."""
        job = self._job(task, "cancel")
        job.end("cancelled")
        job.halt()
        job.clean()
        await job.ended(STOP_SECONDS)
        return await self._said(job)

    async def forget(self, task: str) -> Download:
        """Strike one that is over from the books; what a failed one fetched is deleted."""
        job = self._job(task, "forget")
        if job.shown.state == "failed":
            job.clean()
            await job.ended(STOP_SECONDS)
        self._jobs.pop(task, None)
        self._shop.changed()
        return await self._said(job)

    # --- what one can see ------------------------------------------------------------------------------------

    def all(self) -> tuple[Download, ...]:
        """All of them, oldest first."""
        return tuple(job.shown for job in self._jobs.values())

    def recent(self) -> tuple[Download, ...]:
        """Those that are not over, and those that ended in the last minute."""
        since = time.time() - RECENT_SECONDS
        return tuple(one for one in self.all() if one.state not in OVER or (one.ended or 0) > since)

    def find(self, task: str) -> Download:
        """Raises NotFound."""
        return self._job(task).shown

    def active(self, model: str) -> Download | None:
        """The one that fetches, or has halted fetching, a model."""
        return next((one for one in self.all() if one.model == model and one.state not in OVER), None)

    def watch(self, task: str) -> AsyncIterator[Download]:
        """One as it is, then whenever that changes, until it is over. Raises NotFound."""
        return self._job(task).watch()

    # --- inside ----------------------------------------------------------------------------------------------

    def _job(self, task: str, action: Action | None = None) -> Job:
        job = self._jobs.get(task)
        if job is None:
            raise NotFound("There is no download of that id.")
        if action is not None:
            demand(job.shown, action)
        return job

    async def _said(self, job: Job) -> Download:
        await self._save()
        return job.shown

    def _spoken_for(self, job: Job) -> int:
        going = (one.shown for one in self._jobs.values() if one is not job)
        return sum(one.total - one.done for one in going if one.state in ("queued", "downloading"))

    def _kept_by_others(self, job: Job) -> set[str]:
        others = (one for one in self._jobs.values() if one is not job and one.shown.model == job.shown.model)
        return {etag for one in others if one.shown.state != "cancelled" for etag in one.etags}

    def _tidy(self) -> None:
        over = [job.shown for job in self._jobs.values() if job.shown.state in OVER]
        for download in sorted(over, key=lambda one: one.ended or 0)[:-KEPT]:
            del self._jobs[download.task]

    async def _open(self) -> httpx.Client:
        async with self._making:
            if self._client is None:
                self._client = await asyncio.to_thread(new_client)
            return self._client

    async def _save(self) -> None:
        async with self._writing:
            data = msgspec.json.encode([Kept(job.shown, job.files) for job in self._jobs.values()])
            if data == self._written:
                return
            try:
                await asyncio.to_thread(self._write, data)
                self._written = data
            except OSError as error:
                log.warning("the list of downloads could not be written: %s", error.strerror)

    def _write(self, data: bytes) -> None:
        made = self.file.with_suffix(".tmp")
        with made.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        made.replace(self.file)

    def _read(self) -> list[Kept]:
        try:
            return msgspec.json.decode(self.file.read_bytes(), type=list[Kept])
        except FileNotFoundError:
            return []
        except (msgspec.DecodeError, OSError) as error:
            log.warning("the list of downloads cannot be read (%s); it begins anew", type(error).__name__)
            with contextlib.suppress(OSError):
                self.file.replace(self.file.with_suffix(".damaged"))
            return []
