"""What the library remembers from one server to the next: when models were used, checked and probed, and what came of it."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import msgspec

from ..library import Capabilities
from ..messages import LocalModel
from .kept import Kept

log = logging.getLogger(__name__)


class Seen(msgspec.Struct, frozen=True):
    """A time about a model as it was then."""

    stamp: str
    at: float


class Probed(msgspec.Struct, frozen=True):
    """What a probe found of a model as it was then."""

    stamp: str
    found: Capabilities


class Remembered(msgspec.Struct):
    """When models were last used, and when their files were found whole. Unix seconds."""

    last_used: dict[str, float] = {}
    verified: dict[str, Seen] = {}


class Results(msgspec.Struct):
    """What probes found, by model."""

    probed: dict[str, Probed] = {}


class Past:
    """Two files of the data folder, `library.json` and `capabilities.json`. What concerns a model that was replaced since
    is not told."""

    def __init__(self, folder: Path):
        self._remembered = Kept(folder / "library.json", Remembered)
        self._results = Kept(folder / "capabilities.json", Results)

    def __repr__(self) -> str:
        return f"<Past of {len(self._remembered.value.last_used)} models, {len(self._results.value.probed)} probed>"

    def load(self) -> None:
        """Blocks."""
        self._remembered.load()
        self._results.load()

    def last_used(self, id: str) -> float | None:
        return self._remembered.value.last_used.get(id)

    def verified(self, model: LocalModel) -> float | None:
        known = self._remembered.value.verified.get(model.id)
        return known.at if known is not None and known.stamp == stamp(model) else None

    def probed(self, model: LocalModel) -> Capabilities | None:
        known = self._results.value.probed.get(model.id)
        return known.found if known is not None and known.stamp == stamp(model) else None

    async def used(self, times: dict[str, float]) -> None:
        """Models were used at these times."""
        value = self._remembered.value
        after = {**value.last_used, **times}
        if after != value.last_used:
            value.last_used = after
            await _save(self._remembered)

    async def was_whole(self, model: LocalModel) -> None:
        """Its files were found whole."""
        self._remembered.value.verified[model.id] = Seen(stamp(model), time.time())
        await _save(self._remembered)

    async def keep(self, model: LocalModel, found: Capabilities) -> None:
        """A probe has found this."""
        self._results.value.probed[model.id] = Probed(stamp(model), found)
        await _save(self._results)

    async def forget(self, id: str) -> None:
        """The model is gone."""
        for known in (self._remembered.value.last_used, self._remembered.value.verified):
            known.pop(id, None)
        self._results.value.probed.pop(id, None)
        await _save(self._remembered)
        await _save(self._results)


def stamp(model: LocalModel) -> str:
    """What changes when another model takes the name: the revision, else the size and the time of the folder."""
    return f"{Path(model.path).name} {model.bytes} {model.created if model.source == 'folder' else ''}"


async def _save(kept: Kept[Any]) -> None:
    try:
        await asyncio.to_thread(kept.save)
    except OSError as error:
        log.warning("%s could not be written: %s", kept.file.name, error.strerror)
