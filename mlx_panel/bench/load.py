"""The load on a server: callers in a closed loop, or arrivals of a Poisson process or of the past, on one asyncio loop."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
from tokenizers import Tokenizer

from .figures import percentile, summarise, warnings
from .mimic import planned
from .prompts import Ask, warmups
from .records import Run, Workload
from .trace import Trace
from .urls import ServerSide
from .wire import PastFile, Tell

TICK = 0.02
TICKS_PER_REPORT = 10
AFTER_FAILURE = 0.05


def salted(workload: Workload) -> Workload:
    """A workload whose prompts no server has seen."""
    return workload if workload.salt else msgspec.structs.replace(workload, salt=secrets.token_hex(4))


class Load:
    """One run against one server."""

    def __init__(
        self,
        side: ServerSide,
        workload: Workload,
        tokenizer: Tokenizer | None,
        tell: Tell,
        past: PastFile | None = None,
    ):
        self._side, self._workload, self._tokenizer, self._tell = side, salted(workload), tokenizer, tell
        self._past = past
        self._traces: list[Trace] = []
        self._late: list[float] = []
        self._sent_late: list[float] = []
        self._began = 0.0

    def __repr__(self) -> str:
        return f"<Load {self._workload.label}, {len(self._traces)} requests>"

    async def run(self) -> Run:
        """Warm up, measure, sum up. Raises BenchmarkError when the server refuses such requests altogether."""
        workload = self._workload
        await self._side.prepare(workload)
        await self._closed(iter(warmups(workload, self._tokenizer)))
        self._traces.clear()
        started, self._began = datetime.now(UTC), time.perf_counter()
        busy = time.process_time()
        ticking = asyncio.create_task(self._tick())
        asks = planned(workload, self._tokenizer, self._past)
        try:
            await (self._open(asks) if workload.open_loop else self._closed(self._timed(asks)))
        finally:
            ticking.cancel()
        seconds = max((trace.ended for trace in self._traces), default=self._began) - self._began
        return self._sum(started, seconds, (time.process_time() - busy) / seconds if seconds else 0.0)

    async def _closed(self, planned: Iterator[Ask]) -> None:
        """So many callers; each takes the next request when its last is answered."""

        async def caller() -> None:
            for ask in planned:
                if not await self._one(ask):
                    await asyncio.sleep(AFTER_FAILURE)  # a server that refuses at once is not to be stormed

        async with asyncio.TaskGroup() as group:
            for _ in range(self._workload.concurrency):
                group.create_task(caller())

    async def _open(self, planned: Iterator[Ask]) -> None:
        """Requests when they are due, whether or not others are answered."""
        async with asyncio.TaskGroup() as group:
            # A long prompt takes milliseconds to make, which no answer under way should wait for.
            while (ask := await asyncio.to_thread(next, planned, None)) is not None:
                if self._workload.duration and ask.due >= self._workload.duration:
                    break
                await asyncio.sleep(max(0.0, self._began + ask.due - time.perf_counter()))
                self._sent_late.append(time.perf_counter() - self._began - ask.due)
                group.create_task(self._one(ask))

    def _timed(self, planned: Iterator[Ask]) -> Iterator[Ask]:
        limit = self._workload.duration
        for ask in planned:
            if limit and time.perf_counter() - self._began >= limit:
                return
            yield ask

    async def _one(self, ask: Ask) -> bool:
        trace = Trace(ask.number, time.perf_counter())
        self._traces.append(trace)
        try:
            async with asyncio.timeout(self._workload.timeout or None):
                await self._side.ask(ask, trace, self._workload)
        except TimeoutError:
            trace.fail("timeout")
        except OSError as error:
            trace.fail(_code(error), str(error))
        if trace.ended <= trace.sent:
            trace.ended = time.perf_counter()
        return trace.status != "error"

    async def _tick(self) -> None:
        """Measure how late this loop runs, and tell now and then how far the run is."""
        for turn in range(1 << 62):
            due = time.perf_counter() + TICK
            await asyncio.sleep(TICK)
            self._late.append(time.perf_counter() - due)
            if turn % TICKS_PER_REPORT == 0:
                self._report()

    def _report(self) -> None:
        workload, tokens = self._workload, sum(trace.tokens for trace in self._traces)
        if workload.duration:
            self._tell(time.perf_counter() - self._began, workload.duration, tokens)
        else:
            done = sum(trace.ended > trace.sent for trace in self._traces)
            self._tell(done, workload.total, tokens)

    def _sum(self, started: datetime, seconds: float, cpu: float) -> Run:
        workload = self._workload
        rows = tuple(trace.row(self._began) for trace in sorted(self._traces, key=lambda one: one.number))
        gaps = [gap for trace in self._traces for gap in trace.gaps()]
        lag, late = _p99(self._late), _p99(self._sent_late)
        summary = summarise(rows, gaps, seconds, workload, lag=lag, cpu=cpu, late=late)
        return Run(
            workload=workload, started=started, summary=summary, rows=rows,
            warnings=warnings(summary, workload), ignore_eos=self._side.ignore_eos,
        )  # fmt: skip

    def messages(self) -> list[str]:
        """What servers said of failed requests, each once. For a person; never stored."""
        return list(dict.fromkeys(trace.message for trace in self._traces if trace.message))


def _p99(seconds: list[float]) -> float:
    """In milliseconds; 0 of nothing."""
    return percentile(sorted(seconds), 0.99) * 1000 if seconds else 0.0


def _code(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection_refused"
    return "connection_lost" if isinstance(error, ConnectionError) else "network"
