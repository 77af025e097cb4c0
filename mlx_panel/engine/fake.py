"""An engine without a model: it says a text it was given, and stalls, fails or dies when it is told to.

For trying clients, and failures, without a model and without mlx. A folder with a `fake.json` and no `config.json` is
listed and loaded like any model; the file holds the fields of `FakeSpec`.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from .. import __version__
from ..errors import Conflict, EmptyPrompt, GenerationFailed, ModelLoadFailed
from ..footprint import footprint
from ..messages import (
    Beat,
    Blas,
    Cancelled,
    Echo,
    Event,
    Failed,
    FinishReason,
    GenerateRequest,
    Memory,
    ModelInfo,
    Origin,
    Stage,
    TokenLogprob,
    Trace,
)
from ..parse import detect, reasoning
from ..parse.answer import answer
from ..parse.pieces import Parser
from ..tuning import CacheFigures, CacheReport, CacheTier, EngineOptions
from .phases import Phases
from .prompt import Prompt, fit
from .row import Row, Tally
from .timeline import NOWHERE

FILE = "fake.json"
SHORTEST_STEP = 0.01
LOAD_STEPS = 10


class FakeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a fake model does. Tokens are words, counted for each request by itself; times are seconds.

    - `text`: the answer to everything; it ends with finish reason "stop". `repeat` says it that many times.
    - `load_seconds`: how long loading takes. `fail_load`: loading fails with these words.
    - `prefill_seconds`: until a request's first token. `step_seconds`: how long each step takes.
    - `stall_after`: after so many tokens a request gets no more, while the worker goes on and its pulse beats.
    - `hang_after`: after so many tokens the worker does nothing any more, like a hung kernel: no pulse, and only
      SIGKILL ends it.
    - `fail_after`: after so many tokens the request fails alone.
    - `die_after`: after so many tokens the process dies: by `die_by` "kill" (SIGKILL to itself), "exit"
      (`os._exit(1)`) or "abort" (SIGABRT, as an uncatchable Metal error does).
    - `cached`: so many tokens of every prompt but the first are said to come from the prefix cache, where the options
      have one; what the cache did is reported. Without it nothing is.
    - `reasoning` and `tools`: styles and dialects by name, in which `text` may reason and call tools. Calls are told as
      they come with `eager`, else when they are complete.
    - `context_length`: prompt and answer together. `weights_bytes`: what it claims to hold in memory.
    - `chat_template`: what it claims to have.
    - `careless`: it prints what it is asked, which goes into the workers' log. No engine may: it is for trying whether the
      privacy proof notices.
    """

    text: str = "The quick brown fox jumps over the lazy dog."
    repeat: int = 1
    load_seconds: float = 0.0
    fail_load: str = ""
    prefill_seconds: float = 0.0
    step_seconds: float = 0.0
    stall_after: int | None = None
    hang_after: int | None = None
    fail_after: int | None = None
    die_after: int | None = None
    die_by: Literal["kill", "exit", "abort"] = "kill"
    cached: int | None = None
    reasoning: str = ""
    tools: str = ""
    eager: bool = False
    context_length: int = 4096
    weights_bytes: int = 0
    chat_template: bool = True
    careless: bool = False


class _Words:
    """A fake vocabulary: the answer's words, each with the space before it, numbered as they come."""

    def __init__(self, text: str):
        self.words = re.findall(r"\s*\S+|\s+$", text)

    def add(self, token: int) -> str:
        return self.words[token]

    def flush(self) -> str:
        return ""


class FakeEngine:
    """The interface of `Engine` around a `FakeSpec`. Of its options `max_batch`, `prefix_cache_mb` and
    `context_length` have an effect."""

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        options: EngineOptions | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> FakeEngine:
        """Read `path/fake.json`. Raises FileNotFoundError, msgspec.ValidationError, or what the file asks for.

        `progress` is told of weights as if there were some.
        """
        spec = msgspec.json.decode((Path(path) / FILE).read_bytes(), type=FakeSpec)
        return cls(spec, options=options, progress=progress)

    def __init__(
        self,
        spec: FakeSpec | None = None,
        *,
        options: EngineOptions | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ):
        self.spec = spec or FakeSpec()
        self._arrive(progress or (lambda stage, done, total: None))
        if self.spec.fail_load:
            raise ModelLoadFailed(self.spec.fail_load)
        self.options = options or EngineOptions()
        self.device, self.blas = "none", Blas("none")
        self.versions = {"mlx-panel": __version__}
        self.steps = self.prompt_tokens = self.completion_tokens = 0
        self._vocabulary = _Words(" ".join([self.spec.text] * self.spec.repeat))
        self._rows: list[Row] = []
        self._due: dict[str, float] = {}
        self._untold: list[Event] = []
        self._phases = Phases()
        self._traces: list[Trace] = []
        self._knows = False
        self._figures = CacheFigures()
        self.info = self._describe()

    def __repr__(self) -> str:
        return f"<FakeEngine {len(self.ids)} requests>"

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.id for row in self._rows))

    @property
    def busy(self) -> bool:
        return bool(self._rows or self._untold)

    def add(self, request: GenerateRequest, origin: Origin = NOWHERE) -> None:
        taken = self._phases.now()
        if request.id in self.ids:
            raise Conflict("A request with this id is running.")
        field = "prompt" if request.messages is None else "messages"
        words = _words(request)
        if not words:
            raise EmptyPrompt(field=field)
        if self.spec.careless:
            print(*words, file=sys.stderr, flush=True)
        limit = self.spec.context_length
        room = fit(len(words), request, min(limit, self.options.context_length or limit), field)
        self._phases.began(request.id, taken, origin)
        tally = Tally(request.n)
        for index in range(request.n):
            prompt = Prompt([0] * len(words), room)
            parser = self._parser(request)
            self._rows.append(Row(request, prompt, self._vocabulary, parser, index=index, tally=tally))
        if len(self._rows) > self.options.max_batch:
            self._untold.append(Stage(request.id, "queued", total=len(words)))

    def cancel(self, id: str) -> bool:
        rows = self._forget(id)
        if rows:
            self._untold.append(Cancelled(id, rows[0].usage()))
        return bool(rows)

    def step(self) -> list[Event]:
        events, self._untold = self._untold, []
        rows = self._rows[: self.options.max_batch]
        self.steps += bool(rows)
        for row in rows:
            events += self._move(row) if row in self._rows else []
        if rows:  # a step without an event (a stall) must not spin
            time.sleep(self.spec.step_seconds if events else max(self.spec.step_seconds, SHORTEST_STEP))
        self._traces = self._phases.ended(events)
        return events

    def traces(self) -> list[Trace]:
        return self._traces

    def tune(self, options: EngineOptions) -> None:
        self.options = self.options.tuned(options)

    def forget(self) -> None:
        self._knows = False

    def generate(self, request: GenerateRequest) -> Iterator[Event]:
        self.add(request)
        while self.busy:
            yield from self.step()

    def memory(self) -> Memory:
        weights = self.spec.weights_bytes
        return Memory(weights, weights, 0, footprint(os.getpid()) + weights)

    def beat(self) -> Beat:
        running = min(len(self._rows), self.options.max_batch)
        queued = len(self._rows) - running
        return Beat(
            running,
            queued,
            self.steps,
            self.prompt_tokens,
            self.completion_tokens,
            self.memory(),
            self._cache(),
            self.options.memory_limit,
        )

    def close(self, *, last: bool = False) -> None:
        self._rows.clear()
        self._untold.clear()

    def _arrive(self, progress: Callable[[str, int, int], None]) -> None:
        """Take as long to load as it should, telling of it in ten steps."""
        total = self.spec.weights_bytes or LOAD_STEPS
        for step in range(LOAD_STEPS + 1):
            progress("weights", total * step // LOAD_STEPS, total)
            time.sleep(self.spec.load_seconds / (LOAD_STEPS + 1))
        progress("warming", 0, 0)

    def _move(self, row: Row) -> list[Event]:
        if not row.prefilled:
            return self._prefill(row)
        if time.monotonic() < self._due[row.id] or self._reached(row, self.spec.stall_after):
            return []
        if self._reached(row, self.spec.fail_after):
            self._forget(row.id)
            return [Failed(row.id, GenerationFailed.code, row.usage())]
        self._end_process(row)
        self._phases.turned(row.id, "decode")
        return self._say(row)

    def _prefill(self, row: Row) -> list[Event]:
        total = len(row.prompt.tokens)
        self._due[row.id] = time.monotonic() + self.spec.prefill_seconds
        self.prompt_tokens += total
        self._phases.turned(row.id, "prefill", total if row.index == 0 else 0)
        events: list[Event] = [] if self.spec.cached is None else [self._recall(row, total)]
        row.position = total - 1
        events.append(row.prefill())
        if row.request.echo and row.index == 0:
            events.append(Echo(row.id, row.request.prompt or ""))
        return events if row.room else [*events, self._end(row)]

    def _end(self, row: Row) -> Event:
        self._rows.remove(row)
        return row.done("length")

    def _recall(self, row: Row, total: int) -> CacheReport:
        if not self.options.prefix_cache_mb or row.request.deterministic:
            return CacheReport(row.id, total)
        known, self._knows = self._knows, True
        cached = min(self.spec.cached or 0, total - 1) if known else 0
        row.restored([], cached)
        self._count(total, cached)
        tier: CacheTier = "memory" if cached else "none"
        if not known or cached == total - 1:
            return CacheReport(row.id, total, cached, tier, "hit" if known else "first")
        return CacheReport(row.id, total, cached, tier, "changed", cached, *_place(row.request, cached))

    def _count(self, asked: int, cached: int) -> None:
        told = self._figures
        self._figures = msgspec.structs.replace(
            told,
            lookups=told.lookups + 1,
            hits=told.hits + bool(cached),
            tokens_asked=told.tokens_asked + asked,
            tokens_cached=told.tokens_cached + cached,
        )

    def _cache(self) -> CacheFigures:
        options = self.options
        return msgspec.structs.replace(
            self._figures,
            kv_dtype=f"{options.kv_bits}-bit (group {options.kv_group_size})" if options.kv_bits else "none",
            budget=options.prefix_cache_mb << 20,
            disk_budget=options.prefix_disk_mb << 20 if options.prefix_disk else 0,
            blocks=int(self._knows),
        )

    def _say(self, row: Row) -> list[Event]:
        at = len(row.answer) + 1
        last: FinishReason | None = "length" if at == row.prompt.max_tokens else None
        # Like a real model's end-of-sequence token, the one after the last word is counted and has no text.
        finish: FinishReason | None = "stop" if at > len(self._vocabulary.words) else last
        self.completion_tokens += 1
        events = row.take(at - 1, finish, self._logprob(row, at - 1))
        if row.ended:
            self._rows.remove(row)
        return events

    def _logprob(self, row: Row, token: int) -> TokenLogprob | None:
        """What each word is said with: a half, and the words after it with less."""
        if row.request.logprobs is None or token >= len(self._vocabulary.words):
            return None
        words = [word.encode() for word in self._vocabulary.words]
        likely = range(token, min(token + row.request.logprobs, len(words)))
        top = tuple(TokenLogprob(one, words[one], -0.5 - one + token) for one in likely)
        return TokenLogprob(token, words[token], -0.5, top)

    def _parser(self, request: GenerateRequest) -> Parser:
        style = reasoning.STYLES.get(request.reasoning_style or self.spec.reasoning)
        return answer(
            style=style if request.messages is not None else None,
            opened=False,
            dialect=detect.BY_NAME.get(request.tool_dialect or self.spec.tools) if request.tools else None,
            tools=request.tools,
            eager=self.spec.eager,
        )

    def _reached(self, row: Row, limit: int | None) -> bool:
        return limit is not None and len(row.answer) >= limit

    def _end_process(self, row: Row) -> None:
        if self._reached(row, self.spec.hang_after):
            while True:
                time.sleep(3600)
        if self._reached(row, self.spec.die_after):
            # What was said so far leaves the process first: sending happens in a thread of ZeroMQ's.
            time.sleep(0.05)
            _die(self.spec.die_by)

    def _forget(self, id: str) -> list[Row]:
        self._due.pop(id, None)
        rows = [row for row in self._rows if row.id == id]
        self._rows = [row for row in self._rows if row.id != id]
        return rows

    def _describe(self) -> ModelInfo:
        return ModelInfo(
            architecture="fake",
            context_length=self.spec.context_length,
            vocab_size=len(self._vocabulary.words),
            parameters=0,
            weights_bytes=self.spec.weights_bytes,
            dtype="none",
            layers=0,
            chat_template=self.spec.chat_template,
            reasoning=self.spec.reasoning,
            tools=self.spec.tools,
            template_variables=("enable_thinking",) if self.spec.reasoning else (),
        )


def is_fake(path: str | Path) -> bool:
    """Whether a folder holds a fake model and no real one."""
    folder = Path(path)
    return (folder / FILE).is_file() and not (folder / "config.json").exists()


def _words(request: GenerateRequest) -> list[str]:
    if request.tokens is not None:
        return [""] * len(request.tokens)
    texts = [request.prompt] if request.messages is None else [turn.content for turn in request.messages]
    return [word for text in texts for word in (text or "").split()]


def _place(request: GenerateRequest, word: int) -> tuple[int | None, str | None]:
    """Which message the word of that number is in, and its role."""
    for number, message in enumerate(request.messages or ()):
        word -= len((message.content or "").split())
        if word < 0:
            return number, message.role
    return None, None


def _die(by: str) -> None:
    if by == "exit":
        os._exit(1)
    os.kill(os.getpid(), signal.SIGABRT if by == "abort" else signal.SIGKILL)
