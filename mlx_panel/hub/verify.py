"""Whether a model's files are whole: their hashes where the hub's cache knows them, and whether they fit each other."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..library import Finding
from .disk import INDEX, missing_files
from .report import amount
from .safetensors_header import read_header

SHA256, SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
CHUNK = 4 << 20
FETCH = "Delete the model, then download it again."
MAKE = "Download, import or convert the model again."
WEIGHTS = ".safetensors"
Report = Callable[[int, int], None]


class Stopped(Exception):
    """Somebody cancelled it."""


class Part(NamedTuple):
    """A file of a model: its name in the folder, where it really lies, and its hash, "" where nobody knows one.

    A hash of 64 digits is the content's SHA-256 (Git LFS), one of 40 the SHA-1 that Git gives a blob.
    """

    name: str
    file: Path
    size: int
    digest: str = ""


class Check:
    """A look through one folder. `report(done, total)` gets bytes, `stopping()` says whether to end. Blocks."""

    def __init__(
        self,
        folder: Path,
        report: Report = lambda done, total: None,
        stopping: Callable[[], bool] = lambda: False,
    ):
        self.folder = folder
        self.blobs = _blobs(folder)
        self.advice = FETCH if self.blobs is not None else MAKE
        self._report, self._stopping = report, stopping
        self._done = self._total = 0
        self._tensors: dict[str, set[str]] = {}

    def __repr__(self) -> str:
        return f"<Check {self.folder} {self._done} of {self._total} bytes>"

    def run(self) -> tuple[Finding, ...]:
        """What is wrong, one line a file, and a last line that sums up. Raises Stopped."""
        parts, found = self._parts()
        self._total = sum(part.size for part in parts)
        for part in parts:
            found += [self._bad(part.name, fault) for fault in self._faults(part)]
        told = {one.step for one in found}
        found += [self._bad(name, "it is missing") for name in missing_files(self.folder) if name not in told]
        found += [self._bad(INDEX, fault) for fault in self._index()]
        return (*found, self._summary(parts, len({one.step for one in found})))

    def _parts(self) -> tuple[list[Part], list[Finding]]:
        """The files, each once, and links that lead nowhere."""
        parts, broken = [], []
        for name, path in sorted(_files(self.folder)):
            try:
                file = path.resolve(strict=True)
                size = file.stat().st_size
            except (OSError, RuntimeError):
                broken.append(self._bad(name, "it is a link to a file that is not there"))
                continue
            known = self.blobs is not None and file.parent == self.blobs
            parts.append(Part(name, file, size, file.name if known and _is_hash(file.name) else ""))
        return parts, broken

    def _faults(self, part: Part) -> Iterator[str]:
        try:
            if part.digest and self._hash(part) != part.digest:
                yield "its content is not what the hub has: its hash differs"
                return
            if part.name.endswith(WEIGHTS):
                yield from self._weights(part)
            elif part.name.endswith(".json"):
                json.loads(part.file.read_bytes())
        except OSError as error:
            yield f"it cannot be read ({error.strerror or type(error).__name__})"
        except (ValueError, RecursionError) as error:
            yield "it is no JSON" if part.name.endswith(".json") else str(error)
        finally:
            if not part.digest:
                self._past(part.size)

    def _weights(self, part: Part) -> Iterator[str]:
        header = read_header(part.file)
        self._tensors[part.name] = set(header.tensors)
        faults = header.faults()
        yield from faults[:1]

    def _hash(self, part: Part) -> str:
        digest = hashlib.sha256() if SHA256.fullmatch(part.digest) else hashlib.sha1(b"blob %d\0" % part.size)
        with part.file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                self._past(len(chunk))
        return digest.hexdigest()

    def _past(self, size: int) -> None:
        if self._stopping():
            raise Stopped
        self._done += size
        self._report(min(self._done, self._total), self._total)

    def _index(self) -> Iterator[str]:
        """Tensors that the index promises in a file that does not have them."""
        try:
            weights = json.loads((self.folder / INDEX).read_bytes())["weight_map"]
            places = [(str(name), str(file)) for name, file in weights.items()]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            yield "it does not say which file holds which tensor"
            return
        lost = [name for name, file in places if file in self._tensors and name not in self._tensors[file]]
        if lost:
            yield f"{len(lost)} of its tensors are not in the files it names, {lost[0]} for one"

    def _bad(self, name: str, what: str) -> Finding:
        return Finding(step=name, level="action_needed", text=f"{what[0].upper()}{what[1:]}. {self.advice}")

    def _summary(self, parts: list[Part], bad: int) -> Finding:
        hashed = sum(bool(part.digest) for part in parts)
        size = sum(part.size for part in parts)
        state = f"{bad} of them are bad or missing" if bad else "all are whole"
        how = (
            f"{hashed} compared by hash with what the hub has"
            if hashed
            else "no hashes are known, so it was looked whether they are complete and fit each other"
        )
        text = f"{len(parts)} files, {amount(size)}: {state} ({how})."
        return Finding(step="files", level="action_needed" if bad else "info", text=text, value=bad)


def _blobs(folder: Path) -> Path | None:
    """Where the contents of a snapshot of the hub's cache lie; None for any other folder."""
    blobs = folder.parent.parent / "blobs"
    return blobs.resolve() if folder.parent.name == "snapshots" and blobs.is_dir() else None


def _is_hash(name: str) -> bool:
    return bool(SHA256.fullmatch(name) or SHA1.fullmatch(name))


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            yield path.relative_to(folder).as_posix(), path
