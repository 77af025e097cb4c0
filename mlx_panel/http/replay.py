"""The past without its words, a line a request: what `mlx-benchmark replay` runs again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import msgspec

from ..analytics import AuditFilter
from ..audit import replay
from .audit_query import AuditQuery
from .download import DownloadEndpoint


class Replay(DownloadEndpoint):
    """Requests that wrote text, in the order in which they came, as JSON lines of `inquiry.Past`; filters as in the list."""

    route = "/v1/admin/audit-logs/replay"

    async def answer(self, *path: str) -> None:
        query = AuditQuery(self)
        filter = replay.pinned(query.filter())
        query.done()
        self.name_file("application/x-ndjson", "audit-replay.jsonl")
        if self.request.method == "HEAD":
            await self.flush()  # without a length: nobody has counted
            return
        await self.send_file(self._lines(filter))

    async def _lines(self, filter: AuditFilter) -> AsyncIterator[bytes]:
        """A page at a time: a log of any length takes the memory of one."""
        mark: replay.Mark | None = None
        while True:
            found, mark = await self.house.reader.ask(partial(replay.page, filter=filter, after=mark))
            yield b"".join(msgspec.json.encode(one) + b"\n" for one in found)
            if mark is None:
                return


routes = [(Replay.route, Replay)]
