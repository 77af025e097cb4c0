"""What else is asked of the audit log: SQL, a proof of privacy, and the past without its words. Frozen structs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from .record import Status

# --- SQL -----------------------------------------------------------------------------------------------------


class SqlOrder(msgspec.Struct, frozen=True):
    """One SELECT and how much it may take; None is the server's own limit, which no order exceeds."""

    sql: str
    max_rows: int | None = None
    timeout_seconds: float | None = None


class SqlResult(msgspec.Struct, frozen=True):
    """What a SELECT found: values as JSON has them. `types` are DuckDB's; `truncated` says that `max_rows` cut it;
    `as_of` is when the data it saw was current."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[list[Any]]
    truncated: bool = False
    took_ms: float = 0.0
    as_of: datetime | None = None


class SavedQuery(msgspec.Struct, frozen=True):
    """A query that somebody keeps; `built_in` ones come with the server."""

    name: str
    sql: str
    doc: str = ""
    built_in: bool = False


# --- the privacy proof ---------------------------------------------------------------------------------------


class Place(msgspec.Struct, frozen=True):
    """Somewhere that was searched: `bytes` of it in `files` files, or what `unit` names, and how often a canary was `found`.

    `older` files have not changed since the canaries were made, and `skipped` ones could not be read or were too many;
    neither was searched. `where` names the files in which one was found, `encodings` the forms. `expected`: content is kept
    here on purpose.
    `controls` of `planted` marks, put here to see that the search works, were found.
    """

    name: str
    files: int = 0
    bytes: int = 0
    found: int = 0
    note: str = ""
    older: int = 0
    skipped: int = 0
    expected: bool = False
    where: tuple[str, ...] = ()
    encodings: tuple[str, ...] = ()
    planted: int = 0
    controls: int = 0
    unit: str = "files"


class Opened(msgspec.Struct, frozen=True):
    """A socket that a process of ours held open while canaries went through. `note` explains one to the outside."""

    process: str
    local: str
    remote: str = ""
    verdict: Literal["own", "this machine", "outside"] = "own"
    note: str = ""


class Sent(msgspec.Struct, frozen=True):
    """So many requests with canaries to one route, and the statuses that came back, each with its count."""

    group: str
    route: str
    method: str
    requests: int
    statuses: dict[str, int] = {}


class Skipped(msgspec.Struct, frozen=True):
    """What was not tried, and why."""

    what: str
    why: str


class Proof(msgspec.Struct, frozen=True):
    """A run of the proof. `state` "clean": no canary was found anywhere it must not be. `steps` of `total` are done.

    Content-free: the canaries themselves are not in it. `model` answered and `embedder` made vectors, "" for none.
    """

    state: Literal["running", "clean", "found", "failed", "cancelled"]
    started: datetime
    canaries: int = 0
    requests: int = 0
    steps: int = 0
    total: int = 0
    step: str = ""
    places: tuple[Place, ...] = ()
    sockets: tuple[Opened, ...] = ()
    seconds: float = 0.0
    error: str = ""
    sent: tuple[Sent, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    model: str = ""
    embedder: str = ""
    versions: dict[str, str] = {}


# --- replay --------------------------------------------------------------------------------------------------


class Past(msgspec.Struct, frozen=True):
    """A request as a replay needs it, without any text: `at` seconds after the first one; `blocks` as in
    `record.AuditDetail`, in hexadecimal; `cached_tokens` of its prompt came from the prefix cache then."""

    at: float
    model: str | None
    prompt_tokens: int
    completion_tokens: int
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    block_tokens: int = 0
    blocks: str = ""
    ttft_ms: float | None = None
    duration_ms: float = 0.0
    status: Status = "success"
    cached_tokens: int = 0
