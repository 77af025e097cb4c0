"""What is kept of a request: frozen msgspec structs whose every field is content-free by its type.

A field holds a number, a moment, a yes or no, a word of a closed vocabulary, or one of the text types below. None of
these can hold a sentence of a prompt or an answer: words have no spaces, names are those that this server's owner gave
to models, presets and rules, and hashes are keyed. `free_text_fields` names a field of any other type, and
`tests/test_privacy.py` allows none.
"""

from __future__ import annotations

from datetime import datetime
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from .request import Role, StructureKind
from .tuning import CacheOutcome

Status = Literal["success", "error", "timeout", "cancelled", "rejected"]
BackendType = Literal["local", "openai", "anthropic"]
# What a request did or waited for. "queue": for a place or memory in the server, then for its turn in the worker;
# "wait": for a pass that served only others; "send": for the client to take bytes.
SpanKind = Literal["queue", "load", "tokenise", "restore", "prefill", "wait", "decode", "send"]
PoolEventKind = Literal[
    "loaded", "load_failed", "unloaded", "evicted", "expired", "died", "restarted", "given_up"
]

# Patterns are anchored with \A and \Z: `$` would let a line end follow.
RequestId = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9_.:\-]{1,64}\Z")
]  # ours, or the caller's own `X-Request-ID`
# The pattern of a route, never a path that was asked for.
RouteName = Annotated[str, Meta(pattern=r"\A(/[a-z0-9_.{}/\-]{1,199}|\(no route\))\Z")]
Word = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_]{0,63}\Z")]  # a code of ours: an error's, a dialect's
# Of a model, preset or rule: what this server's owner called it, in one line.
KnownName = Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f\x85\u2028\u2029]{1,512}\Z")]
Address = Annotated[str, Meta(pattern=r"\A[0-9a-f:.]{2,45}\Z")]  # a network address as `ipaddress` writes it
Hashes = Annotated[bytes, Meta(max_length=1 << 20)]  # keyed hashes, 8 bytes each

CONTENT_FREE_TEXT = (RequestId, RouteName, Word, KnownName, Address, Hashes)
CONTENT_FREE = (int, float, bool, datetime, type(None))


def free_text_fields(struct: type[msgspec.Struct]) -> list[str]:
    """The fields of a struct, and of the structs in it, that could hold text of a request: `name`, or `outer.name`.

    A field is content-free if it is a number, a yes or no, a moment, a closed vocabulary, one of `CONTENT_FREE_TEXT`,
    a tuple of structs of such fields, or one of several of these.
    """
    hints = get_type_hints(struct, include_extras=True)
    return [place for name in struct.__struct_fields__ for place in _places(name, hints[name])]


def _places(name: str, hint: Any) -> list[str]:
    """Where a field of this type could hold text."""
    if hint in CONTENT_FREE_TEXT or hint in CONTENT_FREE or get_origin(hint) is Literal:
        return []
    inner = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return [place for kind in inner for place in _places(name, kind)]
    if get_origin(hint) is tuple and inner[1:] == (...,) and issubclass(inner[0], msgspec.Struct):
        return [f"{name}.{place}" for place in free_text_fields(inner[0])]
    return [name]


class AuditRecord(msgspec.Struct, frozen=True):
    """The one row a request leaves. No field can hold text of a request or an answer (DESIGN: privacy).

    `timestamp` is when the request arrived, aware, UTC. Durations are milliseconds, None where a phase was not
    reached. `choices` are the answers or vectors asked for. `model_requested` is the name asked for when it is known to
    the server, else "unknown". `queue_ms` is the wait for a turn in the worker, `tokenise_ms` rendering and encoding,
    `restore_ms` bringing back a cached prefix, `prefill_ms` passes over its prompt, `interference_ms` passes over others'
    prompts that it waited for, `decode_ms` from its first token to its last, `blocked_ms` waiting for the client to take
    bytes. `itl_ms` is the mean inter-token latency, `itl_max_ms` the longest gap. `saved_ms` estimates the prefill that
    cached tokens made unnecessary. `batch_mean` is the mean number of answers in its decode steps. `temperature`, `top_p`,
    `top_k` and `max_tokens` are those asked for, None where they do not apply.
    """

    request_id: RequestId
    timestamp: datetime
    endpoint: RouteName
    dialect: Word
    status: Status
    http_status: int
    model_requested: KnownName | None = None
    model_used: KnownName | None = None
    backend_type: BackendType | None = None
    stream: bool = False
    error_type: Word | None = None
    queue_ms: float | None = None
    load_ms: float | None = None
    ttft_ms: float | None = None
    duration_ms: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    total_tokens: int = 0
    finish_reason: Word | None = None
    caller: Address | None = None
    cache_outcome: CacheOutcome | None = None
    cache_diverged_at: int | None = None
    cache_role: Role | None = None
    choices: int = 1
    tool_calls: int = 0
    broken_tool_calls: int = 0
    structure: StructureKind | None = None
    preset: KnownName | None = None
    alias: KnownName | None = None
    tokenise_ms: float | None = None
    restore_ms: float | None = None
    prefill_ms: float | None = None
    interference_ms: float | None = None
    decode_ms: float | None = None
    blocked_ms: float | None = None
    itl_ms: float | None = None
    itl_max_ms: float | None = None
    saved_ms: float | None = None
    batch_mean: float | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None


class Span(msgspec.Struct, frozen=True):
    """Something a request did or waited for: from `at_ms` after its arrival, for `ms`; `tokens` of it."""

    kind: SpanKind
    at_ms: float
    ms: float
    tokens: int = 0


class Neighbour(msgspec.Struct, frozen=True):
    """Another request, and what the two had to do with each other: `prefill_ms` of passes over its prompt that this one
    waited for, `decode_ms` and `steps` of decode passes that both were in, `tokens` of its prompt in those passes."""

    request_id: RequestId
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    steps: int = 0
    tokens: int = 0


class AuditDetail(msgspec.Struct, frozen=True):
    """More of a request, kept beside its row.

    `blocks` are keyed hashes of the prompt's whole blocks of `block_tokens` tokens, 8 bytes each, in order; each hash
    covers the prompt up to its block's end, so prompts that begin alike share their first hashes (`docs/audit.md`).
    """

    spans: tuple[Span, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    block_tokens: int = 0
    blocks: Hashes = b""


class PoolEvent(msgspec.Struct, frozen=True):
    """Something that became of a model: `seconds` it took (a load, an unload) or lived, `bytes` its process took."""

    timestamp: datetime
    model: KnownName
    kind: PoolEventKind
    seconds: float = 0.0
    bytes: int = 0
    reason: Word | None = None
