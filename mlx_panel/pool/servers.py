"""Presets as servers that run or do not: what a person starts, stops and looks at by a preset's name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from ..errors import Conflict, MlxPanelError
from ..messages import Tune
from ..preset import Preset, PresetServer
from ..presets import Presets
from ..snapshot import ModelState
from .names import Names
from .pool import ModelPool
from .process import Worker

# So long a process may take to answer when it is asked whether it still does: as long as a step of it may take.
ANSWER_SECONDS = 5.0
LOOK_SECONDS = 0.01
States = Callable[[], Awaitable[list[ModelState]]]


class Servers:
    """The processes behind presets. Presets of one model share one, so what happens to it happens to all of them.

    Every call raises NotFound for a preset there is none of.
    """

    def __init__(self, pool: ModelPool, presets: Presets, names: Names, states: States):
        self._pool, self._presets, self._names, self._states = pool, presets, names, states
        self._starting: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<Servers of {self._presets!r}>"

    async def all(self) -> list[PresetServer]:
        """Every preset, by name."""
        states = await self._by_model()
        return [self._server(preset, states.get(preset.model)) for preset in self._presets.all()]

    async def status(self, name: str) -> PresetServer:
        preset = self._presets.find(name)
        return self._server(preset, (await self._by_model()).get(preset.model))

    async def health(self, name: str) -> PresetServer:
        """The status; `healthy` says whether the process answers now, and how it got there if not."""
        preset = self._presets.find(name)
        worker = next((one for one in self._pool.workers if one.model.id == preset.model), None)
        answers = worker is not None and await _answers(worker)
        found = (await self._by_model()).get(preset.model)
        return self._server(preset, found, answers=answers)

    async def start(self, name: str, *, wait: bool = True) -> PresetServer:
        """Load the preset's model; without `wait` it goes on loading behind the answer. Raises what `pool.load` does."""
        model = self._presets.find(name).model
        await self._pool.find(model)
        if wait:
            await self._pool.load(model)
        else:
            task = self._begin(model)
            while not (self._pool.in_use(model) or task.done()):
                await asyncio.sleep(LOOK_SECONDS)
        return await self.status(name)

    async def stop(self, name: str, *, force: bool = False) -> PresetServer:
        """End the process once its requests are done. Raises Conflict while requests run that came by another name,
        unless with `force`."""
        preset = self._presets.find(name)
        self._spare_others(preset, force)
        await self._pool.unload(preset.model)
        return await self.status(name)

    async def restart(self, name: str, *, force: bool = False) -> PresetServer:
        """End the process, and load the model into a new one. Raises like `stop` and `start`."""
        preset = self._presets.find(name)
        self._spare_others(preset, force)
        await self._pool.find(preset.model)
        await self._pool.unload(preset.model)
        await self._pool.load(preset.model)
        return await self.status(name)

    # --- inside ----------------------------------------------------------------------------------------------

    def _begin(self, model: str) -> asyncio.Task[None]:
        """Load behind the scenes; why a load failed stands in the model's state."""

        async def load() -> None:
            try:
                await self._pool.load(model)
            except MlxPanelError:
                return

        task = asyncio.create_task(load())
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        return task

    def _spare_others(self, preset: Preset, force: bool) -> None:
        running = self._names.others(preset)
        if running and not force:
            raise Conflict(
                f"{running} requests run on {preset.model!r} that did not come by the preset {preset.name!r} and would "
                "end with it. Try again later, or force it."
            )

    async def _by_model(self) -> dict[str, ModelState]:
        return {state.id: state for state in await self._states()}

    def _server(
        self, preset: Preset, state: ModelState | None, *, answers: bool | None = None
    ) -> PresetServer:
        shared = tuple(one.name for one in self._presets.of(preset.model) if one.name != preset.name)
        if state is None:
            why = f"The model {preset.model!r} is not on this machine any more."
            return PresetServer(
                preset=preset.name, model=preset.model, state="missing", reason=why, shared_with=shared
            )
        heard = state.state == "ready" and state.responsive
        return PresetServer(
            preset=preset.name, model=preset.model, state=state.state, healthy=heard if answers is None else answers,
            pid=state.pid, uptime=state.uptime, memory=state.memory, cpu=state.cpu, running=state.running,
            queued=state.queued, pinned=state.pinned, restarts=state.restarts, reason=state.reason, log=state.log,
            shared_with=shared,
        )  # fmt: skip


async def _answers(worker: Worker) -> bool:
    """Whether a process answers: told again what it knows already, it says at once how it is."""
    asked = time.monotonic()
    worker.send(Tune(worker.wanted))
    while worker.alive and time.monotonic() < asked + ANSWER_SECONDS:
        await asyncio.sleep(LOOK_SECONDS)
        if worker.heard > asked:
            return True
    return False
