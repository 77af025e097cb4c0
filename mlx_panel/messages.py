"""What flows through the house: frozen msgspec structs, and nothing that acts.

Commands go from the server to a worker, events and reports come back; both travel as msgpack over ZeroMQ.
`AuditRecord` is the one row a request leaves. Nothing here imports another layer; `tuning.py` holds an engine's options.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from .tuning import CacheFigures, CacheOutcome, CacheReport, EngineOptions
from .tuning import Limit as Limit

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length"]
StageName = Literal["queued", "prefill", "decode"]
Status = Literal["success", "error", "timeout", "cancelled", "rejected"]
BackendType = Literal["local", "openai", "anthropic"]


class Function(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function an assistant turn called; `arguments` is the JSON text the model wrote."""

    name: str
    arguments: str = "{}"


class PastToolCall(msgspec.Struct, frozen=True):
    """A tool call in a replayed assistant turn."""

    id: str
    function: Function
    type: Literal["function"] = "function"


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a conversation, content already reduced to text."""

    role: Role
    content: str | None = None
    name: str | None = None
    tool_calls: tuple[PastToolCall, ...] = ()
    tool_call_id: str | None = None


class Sampling(msgspec.Struct, frozen=True):
    """How the next token is chosen. `temperature` 0 is greedy; the other values then have no effect.

    `top_p` in (0, 1], 1 is off; `top_k` 0 is off; `min_p` in [0, 1], 0 is off. `repetition_penalty` (1 is off) looks at
    prompt and answer, the last `repetition_context` tokens of them, 0 for all; `presence_penalty` and
    `frequency_penalty` (0 is off) look at the answer. `logit_bias` is added to the logits, by token id. With a `seed`
    the draws are those of any other request with that seed.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_context: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None


class GenerateRequest(msgspec.Struct, frozen=True):
    """One generation. Exactly one of `messages` (rendered by the chat template) and `prompt` (raw text) is set.

    `max_tokens` None means: up to the model's context. `stop` strings end the answer before themselves.
    `add_special_tokens` says whether a raw prompt gets the tokenizer's BOS. `logprobs` asks for the log-probability of
    each token and of so many alternatives (0 to 20). `deterministic` asks for a lane of its own: batch size 1, prompt
    chunks of a fixed size, nothing restored from the prefix cache, and seed 0 where none is given.
    """

    id: str
    model: str
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    add_special_tokens: bool = True
    logprobs: int | None = None
    deterministic: bool = False


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one request, taken in the decoder."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


# --- server -> worker --------------------------------------------------------------------------------------


class Add(msgspec.Struct, frozen=True, tag=True):
    request: GenerateRequest


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """End a request; takes effect before the next step and is answered by `Cancelled` if it still ran."""

    id: str


class Tune(msgspec.Struct, frozen=True, tag=True):
    """New options for a running engine; those that shape its caches or its models wait for the next load."""

    options: EngineOptions


class Forget(msgspec.Struct, frozen=True, tag=True):
    """Empty the prefix cache, memory and disk; requests that run are not disturbed."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End the worker. With `drain`, what runs is finished first and nothing new is taken."""

    drain: bool = False


Command = Add | Cancel | Tune | Forget | Stop


# --- worker -> server: events of a request -----------------------------------------------------------------


class Stage(msgspec.Struct, frozen=True, tag=True):
    """Where a request is. During prefill `done` of `total` prompt tokens are processed."""

    id: str
    stage: StageName
    done: int = 0
    total: int = 0


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token's log-probability (natural, of the model itself: before temperature, penalties and bias)."""

    token: int
    piece: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


class Text(msgspec.Struct, frozen=True, tag=True):
    """The next piece of the answer, valid Unicode, never empty; `tokens` completion tokens since the last piece.

    `logprobs` are those of these tokens, for a request that asked.
    """

    id: str
    text: str
    tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()


class Done(msgspec.Struct, frozen=True, tag=True):
    """The answer is complete."""

    id: str
    finish_reason: FinishReason
    usage: Usage


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The request ended with an error. `code` names a class of `errors.py` (its `code`), `numbers` its figures."""

    id: str
    code: str
    usage: Usage = Usage()
    numbers: dict[str, int] = {}


class Cancelled(msgspec.Struct, frozen=True, tag=True):
    """The request was cancelled; `usage` is what had been computed by then."""

    id: str
    usage: Usage = Usage()


Event = Stage | CacheReport | Text | Done | Failed | Cancelled


# --- worker -> server: reports -----------------------------------------------------------------------------


class Memory(msgspec.Struct, frozen=True):
    """Bytes. `active`, `peak` and `cache` as MLX counts them, `process` the resident size of the process."""

    active: int = 0
    peak: int = 0
    cache: int = 0
    process: int = 0


class Blas(msgspec.Struct, frozen=True):
    """The BLAS library behind float matmul on a CPU. `fast` is False for the reference BLAS; `path` may be empty."""

    name: str
    path: str = ""
    fast: bool = True
    fix: str = ""


class ModelInfo(msgspec.Struct, frozen=True):
    """What a worker learnt of its model. `dtype` is the parameters' dtype or e.g. "4-bit (group 32)"."""

    architecture: str
    context_length: int
    vocab_size: int
    parameters: int
    weights_bytes: int
    dtype: str
    layers: int
    chat_template: bool


class Ready(msgspec.Struct, frozen=True, tag=True):
    pid: int
    info: ModelInfo
    memory: Memory
    device: str
    blas: Blas
    load_seconds: float
    versions: dict[str, str]


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """The model could not be loaded; `reason` is one line about the model folder, never about a request."""

    reason: str


class Beat(msgspec.Struct, frozen=True, tag=True):
    """A worker's pulse: counters since its start. Sent at least once a second, also inside a long prefill's pauses."""

    running: int = 0
    queued: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    memory: Memory = Memory()
    cache: CacheFigures = CacheFigures()


class Frame(msgspec.Struct, frozen=True, tag=True):
    """All events of one step."""

    events: list[Event]


Report = Ready | LoadFailed | Beat | Frame


# --- models on disk ----------------------------------------------------------------------------------------


class LocalModel(msgspec.Struct, frozen=True):
    """A model folder on this machine. `bytes` is the weights' size, `source` one of "folder" and "hub cache"."""

    id: str
    path: str
    architecture: str
    dtype: str
    bytes: int
    context_length: int
    created: int
    source: str = "folder"


# --- the audit row -----------------------------------------------------------------------------------------


class AuditRecord(msgspec.Struct, frozen=True):
    """The one row a request leaves. No field can hold text of a request or an answer (DESIGN: privacy).

    `timestamp` is when the request arrived, aware, UTC. Durations are milliseconds, None where a phase was not
    reached. `model_requested` is the name asked for when it is known to the server, else "unknown".
    """

    request_id: str
    timestamp: datetime
    endpoint: str
    dialect: str
    status: Status
    http_status: int
    model_requested: str | None = None
    model_used: str | None = None
    backend_type: BackendType | None = None
    stream: bool = False
    error_type: str | None = None
    queue_ms: float | None = None
    load_ms: float | None = None
    ttft_ms: float | None = None
    duration_ms: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    total_tokens: int = 0
    finish_reason: str | None = None
    caller: str | None = None
    cache_outcome: CacheOutcome | None = None
    cache_diverged_at: int | None = None
    cache_role: Role | None = None


# --- what the dashboard watches -----------------------------------------------------------------------------

ModelStateName = Literal["available", "loading", "ready", "stopping", "failed"]


class ModelState(msgspec.Struct, frozen=True):
    """A model as a person sees it. Sizes are bytes; `memory` is what its worker measured, `disk` its files.

    `pending` names the settings that were changed and hold from the next load on, `cache` is None without a process.
    """

    id: str
    state: ModelStateName
    architecture: str = ""
    dtype: str = ""
    context_length: int = 0
    parameters: int = 0
    disk: int = 0
    memory: int = 0
    running: int = 0
    queued: int = 0
    tokens_per_second: float = 0.0
    pid: int | None = None
    uptime: float | None = None
    restarts: int = 0
    needed: bool = False
    reason: str = ""
    pending: tuple[str, ...] = ()
    cache: CacheFigures | None = None


class Snapshot(msgspec.Struct, frozen=True):
    """The server at one moment. `time` is Unix seconds; rates are per second over the last second.

    `ttft_ms` is the median time to first token of the last minute, None without one. `memory_used` is the sum over
    workers, `memory_limit` this machine's memory; both bytes. `audit_rows` counts rows about model requests only, and
    `benchmark_changes` all news of benchmarks, so a page that shows them knows when to look again.
    """

    time: float
    requests: int = 0
    queued: int = 0
    tokens_per_second: float = 0.0
    prompt_tokens_per_second: float = 0.0
    ttft_ms: float | None = None
    requests_total: int = 0
    errors_total: int = 0
    memory_used: int = 0
    memory_limit: int = 0
    loop_lag_ms: float = 0.0
    audit_rows: int = 0
    benchmark_changes: int = 0
    draining: bool = False
    models: tuple[ModelState, ...] = ()


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One second of the sparklines' history: the numbers of a `Snapshot` that are worth drawing."""

    time: float
    requests: int
    queued: int
    tokens_per_second: float
    ttft_ms: float | None
    memory_used: int


class AuditPage(msgspec.Struct, frozen=True):
    """One page of the audit table, newest first, and how many rows match in all."""

    rows: list[AuditRecord]
    total: int


encode = msgspec.msgpack.Encoder().encode
decode_command = msgspec.msgpack.Decoder(Command).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
