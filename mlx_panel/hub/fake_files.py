"""The fake hub's files, whole and in part, with the faults that are set."""

from __future__ import annotations

import asyncio
import re
import time

from tornado.iostream import StreamClosedError

from .fake_api import Handler
from .fake_faults import spoilt
from .fake_repository import Content, is_large

PIECE = 1 << 18
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class File(Handler):
    """A file of a repository: HEAD and GET, whole or from a byte on; a large one elsewhere where `cdn` is set."""

    async def get(self, id: str, revision: str, path: str) -> None:
        one = self.repository(id, files=True)
        commit = self.commit(one, revision) if one else None
        if one is None or commit is None:
            return
        self.set_header("X-Repo-Commit", commit)
        content = one.commits[commit].get(path)
        if content is None:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        large = is_large(path, content)
        etag = content.sha256 if large else content.oid
        if large:
            self.set_header("X-Linked-Etag", f'"{etag}"')
            self.set_header("X-Linked-Size", str(content.size))
        if large and self.hub.faults.cdn:
            where = f"http://localhost:{self.hub.port}/_cdn/{content.sha256}?signature={id}:{path}"
            return self.redirect(where, status=302)
        await self.send(content, f'"{etag}"', f"{id}:{path}")

    head = get

    async def send(self, content: Content, etag: str, name: str) -> None:
        """The content or the part that was asked for, with the faults that are set."""
        faults, stop = self.hub.faults, content.size
        start = self._start(etag, stop)
        if start is None:
            return
        wrong = max(faults.lengthened(), start - stop)
        self.set_header("ETag", etag)
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("Content-Type", "application/octet-stream")
        if self.get_status() == 206:
            self.set_header("Content-Range", f"bytes {start}-{stop - 1}/{stop}")
        self.set_header("Content-Length", str(stop - start + wrong))
        if self.request.method == "HEAD":
            self.finish()
            return
        end = faults.end(start, min(stop, stop + wrong))
        if await self._pour(content, start, end, name) and end == stop + min(wrong, 0) and wrong <= 0:
            self.finish()
        else:
            faults.drop_times -= end < stop and faults.drop_times > 0
            self._hang_up()

    def _start(self, etag: str, size: int) -> int | None:
        """Where the answer begins, its status set; None: the refusal was sent."""
        match = RANGE.fullmatch(self.request.headers.get("Range", ""))
        other = self.request.headers.get("If-Range", etag) != etag
        if match is None or other or self.hub.faults.whole():
            return 0
        if int(match[1]) >= size:
            self.set_header("Content-Range", f"bytes */{size}")
            self.refuse(416, "", "Range not satisfiable")
            return None
        self.set_status(206)
        return int(match[1])

    async def _pour(self, content: Content, start: int, end: int, name: str) -> bool:
        """Send the bytes; whether the client took them all."""
        faults = self.hub.faults
        wrong = faults.spoils(name, start, end)
        range, began, place = self.hub.served.begin(name, start), time.monotonic(), start
        try:
            self.flush()
            while place < end:
                while faults is self.hub.faults and faults.stall_at and place >= faults.stall_at:
                    await asyncio.sleep(0.05)
                stop = min(
                    end, place + self._piece(), *([faults.stall_at] if place < faults.stall_at else [])
                )
                self.write(spoilt(content.read(place, stop), place, wrong))
                await self.flush()
                self.hub.served.total += stop - place
                place = range[1] = stop
                if (rate := self.hub.faults.bytes_per_second) > 0:
                    await asyncio.sleep(max(0.0, began + (place - start) / rate - time.monotonic()))
        except StreamClosedError:
            return False
        return True

    def _piece(self) -> int:
        rate = self.hub.faults.bytes_per_second
        return max(1024, min(PIECE, int(rate / 20))) if rate else PIECE

    def _hang_up(self) -> None:
        """Close without pretending that the answer is complete."""
        self._finished = True
        self.request.connection.stream.close()  # type: ignore[union-attr]
        self.on_finish()


class Mirror(File):
    """Where large files come from with `cdn`: another host, which no token of the hub's concerns."""

    async def get(self, sha256: str) -> None:  # type: ignore[override]
        content = self.hub.content(sha256)
        if content is None:
            return self.refuse(404, "", "Not found")
        await self.send(content, f'"cdn-{sha256}"', self.get_query_argument("signature", sha256))

    head = get  # type: ignore[assignment]
