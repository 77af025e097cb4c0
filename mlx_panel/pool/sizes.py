"""What models take in memory: predicted from their files, corrected by what their processes really took.

Also how much memory there is. Everything here reads files or asks the system.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil

from ..messages import LocalModel
from ..sizing import Measured, Room, Shape, Size, size

log = logging.getLogger(__name__)
GIB = 1 << 30
# What the system and other programs keep: a quarter of the memory, but not less than 1 GB nor more than 8 GB. The server
# itself takes some 0.2 GB of it.
RESERVE, LEAST, MOST = 0.25, 10**9, 8 * 10**9
# Of a Mac's memory the GPU may take two thirds, of 36 GB and more three quarters; a worker tells the exact figure.
APPLE, APPLE_LARGE, LARGE = 2 / 3, 3 / 4, 36 * GIB
# A worker that has imported everything and no model; measured on Linux (Python 3.11, mlx 0.32): 55 MiB and its sockets.
BASE = 64 << 20
# Limits above this mean that there is none (version 1 of cgroups says it so).
UNLIMITED = 1 << 60
# What reading a model's files may fail with.
FAULTS = (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


class Noted(msgspec.Struct, frozen=True):
    """What was measured of a model, and of which files: `stamp` changes with them."""

    measured: Measured
    stamp: tuple[str, int] = ("", 0)


class Stored(msgspec.Struct, frozen=True):
    """The file: what was measured of each model, and of a worker without one."""

    version: int = 1
    base: int = 0
    models: dict[str, Noted] = {}


class Sizes:
    """Predictions and measurements of models. `shape` reads a model's files; `file` keeps the measurements.

    `base` is what a worker takes without a model, bytes: measured, once one was seen.
    """

    def __init__(self, file: Path, shape: Callable[[LocalModel], Shape]):
        self._file, self._shape = file, shape
        self._shapes: dict[str, tuple[tuple[str, int], Shape]] = {}
        stored = _read(file)
        self._noted = dict(stored.models)
        self.base = stored.base or BASE

    def __repr__(self) -> str:
        return f"<Sizes of {len(self._noted)} models measured, base {self.base >> 20} MiB>"

    def shape(self, model: LocalModel) -> Shape:
        """The model's shape, read again when its config has changed. A folder that cannot be read is taken by its weight."""
        stamp = _stamp(model)
        known = self._shapes.get(model.id)
        if known is None or known[0] != stamp:
            known = self._shapes[model.id] = (stamp, self._read_shape(model))
        return known[1]

    def predict(self, model: LocalModel, room: Room) -> Size:
        """What a load of the model will take with this much room, from its files alone."""
        return size(self.shape(model), room)

    def expected(self, model: LocalModel, room: Room) -> int:
        """The same in all, bytes, with what the model took once it was loaded earlier in place of the predicted weights.

        What grows with use stays predicted: a worker with more room than was asked for fills it, so the most it ever
        took says nothing about another room. A measurement of other files of this name does not count.
        """
        predicted = self.predict(model, room)
        noted = self._noted.get(model.id)
        if noted is None or not noted.measured.loaded or noted.stamp != _stamp(model):
            return predicted.total
        loaded = max(noted.measured.loaded, predicted.weights)
        return loaded + predicted.kv + predicted.transient + predicted.cache

    def measured(self, model_id: str) -> Measured | None:
        """What was last measured of a model, this time or before a restart."""
        noted = self._noted.get(model_id)
        return None if noted is None else noted.measured

    def note(self, model_id: str, measured: Measured) -> None:
        """Keep what a worker really took. `save` writes it."""
        known = self._shapes.get(model_id)
        before = self._noted.get(model_id)
        stamp = known[0] if known is not None else before.stamp if before is not None else ("", 0)
        self._noted[model_id] = Noted(measured, stamp)
        self.base = measured.baseline or self.base

    def save(self) -> None:
        """Write the file, whole or not at all, for its owner's eyes only. Blocks. A full disk is logged."""
        text = msgspec.json.encode(Stored(base=self.base, models=dict(self._noted)))
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._file.parent, prefix=".sizes-", delete=False) as stream:
                stream.write(text)
            os.replace(stream.name, self._file)
        except OSError as error:
            log.error("the sizes of models could not be saved: %s", error.strerror)

    def _read_shape(self, model: LocalModel) -> Shape:
        try:
            return self._shape(model)
        except FAULTS as error:
            log.warning("the files of %s do not say what it takes: %s", model.id, type(error).__name__)
            return Shape(weights=model.bytes, context_length=model.context_length)


def _stamp(model: LocalModel) -> tuple[str, int]:
    """What changes with a model's files: the folder, and when its config was written."""
    for name in ("config.json", "fake.json"):
        try:
            return model.path, (Path(model.path) / name).stat().st_mtime_ns
        except OSError:
            continue
    return model.path, 0


def _read(file: Path) -> Stored:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Stored)
    except FileNotFoundError:
        return Stored()
    except (OSError, msgspec.DecodeError) as error:
        log.warning("%s is not readable (%s): sizes are measured anew", file.name, type(error).__name__)
        return Stored()


# --- the machine --------------------------------------------------------------------------------------------------


def recommended_memory(device: int = 0, *, machine: int | None = None) -> int:
    """What all models may take together, bytes: what "auto" means, and what percentages are of.

    On Apple silicon the device's recommended working set: beyond it the system compresses and swaps. `device` is what a
    worker told of it; until one has, what such machines are known to have. Elsewhere the machine's memory less a reserve.
    """
    total = machine_memory() if machine is None else machine
    if device:
        return min(device, total)
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return int(total * (APPLE if total < LARGE else APPLE_LARGE))
    return total - reserve(total)


def reserve(total: int) -> int:
    """What is left to the system and to other programs."""
    return min(total, int(min(max(RESERVE * total, LEAST), MOST)))


def machine_memory(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """This machine's memory, bytes: less where a container or a unit of the system may have less of it."""
    limits = [_limit(file) for file in _limit_files(cgroups, own)]
    return min([int(psutil.virtual_memory().total), *(limit for limit in limits if limit)])


def _limit_files(cgroups: Path, own: Path) -> list[Path]:
    """The files of limits that hold for this process: its group's and those of all groups around it."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    files = [cgroups / "memory.max", cgroups / "memory" / "memory.limit_in_bytes"]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (
            (cgroups, "memory.max") if not controllers else (cgroups / "memory", "memory.limit_in_bytes")
        )
        group = Path(path.lstrip("/"))
        files += [root / part / name for part in (group, *group.parents)]
    return files


def _limit(file: Path) -> int:
    try:
        text = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return 0
    return int(text) if text.isdigit() and int(text) < UNLIMITED else 0
