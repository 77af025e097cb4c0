"""What a benchmark is told, and what it finds: frozen msgspec structs, nothing that acts. None holds any text of a model.

Terms, as vLLM's `bench serve` and NVIDIA's AIPerf use them:

- TTFT, time to first token: from sending a request to the first piece of its answer that has content.
- ITL, inter-token latency: the gap between one arrival of content and the next. Pieces that arrive together are one
  arrival, so a server that sends several tokens at once shows the pause a reader sees.
- TPOT, time per output token: (last arrival - first arrival) / (tokens - 1), one figure a request.
- E2E, end-to-end latency: from sending a request to the end of its answer.
- Tokens per second: the tokens of all answers over the time from the first request sent to the last answer's end.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from ..errors import MlxPanelError
from ..tuning import EngineOptions

Endpoint = Literal["chat", "completions"]
RowStatus = Literal["success", "error", "cancelled"]
Kind = Literal["run", "sweep", "compare", "replay"]
CountedBy = Literal["usage", "chunks", "both", "none"]
Better = Literal["higher", "lower"]

FORMAT = 1
FEWEST_REQUESTS = 8

Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Number = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class BenchmarkError(MlxPanelError):
    """A benchmark that cannot be run or read: a server that is not there, a file that is none of ours."""

    code, title = "benchmark_failed", "Benchmark Failed"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured: an OpenAI-compatible server (`url`) or a model folder (`engine`) in a process of its own.

    `model` may be empty where a server has one model. `name` is how tables call it. `tokenizer` is a model folder on
    this machine: prompts then have exactly as many tokens as asked for, and the result knows the model's hash.
    """

    url: str = ""
    engine: str = ""
    model: str = ""
    name: str = ""
    tokenizer: str = ""
    options: EngineOptions = EngineOptions()


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of the past that are asked again, in the same order and with the same gaps.

    The `requests` took `seconds` to arrive, and are asked in that time over `speed`; gaps of more than `max_gap` seconds
    (0: none) were cut to that first. `shared` is the share of the prompts' tokens in blocks that an earlier request of
    them had too, which is what a cache without limits could give back. `models` are those asked for. `digest` tells
    one past from another; `source` says where it came from.
    """

    requests: Count
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    speed: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] = 1.0
    max_gap: Seconds = 0.0
    shared: Fraction = 0.0
    models: tuple[str, ...] = ()
    digest: str = ""
    source: str = ""

    @property
    def past(self) -> tuple[str, float, float]:
        """What is asked, and when; whoever is asked."""
        return self.digest, self.speed, self.max_gap

    @property
    def label(self) -> str:
        how = f" at {self.speed:g}×" if self.speed != 1 else ""
        cut = f", gaps ≤ {self.max_gap:g} s" if self.max_gap else ""
        return f"replay of {self.requests} requests in {self.seconds / self.speed:,.0f} s{how}{cut}"


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks what, and how often.

    `concurrency` callers ask again as soon as they are answered (closed loop). With `rate`, requests per second,
    arrivals are those of a Poisson process and `concurrency` does not limit them. A run ends after `requests`
    requests (0: twice as many as callers, at least 8), or with `duration` after so many seconds.

    `prompt_tokens` is the length of the prompt's text without the chat template. A `shared_prefix` share of it is the
    same in all requests of a run, the rest is in none before. `output_tokens` is `max_tokens`; with `ignore_eos` a
    server that can is told not to end earlier. With `replay` all this is as it was in the past, and these numbers are its
    means (`concurrency`: the most that ran at once). `cancel` is the share of requests whose caller leaves after
    `cancel_after` pieces. `warmup` requests come first and are not counted. `salt` begins every prompt, so that no
    server has seen it; empty means a fresh one for each run.
    """

    endpoint: Endpoint = "chat"
    concurrency: Count = 1
    requests: Number = 0
    duration: Seconds = 0.0
    prompt_tokens: Count = 128
    output_tokens: Count = 64
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] = 0.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    shared_prefix: Fraction = 0.0
    cancel: Fraction = 0.0
    cancel_after: Count = 8
    rate: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 0.0
    warmup: Number = 2
    seed: int = 0
    salt: str = ""
    timeout: Seconds = 600.0
    ignore_eos: bool = True
    replay: Replay | None = None

    @property
    def total(self) -> int:
        """How many requests are counted; 0 where the time decides."""
        if self.replay is not None:
            return self.replay.requests
        return 0 if self.duration else self.requests or max(FEWEST_REQUESTS, 2 * self.concurrency)

    @property
    def open_loop(self) -> bool:
        """Whether requests come when they are due, whether or not others are answered."""
        return bool(self.rate) or self.replay is not None

    @property
    def label(self) -> str:
        """Short, for a table: `8 × 128→64 greedy`."""
        if self.replay is not None:
            return self.replay.label
        who = f"{self.rate:g}/s" if self.rate else f"{self.concurrency} ×"
        parts = [who, f"{self.prompt_tokens}→{self.output_tokens}", self.sampling]
        parts += [f"{self.shared_prefix:.0%} shared"] if self.shared_prefix else []
        parts += [f"{self.cancel:.0%} cancelled"] if self.cancel else []
        parts += [self.endpoint] if self.endpoint != "chat" else []
        return " ".join(parts)

    @property
    def sampling(self) -> str:
        return f"t={self.temperature:g} p={self.top_p:g}" if self.temperature else "greedy"

    def same_as(self, other: Workload) -> bool:
        """Whether two measurements may be compared: all but seed, salt and length of the run is equal."""
        free = {
            "seed": 0,
            "salt": "",
            "requests": 0,
            "duration": 0.0,
            "warmup": 0,
            "timeout": 0.0,
            "replay": None,
        }
        alike = msgspec.structs.replace(self, **free) == msgspec.structs.replace(other, **free)
        pasts = [one.replay.past if one.replay is not None else None for one in (self, other)]
        return alike and pasts[0] == pasts[1]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A target and what to ask of it, in this order."""

    target: Target
    workloads: tuple[Workload, ...]


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request. Times are milliseconds, `start` since the run began; None where there was nothing to measure.

    `chunks` are pieces with content, `arrivals` the reads that brought them. `tokens_counted_by` says whether the
    server's usage or the pieces were counted. `error` is a code, never a message.
    """

    number: int
    start: float
    status: RowStatus
    http_status: int = 0
    error: str = ""
    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None
    itl_max: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    chunks: int = 0
    arrivals: int = 0
    finish_reason: str = ""
    tokens_counted_by: CountedBy = "none"


class Spread(msgspec.Struct, frozen=True):
    """How a measure of `n` values in milliseconds is spread; percentiles interpolate linearly, as numpy's do."""

    n: int = 0
    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A run in figures. Rates are per second of `seconds`; spreads are milliseconds.

    `stopped_early` answers had fewer tokens than asked for. `client_lag_p99` is how late the client's own loop ran,
    `client_cpu` its share of one core; both 0 for an engine without a client. `sent_late_p99` is how late requests of an
    open loop were sent, milliseconds.
    """

    requests: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    seconds: float = 0.0
    requests_per_second: float = 0.0
    tokens_per_second: float = 0.0
    prompt_tokens_per_second: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    tokens_per_chunk: float = 0.0
    tokens_counted_by: CountedBy = "none"
    stopped_early: int = 0
    ttft: Spread = Spread()
    itl: Spread = Spread()
    tpot: Spread = Spread()
    e2e: Spread = Spread()
    errors: dict[str, int] = {}
    client_lag_p99: float = 0.0
    client_cpu: float = 0.0
    sent_late_p99: float = 0.0


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One workload, measured once. `target` is the place of what was measured in the result's targets.

    `ignore_eos` is "taken", "ignored" or "refused" by the server, or "not sent".
    """

    workload: Workload
    started: datetime
    summary: Summary
    rows: tuple[Row, ...] = ()
    warnings: tuple[str, ...] = ()
    ignore_eos: str = "not sent"
    target: int = 0
    round: int = 0


class TargetInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, as it described itself. `model_hash` is empty where the model's folder is not known. Of kind
    "recorded" is the past that a replay is compared with."""

    name: str
    kind: Literal["url", "engine", "recorded"]
    url: str = ""
    model: str = ""
    model_hash: str = ""
    architecture: str = ""
    dtype: str = ""
    device: str = ""
    blas: str = ""
    server: str = ""
    versions: dict[str, str] = {}
    options: dict[str, Any] = {}


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where the benchmark ran; a server may run elsewhere. `memory` is bytes."""

    cpu: str = ""
    cores: int = 0
    memory: int = 0
    system: str = ""
    python: str = ""
    load: float = 0.0


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """A over B for one figure of one workload.

    `median`, `low` and `high` are those of the rounds' ratios; `sure_low` to `sure_high` is a 95 % interval of the
    median (percentile bootstrap over rounds), None with fewer than five rounds.
    """

    workload: str
    metric: str
    better: Better
    a: float
    b: float
    median: float
    low: float
    high: float
    rounds: int
    sure_low: float | None = None
    sure_high: float | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A stored file. `command` is the command line without keys; `complete` is False where it was interrupted."""

    id: str
    kind: Kind
    created: datetime
    command: str = ""
    machine: Machine = Machine()
    versions: dict[str, str] = {}
    targets: tuple[TargetInfo, ...] = ()
    runs: tuple[Run, ...] = ()
    ratios: tuple[Ratio, ...] = ()
    complete: bool = False
    format: int = FORMAT

    @property
    def measured(self) -> tuple[Run, ...]:
        """Its runs but the past that a replay is compared with."""
        return tuple(run for run in self.runs if self.targets[run.target].kind != "recorded")


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a benchmark is: `step` of `steps` runs are done, of the present one `done` of `total`.

    `done` and `total` count requests, or seconds where the time decides. `result` holds the finished runs.
    """

    step: int
    steps: int
    label: str
    done: float
    total: float
    tokens_per_second: float
    result: Result

    @property
    def fraction(self) -> float:
        """From 0 to 1, of the whole."""
        part = min(self.done / self.total, 1.0) if self.total else 0.0
        return min((self.step + part) / self.steps, 1.0) if self.steps else 1.0


def checked(workload: Workload) -> Workload:
    """The workload itself. Raises BenchmarkError naming the field that is out of its bounds."""
    try:
        return msgspec.convert(msgspec.to_builtins(workload), Workload)
    except msgspec.ValidationError as error:
        raise BenchmarkError(f"This workload cannot be run: {error}.") from error
