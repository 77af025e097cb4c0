"""What flows through the house: frozen msgspec structs, and nothing that acts.

Commands go from the server to a worker, events and reports come back; both travel as msgpack over ZeroMQ.
`record.py` holds what is kept of a request, `request.py` what a model is asked for, `tuning.py` an engine's options;
nothing here imports another layer.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from .record import AuditDetail as AuditDetail
from .record import AuditRecord as AuditRecord
from .record import BackendType as BackendType
from .record import Neighbour, Span
from .record import PoolEvent as PoolEvent
from .record import Status as Status
from .request import EmbedRequest, GenerateRequest
from .request import Function as Function
from .request import Message as Message
from .request import PastToolCall as PastToolCall
from .request import Role as Role
from .request import Sampling as Sampling
from .request import Structure as Structure
from .request import StructureKind as StructureKind
from .request import Thinking as Thinking
from .request import Tool as Tool
from .request import Tools as Tools
from .tuning import CacheFigures, CacheReport, EngineOptions
from .tuning import Limit as Limit

FinishReason = Literal["stop", "length", "tool_calls"]
StageName = Literal["queued", "prefill", "decode"]
ModelKind = Literal["text", "embedding"]


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


class Load(msgspec.Struct, frozen=True, tag=True):
    """Load the model in the folder `path`; `name` is what it is called. A worker loads one model in its life."""

    path: str
    name: str
    options: EngineOptions = EngineOptions()


class Origin(msgspec.Struct, frozen=True):
    """Where a request to a worker comes from: the id that its caller knows it by, and when it came to the server and left
    it for the worker, by `time.monotonic`, which all processes of a machine share (0: not known)."""

    request_id: str = ""
    arrived: float = 0.0
    sent: float = 0.0


class Add(msgspec.Struct, frozen=True, tag=True):
    request: GenerateRequest | EmbedRequest
    origin: Origin = Origin()


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


Command = Load | Add | Cancel | Tune | Forget | Stop


# --- worker -> server: events of a request -----------------------------------------------------------------


class Stage(msgspec.Struct, frozen=True, tag=True):
    """Where a request is. During prefill `done` of `total` prompt tokens are processed."""

    id: str
    stage: StageName
    done: int = 0
    total: int = 0


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token's log-probability (natural, of the model itself: before temperature, penalties, bias and constraints).

    `piece` are its bytes. `logprob` is None for the first token of a prompt, which nothing predicts.
    """

    token: int
    piece: bytes
    logprob: float | None
    top: tuple[TokenLogprob, ...] = ()


class Echo(msgspec.Struct, frozen=True, tag=True):
    """The prompt, for a request with `echo`: told once, before the answer. `logprobs` one a token, if asked for."""

    id: str
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class Text(msgspec.Struct, frozen=True, tag=True):
    """The next piece of the answer, valid Unicode, never empty; `tokens` completion tokens since the last piece.

    `logprobs` are those of these tokens, for a request that asked. `index` is the number of the choice (0 to n - 1).
    """

    id: str
    text: str
    tokens: int = 1
    logprobs: tuple[TokenLogprob, ...] = ()
    index: int = 0


class Reasoning(msgspec.Struct, frozen=True, tag=True):
    """The next piece of what the model thinks before it answers; like `Text`, without the marks around it."""

    id: str
    text: str
    tokens: int = 1
    index: int = 0


class ToolCall(msgspec.Struct, frozen=True, tag=True):
    """A piece of a tool call. The first of a call has its `name`, all have the next piece of its JSON `arguments`.

    `call` numbers the calls of a choice from 0; pieces of one call follow each other.
    """

    id: str
    call: int
    name: str = ""
    arguments: str = ""
    tokens: int = 1
    index: int = 0


class Done(msgspec.Struct, frozen=True, tag=True):
    """A choice is complete; with `last` all of the request's are, and `usage` is theirs together.

    `calls` counts its tool calls, `broken` what began like one and could not be read: that came as text.
    """

    id: str
    finish_reason: FinishReason
    usage: Usage
    index: int = 0
    last: bool = True
    calls: int = 0
    broken: int = 0


class Embedded(msgspec.Struct, frozen=True, tag=True):
    """All vectors of an `EmbedRequest`, in its order: float32, little-endian, `dimensions` each; `truncated` inputs
    were cut to the model's limit, as asked."""

    id: str
    vectors: bytes
    dimensions: int
    usage: Usage
    truncated: int = 0


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The request ended with an error. `code` names a class of `errors.py` (its `code`), `numbers` its figures, `field`
    the parameter at fault where the engine knows it."""

    id: str
    code: str
    usage: Usage = Usage()
    numbers: dict[str, int] = {}
    field: str = ""


class Cancelled(msgspec.Struct, frozen=True, tag=True):
    """The request was cancelled; `usage` is what had been computed by then."""

    id: str
    usage: Usage = Usage()


class Trace(msgspec.Struct, frozen=True, tag=True):
    """Where a request's time went since it was sent to the worker, told once, in the frame of its last event, before it.

    `spans` count from when it came to the server (`Origin`), else from when the engine took it; they follow each other
    without a gap. Neighbours have the ids that their callers know. `blocks` are the prompt's keyed hashes (`record.AuditDetail`), empty without a key.
    Milliseconds; `others_ms` is the waiting for other requests' prompts, all of them, `batch` the mean number of answers in its decode steps.
    """

    id: str
    spans: tuple[Span, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    others_ms: float = 0.0
    saved_ms: float = 0.0
    batch: float = 0.0
    block_tokens: int = 0
    blocks: bytes = b""


Event = (
    Trace | Stage | CacheReport | Echo | Text | Reasoning | ToolCall | Done | Embedded | Failed | Cancelled
)


# --- worker -> server: reports -----------------------------------------------------------------------------


class Memory(msgspec.Struct, frozen=True):
    """Bytes. `active`, `peak` and `cache` as MLX counts them, `process` what the process takes of the machine
    (`footprint.py`), `recommended` the most that models should take together on its GPU (0: it does not say)."""

    active: int = 0
    peak: int = 0
    cache: int = 0
    process: int = 0
    recommended: int = 0


class Blas(msgspec.Struct, frozen=True):
    """The BLAS library behind float matmul on a CPU. `fast` is False for the reference BLAS; `path` may be empty."""

    name: str
    path: str = ""
    fast: bool = True
    fix: str = ""


class ModelInfo(msgspec.Struct, frozen=True):
    """What a worker learnt of its model. `dtype` is the parameters' dtype or e.g. "4-bit (group 32)".

    `kind` says what it is for. `dimensions` is the length of an embedding model's vectors. `reasoning` names the style in
    which it thinks ("" when it does not), `tools` the dialect in which it calls tools, `template_variables` what its chat
    template reads beside the conversation, such as "enable_thinking".
    """

    architecture: str
    context_length: int
    vocab_size: int
    parameters: int
    weights_bytes: int
    dtype: str
    layers: int
    chat_template: bool
    kind: ModelKind = "text"
    dimensions: int = 0
    reasoning: str = ""
    tools: str = ""
    template_variables: tuple[str, ...] = ()


class Warm(msgspec.Struct, frozen=True, tag=True):
    """Everything a worker needs is imported, and it waits for its `Load`."""

    pid: int
    memory: Memory


class Loading(msgspec.Struct, frozen=True, tag=True):
    """How far a load is: `done` of `total` bytes of "weights", or "warming"."""

    stage: str
    done: int = 0
    total: int = 0


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
    """A worker's pulse: counters since its start. Sent at least once a second, also inside a long prefill's pauses.

    `limit` is the `memory_limit` it keeps to now, `committed` what its process may come to take for the requests it has
    taken on, bytes; 0 where it does not know.
    """

    running: int = 0
    queued: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    memory: Memory = Memory()
    cache: CacheFigures = CacheFigures()
    limit: int = 0
    committed: int = 0


class Frame(msgspec.Struct, frozen=True, tag=True):
    """All events of one step."""

    events: list[Event]


Report = Warm | Loading | Ready | LoadFailed | Beat | Frame


# --- models on disk ----------------------------------------------------------------------------------------


class LocalModel(msgspec.Struct, frozen=True):
    """A model folder on this machine. `kind` says what it is for, `bytes` is the weights' size, `source` one of "folder" and "hub cache"."""

    id: str
    path: str
    architecture: str
    dtype: str
    bytes: int
    context_length: int
    created: int
    source: str = "folder"
    kind: ModelKind = "text"


encode = msgspec.msgpack.Encoder().encode
decode_command = msgspec.msgpack.Decoder(Command).decode
decode_report = msgspec.msgpack.Decoder(Report).decode
