"""Probing a model: it is loaded and tried with real requests, through the pool like everybody's, and then let go."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import msgspec

from ..errors import MlxPanelError, WorkerDied
from ..hub.capabilities import read_manners
from ..hub.report import amount, machine, markdown
from ..hub.tasks import Job
from ..library import Capabilities, Capability, Finding
from ..messages import LocalModel
from ..pool.pool import ModelPool
from ..pool.process import Worker
from .asking import Limits
from .trials import Outcome, TextTrials, Trials, VectorTrials

DIED = "The model's process ended during this trial; its log says more."


class Prober:
    """Tries models of a pool, each with the trials that are for its kind. It is a `Prober` of `hub.library`."""

    def __init__(self, pool: ModelPool, limits: Limits | None = None):
        self._pool, self.limits = pool, limits or Limits()

    def __repr__(self) -> str:
        return f"<Prober {self.limits}>"

    async def __call__(self, model: LocalModel, files: Capabilities, job: Job) -> Capabilities:
        """What a model can do, tried; `files` is what its files say. The job gets a finding a line, and the report.

        Raises what loading it raises: ModelLoadFailed, InsufficientMemory where it would push out another model.
        """
        manners = await asyncio.to_thread(read_manners, Path(model.path))
        changes: dict[str, Any] = {}
        job.step("load", 0, 1)
        async with self._leased(model, job) as worker:
            steps = self._trials(worker, manners.vocabulary, files.switch).steps
            for number, (name, trial) in enumerate(steps.items(), start=1):
                job.step(name, number, len(steps) + 1)
                outcome = await _tried(name, trial(), worker)
                job.found(*outcome.findings)
                changes |= outcome.changes
            found = probed(files, changes, worker)
            facts = await asyncio.to_thread(_facts, model, found, worker)
            job.say(report=markdown(f"Probe of {model.id}", facts, job.findings))
        job.step("done", len(steps) + 1, len(steps) + 1)
        return found

    def _trials(self, worker: Worker, vocabulary: Collection[str], switch: str) -> Trials:
        if worker.ready is not None and worker.ready.info.kind == "embedding":
            return VectorTrials(worker, self.limits)
        return TextTrials(worker, self.limits, vocabulary, switch)

    @contextlib.asynccontextmanager
    async def _leased(self, model: LocalModel, job: Job) -> AsyncIterator[Worker]:
        """A worker, unloaded at the end unless it was there before or others use it now."""
        there, asked = self._pool.in_use(model.id), time.monotonic()
        try:
            async with self._pool.lease(model.id, low=True) as worker:
                job.found(_loaded(worker, there=there, seconds=time.monotonic() - asked))
                yield worker
        finally:
            if not there:
                await asyncio.shield(self._let_go(model))

    async def _let_go(self, model: LocalModel) -> None:
        """Unload a model that nobody else uses by now."""
        for one in self._pool.states(await self._pool.catalog()):
            used = one.leases or one.waiting or one.pinned or one.needed
            # A probe that was cancelled may have left a load under way.
            if one.id == model.id and one.state in ("ready", "loading") and not used:
                await self._pool.unload(model.id)


async def _tried(name: str, trial: Any, worker: Worker) -> Outcome:
    """What a trial found, or what it failed with. Raises WorkerDied where nothing more can be tried."""
    try:
        outcome: Outcome = await trial
        return outcome
    except MlxPanelError as failed:
        if not worker.alive:
            raise WorkerDied(DIED) from failed
        return Outcome((Finding(step=name, level="action_needed", text=f"This trial failed: {failed}"),), {})


def probed(files: Capabilities, changes: dict[str, Any], worker: Worker) -> Capabilities:
    """What the files say, with what was tried in its place; what could not be tried stays."""
    assert worker.ready is not None
    info = worker.ready.info
    tried: dict[Capability, Any] = {
        "tools": changes.pop("calls", None),
        "reasoning": changes.get("reasoning"),
    }
    kinds = [kind for kind in files.kinds if tried.get(kind) is None]
    kinds += [kind for kind, found in tried.items() if found]
    said = {"context_length": info.context_length, "template_variables": info.template_variables, **changes}
    return msgspec.structs.replace(files, kinds=tuple(kinds), source="probe", probed=time.time(), **said)


def _loaded(worker: Worker, *, there: bool, seconds: float) -> Finding:
    assert worker.ready is not None
    took = worker.ready.load_seconds
    words = (
        f"It was in memory already; loading took {took:.1f} s."
        if there
        else f"Loaded in {seconds:.1f} s, {took:.1f} s of it reading weights."
    )
    memory = worker.memory.process
    value = {"seconds": round(took if there else seconds, 2), "memory": memory}
    return Finding(step="load", text=f"{words} Its process takes {amount(memory)}.", value=value)


def _facts(model: LocalModel, found: Capabilities, worker: Worker) -> dict[str, str]:
    """Blocks."""
    assert worker.ready is not None
    info = worker.ready.info
    about = (
        info.architecture,
        info.dtype,
        f"{info.parameters / 1e6:,.1f} million parameters",
        amount(model.bytes),
    )
    return {
        "Model": ", ".join(filter(None, about)),
        "Revision": Path(model.path).name if model.source == "hub cache" else "",
        "Can do": ", ".join(found.kinds),
        **machine(worker.ready.device),
    }
