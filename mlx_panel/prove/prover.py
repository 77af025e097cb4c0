"""One proof at a time on a running server: what is sent, what is searched, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ..audit.reader import AuditReader
from ..benches import own_url
from ..errors import Conflict, MlxPanelError, NotFound
from ..inquiry import Opened, Place, Proof, Sent, Skipped
from ..pool.names import Names
from ..pool.pool import ModelPool
from ..secret import write_private
from ..site import site
from ..snapshot import ModelState
from . import sockets
from .answerers import NAME, STAND_IN, VECTORS, Answerers, Lent
from .canary import control, make
from .child import Child, Failed
from .ears import Ears
from .inside import asked_database, asked_ears
from .orders import Answered, Door, News, Searched, SearchOrder, SendOrder, Spot
from .places import spots
from .report import verdict

log = logging.getLogger(__name__)
FILE = "proof.json"
LOOK_SECONDS = 1.0
SETTLE_SECONDS = 1.5  # for what workers and writers put on the disk a little later
SPOT_WEIGHT = 40  # of a place that is searched, in requests
CLOUD = Skipped(
    "cloud providers (a fake one)",
    "This version has no cloud back end: nothing is handed on to another machine.",
)
CLOCKS = Skipped(
    "time limits that run out",
    "They are the server's settings, which a proof does not change; requests were cut off by their client instead.",
)
HUB = Skipped(
    "searching the hub",
    "What is searched for there is sent to it on purpose; those routes got requests that are refused before.",
)
NEVER = "The proof was not finished."
DEFECT = "The proof failed; the server's log names the place."


class Surroundings(msgspec.Struct, frozen=True):
    """What a proof has to know of its server. `doors` are its routes and `pages` its dashboard's. `hub` says, where that
    is so, why a connection to the outside is the hub's."""

    folder: Path
    run: Path
    cache: Path
    temporary: Path
    url: Callable[[], str]
    doors: tuple[Door, ...]
    pages: tuple[str, ...]
    reader: AuditReader
    pool: ModelPool
    names: Names
    states: Callable[[], Awaitable[list[ModelState]]]
    hub: Callable[[], str]
    versions: Callable[[], dict[str, str]]


class Prover:
    """Runs proofs on the server's loop and keeps the last one in `proof.json`, without any canary in it.

    `proof` is the one that runs, or the last one.
    """

    def __init__(self, around: Surroundings):
        self.proof: Proof | None = None
        self._around = around
        self._file = around.folder / FILE
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Prover {self.proof.state if self.proof else 'idle'}>"

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def load(self) -> None:
        """Read the last proof, if it can be read, and remove what one that was killed has left. Blocks."""
        shutil.rmtree(self._around.folder / "models" / STAND_IN, ignore_errors=True)
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            self.proof = msgspec.json.decode(self._file.read_bytes(), type=Proof)

    async def start(self) -> Proof:
        """Begin. Raises Conflict while one runs."""
        if self.running:
            raise Conflict("A proof is running. Wait until it is done, or cancel it.")
        self.proof = Proof("running", datetime.now(UTC), step="starting", versions=self._around.versions())
        self._task = asyncio.create_task(self._run(Attempt(self._around, self._show)))
        self._task.add_done_callback(self._ended)
        return self.proof

    async def cancel(self) -> Proof:
        """End the one that runs. Raises NotFound where none runs."""
        if not self.running:
            raise NotFound("No proof is running.")
        await self.stop()
        return self._shown

    async def stop(self) -> None:
        """End the one that runs, if one does, and its process."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))

    @property
    def _shown(self) -> Proof:
        assert self.proof is not None, "nothing was started"
        return self.proof

    def _show(self, **changes: Any) -> None:
        self.proof = msgspec.structs.replace(self._shown, **changes)

    async def _run(self, attempt: Attempt) -> None:
        began = time.monotonic()
        try:
            await attempt.run()
            self._end(began, **verdict(self._shown))
        except asyncio.CancelledError:
            self._end(began, state="cancelled", error=NEVER)
        except (MlxPanelError, Failed) as error:
            self._end(began, state="failed", error=str(error))
        with contextlib.suppress(OSError):
            await asyncio.to_thread(write_private, self._file, msgspec.json.encode(self._shown))

    def _end(self, began: float, **changes: Any) -> None:
        self._show(step="", seconds=round(time.monotonic() - began, 1), **changes)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A defect: class and place go to the log."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a proof failed: %s", site(error))
            self._show(state="failed", step="", error=DEFECT)


class Attempt:
    """One run: canaries, requests, search. `show` is told of every change of the `Proof`'s fields."""

    def __init__(self, around: Surroundings, show: Callable[..., None]):
        self._around, self._show = around, show
        self.since = time.time()
        self.canaries, self.control = make(), control()
        self.id = secrets.token_hex(4)
        self._places: list[Place] = []
        self._sockets: set[Opened] = set()
        self._sent: dict[tuple[str, str, str], dict[str, int]] = {}
        self._processes: dict[int, str] = {}
        self._spots: list[Spot] = []
        self._weight = self._requests = 0

    def __repr__(self) -> str:
        return f"<Attempt {self.id}, {len(self._places)} places>"

    async def run(self) -> None:
        """Raises MlxPanelError and Failed."""
        self._spots = await self._disk()
        watching = asyncio.create_task(self._watch())
        try:
            with Ears() as ears:
                async with Lent(
                    self._around.folder, self._around.pool, self._around.names, self._around.states
                ) as lent:
                    await self._send(lent)
                    self._show(step="waiting until all is written")
                    await asyncio.sleep(SETTLE_SECONDS)
                    await self._look()
                log.debug("%s", self.control.text)
            await self._search(ears, lent.tokenizer)
        finally:
            watching.cancel()
        self._show(
            sockets=tuple(sorted(self._sockets, key=lambda one: (one.verdict, one.process, one.local)))
        )

    async def _disk(self) -> list[Spot]:
        around = self._around
        return await asyncio.to_thread(spots, around.folder, around.run, around.cache, around.temporary)

    # --- requests ------------------------------------------------------------------------------------------------

    async def _send(self, lent: Answerers) -> None:
        around = self._around
        skipped = (*lent.skipped, CLOUD, CLOCKS, HUB)
        self._show(canaries=len(self.canaries), model=lent.model, embedder=lent.embedder, skipped=skipped)
        url = around.url() or await asyncio.to_thread(own_url)
        order = SendOrder(
            url, around.doors, self.canaries, self.id, NAME, VECTORS if lent.embedder else "", around.pages
        )
        await Child(order, self._heard).run()

    def _heard(self, news: News) -> None:
        if isinstance(news, Answered):
            self._answered(news)
        else:
            self._searched(news)

    def _answered(self, news: Answered) -> None:
        statuses = self._sent.setdefault((news.group, news.route, news.method), {})
        status = str(news.status or "no answer")
        statuses[status] = statuses.get(status, 0) + 1
        self._requests += 1
        self._weight = news.total
        sent = tuple(Sent(*key, sum(found.values()), dict(found)) for key, found in self._sent.items())
        self._show(
            requests=self._requests, steps=news.done, total=news.total + SPOT_WEIGHT * (len(self._spots) + 3),
            step=f"sending: {news.group}", sent=sent,
        )  # fmt: skip

    # --- the search ----------------------------------------------------------------------------------------------

    async def _search(self, ears: Ears, tokenizer: str) -> None:
        self._show(step="searching the audit log through SQL")
        sought = (*self.canaries, self.control)
        since = datetime.fromtimestamp(self.since - 1, UTC)
        self._found(await asked_database(self._around.reader, sought, since, f"proof-{self.id}-"))
        self._found(await asyncio.to_thread(asked_ears, ears, sought))
        order = SearchOrder(
            self.canaries,
            self.control,
            self.since,
            tuple(await self._disk()),
            tuple(self._processes),
            tokenizer,
        )
        self._spots = list(order.spots)
        await Child(order, self._heard).run()

    def _searched(self, news: Searched) -> None:
        spot = next((spot for spot in self._spots if spot.name == news.name), None)
        values = {name: getattr(news, name) for name in news.__struct_fields__}
        if spot is None:
            return self._found(Place(**values, unit="processes"))
        self._found(Place(**values, note=spot.note, expected=spot.expected))

    def _found(self, place: Place) -> None:
        self._places.append(place)
        steps = self._weight + SPOT_WEIGHT * len(self._places)
        self._show(places=tuple(self._places), steps=steps, step=f"searched: {place.name}")

    # --- sockets -------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        folders = (str(self._around.run), str(self._around.folder))
        processes = await asyncio.to_thread(sockets.family, os.getpid())
        seen = await asyncio.to_thread(sockets.look, processes, folders)
        why = self._around.hub()
        self._processes = {pid: role for pid, role in processes.items() if role != "this proof"}
        self._sockets |= {
            msgspec.structs.replace(one, note=why) if one.verdict == "outside" and one.remote else one
            for one in seen
        }
