"""Fetching one file of a repository by ranges (RFC 9110, section 14), in a thread.

Bytes are written in order as they come, so the length of the partial file says how many of them are good: a process that
is killed, a connection that breaks or a person who pauses costs what was not yet written, nothing more. The hash is taken
along; what an earlier process left is read again for it first. Only a file with the right hash becomes a blob.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from ..errors import HubUnavailable, Unavailable
from ..library import HubFile
from .cache_layout import CachedRepository, etag_of
from .client import PASSING, refusal

BLOCK = 1 << 16  # what an earlier process left counts in whole blocks of this size
READ = 1 << 20
SYNC = 1 << 26  # bytes after which the disk is told to keep them
READ_SECONDS = 30.0  # without a byte; then the connection counts as broken
CONNECT_SECONDS = 10.0
LONGEST_WAIT = 60.0
POLL_SECONDS = 0.05
ATTEMPTS = 12  # in a row without a new byte: some five minutes
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Stopped(Exception):
    """Somebody wants the fetch to end; what is on disk stays."""


class Passing(Exception):
    """What another try may mend. `wait` is how long the hub asks to wait, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class Stop:
    """Ends fetches from another thread, also those that wait for a byte that does not come."""

    def __init__(self) -> None:
        self.stopped = False
        self._sockets: set[socket.socket] = set()

    def __repr__(self) -> str:
        return f"<Stop {'set' if self.stopped else 'open'}, {len(self._sockets)} connections>"

    def set(self) -> None:
        """Does not block, and may be repeated."""
        self.stopped = True
        for one in tuple(self._sockets):
            with contextlib.suppress(OSError):
                # Not the method of a TLS socket, which would take its keys from under the thread that reads.
                socket.socket.shutdown(one, socket.SHUT_RDWR)

    def check(self) -> None:
        """Raises Stopped."""
        if self.stopped:
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Blocks. Raises Stopped."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, POLL_SECONDS))
        self.check()

    @contextlib.contextmanager
    def over(self, reply: httpx.Response) -> Iterator[None]:
        """`set` breaks this connection while it is read."""
        stream = reply.extensions.get("network_stream")
        one = stream.get_extra_info("socket") if stream is not None else None
        if one is None:
            yield
            return
        self._sockets.add(one)
        try:
            self.check()
            yield
        finally:
            self._sockets.discard(one)


class Source:
    """Where a model's files come from. `headers` is asked for each request; httpx takes the token out of it when the hub
    sends it on to another host."""

    def __init__(
        self,
        client: httpx.Client,
        endpoint: str,
        id: str,
        commit: str,
        headers: Callable[[], dict[str, str]],
        *,
        pause: float = 0.5,
        attempts: int = ATTEMPTS,
    ):
        self.client, self.endpoint, self.id, self.commit = client, endpoint, id, commit
        self.headers, self.pause, self.attempts = headers, pause, attempts

    def __repr__(self) -> str:
        return f"<Source {self.endpoint}/{self.id} at {self.commit[:8]}>"

    def demand(self, path: str) -> None:
        """Ask whether the hub gives us a file. Blocks. Raises HubRefused; a hub that does not answer says nothing."""
        try:
            reply = self.client.head(self.url(path), headers=self.headers())
        except httpx.RequestError:
            return
        if reply.status_code in (401, 403) and not reply.history:
            raise refusal(reply, self.endpoint, self.id, bool(self.headers()))

    def url(self, path: str) -> str:
        return f"{self.endpoint}/{self.id}/resolve/{self.commit}/{quote(path)}"


def new_client() -> httpx.Client:
    """A client for fetches. Blocks: it reads the system's certificates."""
    timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, pool=None)
    return httpx.Client(timeout=timeout, follow_redirects=True)


class Fetch:
    """One file on its way into the cache. `run()` blocks; what it says of itself can be read at any time.

    `have` bytes are on disk and right as far as one knows, `fetched` came over the network, `retries` connections were
    broken; `busy` and `done` say where it stands, `note` what it is doing where that is not fetching.
    """

    def __init__(
        self, file: HubFile, source: Source, repository: CachedRepository, stop: Stop, have: int = 0
    ):
        self.file = file
        self.etag = etag_of(file.path, file.sha256, file.oid)
        self.have, self.fetched, self.retries = have, 0, 0
        self.note = ""
        self.busy = self.done = False
        self._source, self._repository, self._stop = source, repository, stop
        self._most = self._synced = 0
        self._validator = ""
        self._adopted = False
        self._spoilt = 0

    def __repr__(self) -> str:
        return f"<Fetch {self.file.path} {self.have} of {self.file.bytes} bytes {self.note}>"

    def run(self) -> None:
        """Fetch the rest of the file. Raises Stopped, HubRefused, HubModelNotFound, HubUnavailable, and Unavailable for
        the disk; in each case what is on disk stays for the next run."""
        self.busy = True
        try:
            with self._repository.lock(self.etag, self._waiting):
                self._locked()
        except OSError as error:
            self._stop.check()
            raise disk_error(self._repository.blobs, error) from error
        finally:
            self.busy = False

    def _waiting(self) -> None:
        self._stop.check()
        self.note = "Waiting for another program that fetches this file"

    def _locked(self) -> None:
        self.note = ""
        if not self._repository.holds(self.etag, self.file.bytes):
            self._adopted = self._repository.adopt(self.etag, self.file.bytes)
            with open(self._repository.partial(self.etag), "ab", buffering=0) as out:
                self._file = out.fileno()
                self._begin()
                self._whole()
                os.fsync(self._file)
            self._repository.partial(self.etag).replace(self._repository.blob(self.etag))
        self.have, self.done, self.note = self.file.bytes, True, ""

    def _begin(self) -> None:
        """Take up what is on disk, in whole blocks, and its hash."""
        size = os.fstat(self._file).st_size
        self._cut(size - size % BLOCK if size <= self.file.bytes else 0)
        self._most = self.have
        if self.have:
            self.note = "Checking what is on disk"
            self._reread()
            self.note = ""

    def _reread(self) -> None:
        buffer = memoryview(bytearray(READ))
        with open(self._repository.partial(self.etag), "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                self._hash.update(buffer[:count])
                self._stop.check()

    def _cut(self, size: int) -> None:
        """Keep the first `size` bytes on disk and begin the hash anew."""
        os.ftruncate(self._file, size)
        self.have = self._synced = size
        self._hash: Any = (
            hashlib.sha256()
            if self.file.sha256
            else hashlib.sha1(b"blob %d\0" % self.file.bytes, usedforsecurity=False)
        )

    def _whole(self) -> None:
        """Fetch until the file is complete and right; one whose hash is wrong is fetched once more."""
        self._rest()
        while self._hash.hexdigest() != self.etag:
            if self._spoilt and not self._adopted:
                self._cut(0)
                raise HubUnavailable(
                    f"{self.file.path} came with a wrong checksum twice. The hub, or a proxy on the way to it, sends damaged data."
                )
            self._spoilt, self._adopted = self._spoilt + (not self._adopted), False
            self.retries += 1
            self._cut(0)
            self._most = 0
            self._rest()

    # --- the network -----------------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Fetch what is missing, over as many connections as it takes."""
        failures = 0
        while self.have < self.file.bytes:
            before = self._most
            try:
                self._attempt()
                continue
            except (httpx.RequestError, Passing) as error:
                self._stop.check()
                reason = error
            failures = 0 if self._most > before else failures + 1
            self.retries += 1
            if failures >= self._source.attempts:
                raise HubUnavailable(self._gave_up(reason)) from reason
            self._pause(reason, failures)

    def _pause(self, reason: Exception, failures: int) -> None:
        asked = min(reason.wait if isinstance(reason, Passing) else 0.0, LONGEST_WAIT)
        wait = max(asked, min(self._source.pause * 2 ** (failures - 1), LONGEST_WAIT) if failures else 0.0)
        if wait:
            self.note = f"{_words(reason)}; trying again in {max(1, round(wait))} s"
        self._stop.wait(wait)
        self.note = ""

    def _gave_up(self, reason: Exception) -> str:
        return (
            f"{self.file.path} could not be fetched in {self._source.attempts} attempts: {_words(reason)}. "
            "What has come is kept; retry goes on from there."
        )

    def _attempt(self) -> None:
        """One request for all that is missing. What came is on disk, however it ends."""
        headers = {**self._source.headers(), "Accept-Encoding": "identity"}
        if self.have:
            headers["Range"] = f"bytes={self.have}-"
            if self._validator:
                headers["If-Range"] = self._validator
        url = self._source.url(self.file.path)
        with self._source.client.stream("GET", url, headers=headers) as reply, self._stop.over(reply):
            if reply.status_code not in (200, 206, 416):
                raise self._refused(reply)
            start = start_of(reply.status_code, reply.headers, self.have, self.file.bytes)
            if start != self.have:
                self._cut(0)
            self._validator = strong(reply.headers.get("ETag", ""))
            self._pour(reply)

    def _refused(self, reply: httpx.Response) -> Exception:
        if reply.status_code in PASSING:
            asked = reply.headers.get("Retry-After", "")
            return Passing(
                f"the hub answered {reply.status_code}", float(asked) if asked.isdecimal() else 0.0
            )
        if reply.history:  # not the hub, but where it sent us, with an address that may have grown old
            return Passing(f"the hub's storage answered {reply.status_code}")
        if reply.headers.get("X-Error-Code") in ("EntryNotFound", "RevisionNotFound"):
            return HubUnavailable(f"{self.file.path} is no longer on the hub. Retry looks what is.")
        return refusal(reply, self._source.endpoint, self._source.id, bool(self._source.headers()))

    def _pour(self, reply: httpx.Response) -> None:
        for piece in reply.iter_raw():
            self.fetched += len(piece)
            self._write(piece)
            self._stop.check()
        if self.have < self.file.bytes:
            raise Passing("the answer ended too early")

    def _write(self, data: bytes) -> None:
        """Append; bytes that are too many are an odd answer. Raises OSError for a full disk: then what fitted counts."""
        room = self.file.bytes - self.have
        rest = memoryview(data)[:room]
        while rest:
            count = os.write(self._file, rest)
            self._hash.update(rest[:count])
            self.have += count
            rest = rest[count:]
        self._most = max(self._most, self.have)
        if self.have - self._synced >= SYNC:
            os.fsync(self._file)
            self._synced = self.have
        if len(data) > room:
            raise Passing("the answer was longer than the file")


def start_of(status: int, headers: Mapping[str, str], have: int, size: int) -> int:
    """Where in a file of `size` bytes the body begins that answers a request for all from `have` on: there, or at 0.

    Raises Passing for an answer that is not of this file, or of another length.
    """
    if status == 416:
        raise Passing("the hub has fewer bytes of this file than it said")
    start = 0
    if status == 206:
        match = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if match is None or (int(match[1]), int(match[2]) + 1, int(match[3])) != (have, size, size):
            raise Passing("the hub answered with another part of the file than was asked for")
        start = have
    length = headers.get("Content-Length", str(size - start))
    if headers.get("Content-Encoding", "identity") != "identity" or length != str(size - start):
        raise Passing("the hub announced another length than the file has")
    return start


def strong(etag: str) -> str:
    """An ETag that `If-Range` may carry (RFC 9110, section 13.1.5), else ""."""
    return "" if etag.startswith("W/") else etag


def _words(reason: Exception) -> str:
    if isinstance(reason, httpx.TimeoutException):
        return "the hub does not answer"
    return str(reason) if isinstance(reason, Passing) else "the connection broke"


def disk_error(folder: Path, error: OSError) -> Unavailable:
    """What the disk refused, for a person."""
    return Unavailable(
        f"The disk does not take the data ({error.strerror} in {folder}). What has come is kept; make room, then retry."
    )
