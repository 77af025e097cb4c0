"""The load on an engine in this process, without HTTP or a worker in between; only
`engine_process.py` imports this, and with it mlx."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..engine.engine import Engine
from ..engine.fake import FakeEngine, is_fake
from ..errors import MlxPanelError
from ..messages import Cancelled, Done, Event, Failed, GenerateRequest, Message, Sampling, Text
from ..tuning import EngineOptions
from .figures import summarise, warnings
from .identity import fingerprint
from .load import salted
from .mimic import planned
from .prompts import Ask, Like, open_tokenizer, warmups
from .records import BenchmarkError, Run, TargetInfo, Workload
from .trace import Trace
from .wire import Job, Measured, Tell

REPORT_EVERY = 0.2
TOO_OLD_EVERY = 1.0


class EngineSide:
    """An engine and what it says of itself."""

    def __init__(self, job: Job):
        self._target = job.target
        folder = Path(job.target.engine).expanduser()
        has_tokenizer = (folder / "tokenizer.json").is_file()
        self._tokenizer = open_tokenizer(job.target.tokenizer or (str(folder) if has_tokenizer else ""))
        self._engine: Any = None
        self._past = job.past

    def __repr__(self) -> str:
        return f"<EngineSide {self._engine or 'closed'}>"

    def open(self) -> TargetInfo:
        """Load the model. Raises BenchmarkError with the reason it cannot be."""
        folder = Path(self._target.engine).expanduser()
        try:
            self._engine = _load(folder, self._target.options)
        except (MlxPanelError, OSError, ValueError, KeyError, TypeError) as error:
            raise BenchmarkError(f"{folder} cannot be loaded: {error or type(error).__name__}") from error
        engine, what = self._engine, fingerprint(str(folder))
        return TargetInfo(
            name=self._target.name or f"engine {folder.name}", kind="engine", model=folder.name, model_hash=what.hash,
            architecture=engine.info.architecture, dtype=engine.info.dtype, device=engine.device,
            blas=engine.blas.name, versions=dict(engine.versions), options=_changed(self._target.options),
        )  # fmt: skip

    def measure(self, workload: Workload, tell: Tell) -> Measured:
        """Warm up, measure, sum up."""
        workload = salted(workload)
        warm = EngineLoad(self._engine, workload, lambda done, total, tokens: None)
        warm.run(iter(warmups(workload, self._tokenizer)))
        load = EngineLoad(self._engine, workload, tell)
        started = datetime.now(UTC)
        seconds = load.run(planned(workload, self._tokenizer, self._past))
        rows = tuple(trace.row(load.began) for trace in load.traces)
        gaps = [gap for trace in load.traces for gap in trace.gaps()]
        summary = summarise(rows, gaps, seconds, workload)
        notes = warnings(summary, workload)
        run = Run(workload=workload, started=started, summary=summary, rows=rows, warnings=notes)
        return Measured(run, load.messages())

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close(last=True)
            self._engine = None


class EngineLoad:
    """One run: requests go in between two steps, as a server's would."""

    def __init__(self, engine: Any, workload: Workload, tell: Tell):
        self._engine, self._workload, self._tell = engine, workload, tell
        self._running: dict[str, tuple[Ask, Trace]] = {}
        self._told = self._looked = 0.0
        self.traces: list[Trace] = []
        self.began = 0.0

    def __repr__(self) -> str:
        return f"<EngineLoad {self._workload.label}, {len(self._running)} running>"

    def run(self, planned: Iterator[Ask]) -> float:
        """Answer what is planned; the seconds from the first request to the last answer's end."""
        self.began = time.perf_counter()
        ask = self._next(planned)
        while ask or self._running:
            while ask and self._due(ask):
                self._add(ask)
                ask = self._next(planned)
            if self._running:
                events = self._engine.step()
                self._take(events, time.perf_counter())
            elif ask:
                time.sleep(max(0.0, self.began + ask.due - time.perf_counter()))
        while self._engine.busy:
            self._engine.step()
        return max((trace.ended for trace in self.traces), default=self.began) - self.began

    def _next(self, planned: Iterator[Ask]) -> Ask | None:
        limit = self._workload.duration
        ask = next(planned, None)
        passed = time.perf_counter() - self.began
        return None if ask and limit and max(passed, ask.due) >= limit else ask

    def _due(self, ask: Ask) -> bool:
        if self._workload.open_loop:
            return time.perf_counter() - self.began >= ask.due
        return len(self._running) < self._workload.concurrency

    def _add(self, ask: Ask) -> None:
        # It came when it was due, and waited for the step that ran: a closed loop's comes when a place is free.
        came = self.began + ask.due if self._workload.open_loop else time.perf_counter()
        trace = Trace(ask.number, came)
        self.traces.append(trace)
        request = _request(ask, self._workload)
        try:
            self._engine.add(request)
        except MlxPanelError as error:
            trace.fail(error.code, str(error))
            trace.ended = time.perf_counter()
        else:
            self._running[request.id] = (ask, trace)

    def _take(self, events: list[Event], now: float) -> None:
        for event in events:
            if not isinstance(event, Text | Done | Failed | Cancelled) or event.id not in self._running:
                continue
            ask, trace = self._running[event.id]
            if isinstance(event, Text):
                self._heard(ask, trace, event, now)
            else:
                del self._running[event.id]
                _end(trace, event, now)
        if now - self._looked > TOO_OLD_EVERY:
            self._looked = now
            self._drop_old(now)
        if now - self._told > REPORT_EVERY:
            self._told = now
            self._report(now)

    def _heard(self, ask: Ask, trace: Trace, event: Text, now: float) -> None:
        trace.hear(now)
        if ask.leave_after is not None and trace.chunks >= ask.leave_after:
            trace.status, trace.ended = "cancelled", now
            self._leave(event.id)

    def _drop_old(self, now: float) -> None:
        limit = self._workload.timeout
        old = [id for id, (_, trace) in self._running.items() if limit and now - trace.sent > limit]
        for id in old:
            self._running[id][1].fail("timeout")
            self._running[id][1].ended = now
            self._leave(id)

    def _leave(self, id: str) -> None:
        del self._running[id]
        self._engine.cancel(id)

    def _report(self, now: float) -> None:
        workload, tokens = self._workload, sum(trace.tokens for trace in self.traces)
        if workload.duration:
            self._tell(now - self.began, workload.duration, tokens)
        else:
            self._tell(len(self.traces) - len(self._running), workload.total, tokens)

    def messages(self) -> list[str]:
        return list(dict.fromkeys(trace.message for trace in self.traces if trace.message))


def _end(trace: Trace, event: Done | Failed | Cancelled, now: float) -> None:
    trace.ended = now
    trace.prompt_tokens, trace.cached_tokens = event.usage.prompt_tokens, event.usage.cached_tokens
    trace.completion_tokens = event.usage.completion_tokens
    if isinstance(event, Done):
        trace.finish_reason = event.finish_reason
    else:
        trace.fail(event.code if isinstance(event, Failed) else "cancelled")


def _request(ask: Ask, workload: Workload) -> GenerateRequest:
    if ask.like is not None:
        return _again(ask, ask.like)
    chat = workload.endpoint == "chat"
    return GenerateRequest(
        id=f"bench-{ask.number}",
        model="bench",
        messages=(Message("user", ask.prompt),) if chat else None,
        prompt=None if chat else ask.prompt,
        sampling=Sampling(temperature=workload.temperature, top_p=workload.top_p),
        max_tokens=workload.output_tokens,
    )


def _again(ask: Ask, like: Like) -> GenerateRequest:
    """A request of the past."""
    given: dict[str, Any] = {"temperature": like.temperature, "top_p": like.top_p, "top_k": like.top_k}
    return GenerateRequest(
        id=f"bench-{ask.number}",
        model="bench",
        prompt=ask.prompt,
        sampling=Sampling(**{name: value for name, value in given.items() if value is not None}),
        max_tokens=like.output_tokens,
        ignore_eos=True,
    )


def _load(folder: Path, options: EngineOptions) -> Any:
    return (FakeEngine if is_fake(folder) else Engine).load(folder, options=options)


def _changed(options: EngineOptions) -> dict[str, Any]:
    """The options that are not the usual ones."""
    usual = EngineOptions()
    names = EngineOptions.__struct_fields__
    return {name: getattr(options, name) for name in names if getattr(options, name) != getattr(usual, name)}
