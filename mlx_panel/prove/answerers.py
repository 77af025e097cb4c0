"""Who answers a proof's requests: models that are here, or a scripted one that comes and goes with the proof."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import MlxPanelError
from ..inquiry import Skipped
from ..pool.names import Names
from ..pool.pool import ModelPool
from ..snapshot import ModelState

# Names that requests of a proof use: they are known, so rows say what they were, and they give way to others.
NAME, VECTORS = "mlx-panel-proof", "mlx-panel-proof-vectors"
STAND_IN = "mlx-panel-proof-stand-in"
TOKENIZER, SCRIPTED = "tokenizer.json", "fake"
SCRIPT = {"text": "This answer was written down before.", "context_length": 4096}
NO_MODEL = Skipped(
    "real generation, the prefix cache",
    "No model was here that could be had without unloading another: a scripted one answered.",
)
NO_VECTORS = Skipped(
    "embeddings by a model", "No embedding model was here; requests to an unknown one were sent."
)


class Answerers(NamedTuple):
    """The models: "" where there is none. `tokenizer` is the file of the first one's."""

    model: str = ""
    embedder: str = ""
    tokenizer: str = ""
    skipped: tuple[Skipped, ...] = ()


class Lent:
    """Models for the time of a proof: `async with` gives them names, and afterwards unloads those that were not there."""

    def __init__(
        self, folder: Path, pool: ModelPool, names: Names, states: Callable[[], Awaitable[list[ModelState]]]
    ):
        self._stand_in = folder / "models" / STAND_IN
        self._pool, self._names, self._states = pool, names, states
        self._absent: list[str] = []

    def __repr__(self) -> str:
        return f"<Lent {sorted(self._names.background)}>"

    async def __aenter__(self) -> Answerers:
        states = await self._states()
        text, vectors = _best(states, "text"), _best(states, "embedding")
        there = {state.id for state in states if state.state in ("ready", "loading")}
        if not text:
            await asyncio.to_thread(self._write)
        model = text or STAND_IN
        self._names.background[NAME] = model
        if vectors:
            self._names.background[VECTORS] = vectors
        self._absent = [id for id in (model, vectors) if id and id not in there]
        skipped = ((NO_MODEL,) if not text else ()) + ((NO_VECTORS,) if not vectors else ())
        return Answerers(model, vectors, await self._tokenizer(text), skipped)

    async def __aexit__(self, *_: object) -> None:
        for name in (NAME, VECTORS):
            self._names.background.pop(name, None)
        await asyncio.shield(self._let_go())

    async def _let_go(self) -> None:
        """Unload what was not in memory before and nobody else uses by now, and end the stand-in."""
        for one in await self._states():
            used = one.leases or one.waiting or one.pinned or one.needed
            if one.id in self._absent and one.state in ("ready", "loading") and not used:
                with contextlib.suppress(MlxPanelError):
                    await self._pool.unload(one.id)
        await asyncio.to_thread(shutil.rmtree, self._stand_in, True)

    async def _tokenizer(self, model: str) -> str:
        if not model:
            return ""
        file = Path((await self._pool.find(model)).path) / TOKENIZER
        return str(file) if await asyncio.to_thread(file.is_file) else ""

    def _write(self) -> None:
        self._stand_in.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._stand_in / "fake.json").write_text(json.dumps(SCRIPT), encoding="utf-8")


def _best(states: Iterable[ModelState], kind: str) -> str:
    """The smallest model of a kind in memory, a scripted one last, else the smallest that fits beside those that are; ""
    without one."""
    fitting = [state for state in states if state.kind == kind and _at_hand(state)]
    order = [
        (state.state != "ready", state.architecture == SCRIPTED, state.disk, state.id) for state in fitting
    ]
    return min(order)[-1] if order else ""


def _at_hand(state: ModelState) -> bool:
    fits = state.state == "available" and state.verdict == "fits" and not state.evicts
    return state.state == "ready" or (fits and state.architecture != SCRIPTED)
