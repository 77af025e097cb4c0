"""The pool as a person sees it: slots into the structs that are watched."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from ..library import Verdict
from ..messages import LocalModel
from ..sizing import Measured, Size
from ..snapshot import ModelState
from .process import Worker
from .slot import Slot

PULSE = 2.0  # seconds in which a worker that lives says something


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the pool knows of a model beside its slot."""

    needed: bool = False
    pinned: bool = False
    ttl: float = 0.0
    size: Size | None = None
    expected: int = 0
    measured: Measured | None = None
    verdict: Verdict = "unknown"
    evicts: tuple[str, ...] = ()
    heartbeat: float = 5.0


def state(model: LocalModel, slot: Slot | None, known: Known) -> ModelState:
    """A model in the words of the dashboard."""
    found = ModelState(
        id=model.id, state="available", architecture=model.architecture, dtype=model.dtype,
        context_length=model.context_length, disk=model.bytes, needed=known.needed, kind=model.kind,
        pinned=known.pinned, ttl=known.ttl, size=known.size, expected=known.expected, measured=known.measured,
        verdict=known.verdict, evicts=known.evicts,
    )  # fmt: skip
    if slot is None:
        return found
    loading = slot.progress() if slot.state in ("loading", "failed") or slot.waiters else None
    found = msgspec.structs.replace(
        found, state=slot.state, restarts=slot.restarts, reason=slot.reason, leases=slot.leases, waiting=len(slot.waiters),
        idle=time.monotonic() - slot.used if slot.alive and not slot.leases else None, loading=loading,
        log=slot.log if slot.reason else (),
    )  # fmt: skip
    return msgspec.structs.replace(found, **_figures(slot.worker, known))


def _figures(worker: Worker | None, known: Known) -> dict[str, Any]:
    if worker is None or worker.ready is None or worker.exited.is_set():
        return {}
    beat, info = worker.beat, worker.ready.info
    return {
        "pid": worker.pid, "uptime": time.monotonic() - worker.started, "running": beat.running, "queued": beat.queued,
        "memory": worker.memory.process, "parameters": info.parameters, "cpu": worker.seen.cpu if worker.seen else None,
        "context_length": info.context_length, "pending": worker.pending, "cache": beat.cache,
        "kind": info.kind, "reasoning": info.reasoning, "tools": info.tools, "dtype": worker.model.dtype or info.dtype,
        "responsive": time.monotonic() - worker.heard <= known.heartbeat and not _halted(worker),
    }  # fmt: skip


def _halted(worker: Worker) -> bool:
    """Whether the process was stopped from outside (SIGSTOP) when it was last looked at, and has said nothing since."""
    return (
        worker.seen is not None
        and worker.seen.status == "stopped"
        and time.monotonic() - worker.heard > PULSE
    )
