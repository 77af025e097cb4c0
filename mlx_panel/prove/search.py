"""Searching files, names of files and processes for canaries. It runs in a process of its own: see `process.py`.

Opening the audit log in the server's own process would end DuckDB's lock on it when it is closed (POSIX record locks
belong to a process, not to a descriptor), so no file is ever read there.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
from tokenizers import Tokenizer

from .canary import forms
from .needles import Hit, Needles, Tokenise
from .orders import Searched, SearchOrder, Spot

PIECE = 4 << 20
EARLIER = 5.0  # seconds by which a file's time may be behind the clock
MARK = ".mlx-panel-proof-control"
NAMED = 5  # files that a report names for a place


class Search:
    """Looks for what an order says, spot by spot."""

    def __init__(self, order: SearchOrder):
        self._order = order
        self._control = len(order.canaries)
        self.needles = Needles((*order.canaries, order.control), _tokenise(order.tokenizer))

    def __repr__(self) -> str:
        return f"<Search for {self.needles!r} in {len(self._order.spots)} spots>"

    def run(self) -> Iterator[Searched]:
        """What each spot holds, and the processes' command lines and environments."""
        for spot in self._order.spots:
            with _planted(spot.plant, self._order) as planted:
                yield self.spot(spot, planted)
        if self._order.processes:
            yield self.processes()

    def spot(self, spot: Spot, planted: int = 0) -> Searched:
        """Search files and the names of files. What cannot be read is counted."""
        tally = Tally(spot.name, self._control, planted)
        for path, status in _files(spot):
            if max(status.st_mtime, status.st_ctime) < self._order.since - EARLIER:
                tally.older += 1
            elif spot.most and tally.bytes + status.st_size > spot.most:
                tally.skipped += 1
            else:
                self._file(path, spot, tally)
        return tally.result()

    def _file(self, path: str, spot: Spot, tally: Tally) -> None:
        named = self.needles.find(os.fsencode(path))
        try:
            hits, size = read(self.needles, path)
            if spot.expected and hits:
                os.unlink(path)
        except OSError:
            tally.skipped += 1
            hits, size = set(), 0
        # A name that holds a canary must not come into the report.
        tally.add(_shown(path, spot) if not named else "a file whose name holds one", hits | named, size)

    def processes(self) -> Searched:
        """Command lines and environments, as any program of this user can read them."""
        tally = Tally("command lines and environments", self._control)
        for pid in self._order.processes:
            try:
                process = psutil.Process(pid)
                words = [
                    *process.cmdline(),
                    *(f"{name}={value}" for name, value in process.environ().items()),
                ]
            except psutil.NoSuchProcess:  # a short one, gone by now
                continue
            except (psutil.Error, OSError):
                tally.skipped += 1
                continue
            text = "\n".join(words).encode("utf-8", "surrogateescape")
            tally.add(f"process {pid}", self.needles.find(text), len(text))
        return tally.result()


class Tally:
    """What is counted of a spot."""

    def __init__(self, name: str, control: int, planted: int = 0):
        self.name, self._control, self._planted = name, control, planted
        self.files = self.bytes = self.older = self.skipped = self._found = 0
        self._where: list[str] = []
        self._forms: set[str] = set()
        self._controls: set[str] = set()

    def __repr__(self) -> str:
        return f"<Tally {self.name}: {self._found} in {self.files} files>"

    def add(self, place: str, hits: set[Hit], size: int) -> None:
        """Count a file."""
        self._controls |= {hit.form for hit in hits if hit.canary == self._control}
        canaries = {hit for hit in hits if hit.canary != self._control}
        if place == MARK:
            size = 0
        else:
            self.files += 1
        self.bytes += size
        self._found += len(canaries)
        self._forms |= {hit.form for hit in canaries}
        if canaries:
            self._where.append(place)

    def result(self) -> Searched:
        return Searched(
            self.name, self.files, self.bytes, self._found, self.older, self.skipped, tuple(self._where[:NAMED]),
            tuple(sorted(self._forms)), self._planted, len(self._controls) if self._planted else 0,
        )  # fmt: skip


def read(needles: Needles, path: str) -> tuple[set[Hit], int]:
    """What a file holds, and its bytes. Raises OSError."""
    found: set[Hit] = set()
    size, rest = 0, b""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb", buffering=0) as file:
        while piece := file.read(PIECE):
            size += len(piece)
            found |= needles.find(rest + piece)
            rest = piece[-needles.longest :]
    return found, size


def _files(spot: Spot) -> Iterator[tuple[str, os.stat_result]]:
    """Every plain file of this user in the spot."""
    for path in spot.paths:
        for place in _below(path, spot.but):
            with contextlib.suppress(OSError):
                status = os.stat(place, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    yield place, status


def _below(path: str, but: tuple[str, ...]) -> Iterator[str]:
    if not os.path.isdir(path):
        yield path
        return
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in but]
        yield from (place for name in files if (place := os.path.join(folder, name)) not in but)


def _shown(path: str, spot: Spot) -> str:
    """A file's place below its spot."""
    for root in spot.paths:
        with contextlib.suppress(ValueError):
            below = str(Path(path).relative_to(root))
            return Path(root).name if below == "." else below
    return Path(path).name


@contextlib.contextmanager
def _planted(folder: str, order: SearchOrder) -> Iterator[int]:
    """A file with the control in every form lies in the folder meanwhile; how many forms those are, 0 without a folder."""
    if not folder or not os.path.isdir(folder):
        yield 0
        return
    written = forms(order.control.text)
    mark = Path(folder) / MARK
    try:
        mark.write_bytes(b"\n".join(written))
        yield len(set(written.values()))
    finally:
        mark.unlink(missing_ok=True)


def _tokenise(file: str) -> Tokenise | None:
    if not file:
        return None
    tokenizer = Tokenizer.from_file(file)
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids
