"""How far a streamed request is before its first token, for a client that asks (`stream_options.include_progress`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from ..errors import ClientGone, MlxPanelError
from ..messages import Event, Stage
from ..pool.pool import ModelPool
from .sse import EventStream

Say = Callable[[dict[str, Any]], bytes]  # a dialect's event for a progress


class Progress:
    """Tells one client; `say` makes the dialect's event, `open` answers with a stream from now on."""

    def __init__(self, say: Say, open: Callable[[], EventStream], gone: Callable[[MlxPanelError], None]):
        self._say, self._open, self._gone = say, open, gone

    def __repr__(self) -> str:
        return f"<Progress {self._open!r}>"

    @contextlib.asynccontextmanager
    async def loading(self, pool: ModelPool, model: str) -> AsyncIterator[None]:
        """Tell of the model's load inside the block, if it has one."""
        if any(worker.model.id == model for worker in pool.workers):
            yield
            return
        telling = asyncio.create_task(self._tell(pool, model))
        try:
            yield
        finally:
            telling.cancel()
            await asyncio.wait((telling,))

    async def _tell(self, pool: ModelPool, model: str) -> None:
        out, last = self._open(), None
        try:
            async for progress in pool.watch_load(model):
                told = (progress.stage, progress.done)
                if told != last and progress.stage not in ("ready", "failed"):
                    load = {"stage": f"load.{progress.stage}", "done": progress.done, "total": progress.total}
                    await out.send(self._say(load))
                last = told
        except ClientGone as error:
            self._gone(error)
        except MlxPanelError:
            return  # whoever waits for the load hears of it

    def of(self, events: list[Event]) -> bytes:
        """What is to be told of a request's own events: its place in the queue, and its prompt."""
        stages = [event for event in events if isinstance(event, Stage)]
        return b"".join(self._say(_words(stage)) for stage in stages)


def _words(stage: Stage) -> dict[str, Any]:
    """A request that decodes has its whole prompt processed."""
    name = "queued" if stage.stage == "queued" else "prefill"
    return {"stage": name, "done": stage.done, "total": stage.total}
