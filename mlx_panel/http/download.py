"""A file as an answer, sent piece by piece as fast as the client reads. One that breaks off is seen to be incomplete."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ..errors import MlxPanelError
from .endpoint import Endpoint
from .sse import EventStream


class FileStream(EventStream):
    """The same way out as an event stream's; the handler says what the file is."""

    def _open(self) -> None:
        self.opened = True


class DownloadEndpoint(Endpoint):
    """A route that answers with a file."""

    def name_file(self, kind: str, name: str, size: int | None = None) -> None:
        """Say what the file is before its first byte: its media type, its name, and its bytes where that is known."""
        self.set_header("Content-Type", kind)
        self.set_header("Content-Disposition", f'attachment; filename="{name}"')
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")
        if size is not None:
            self.set_header("Content-Length", str(size))

    async def send_file(self, pieces: AsyncIterator[bytes]) -> None:
        """Send all of it. Raises ClientGone where the client left or reads nothing for `timeout_write_seconds`."""
        self.ledger.stream = True
        settings = self.house.settings
        out = FileStream(
            self, write_timeout=settings.timeout_write_seconds, keep_alive=settings.sse_keepalive_seconds
        )
        async for piece in pieces:
            await out.send(piece)

    def _conclude(self, error: MlxPanelError | None) -> None:
        """An error in the middle tears the connection: whatever else were sent would be taken for the file's end."""
        if error is None or not self._headers_written or self._recorded:
            return super()._conclude(error)
        self._record(error)
        self._drop()
