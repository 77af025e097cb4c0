"""Models on the hub and on this machine as a person sees them, and the jobs that fetch, check and change them.

Frozen structs, nothing that acts. Sizes are bytes, times Unix seconds, durations seconds.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

# What a model can do. "tools" and "reasoning" are ways of its chat template; "vision" and "audio" are known, not served.
Capability = Literal["text", "embedding", "tools", "reasoning", "vision", "audio"]
# Whether a model fits: into what is free now; only after others are evicted; into no budget this machine allows.
Verdict = Literal["fits", "evicts", "too_large", "unknown"]
SortKey = Literal["downloads", "likes", "updated", "size", "name"]
DownloadState = Literal["queued", "downloading", "verifying", "paused", "completed", "failed", "cancelled"]
TaskKind = Literal["verify", "probe", "convert", "import"]
TaskState = Literal["queued", "running", "done", "failed", "cancelled"]
Level = Literal["info", "warning", "action_needed"]


class HubQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What to look for on the hub. Empty or 0 means: any. `bits` 16 stands for weights that are not quantised."""

    text: str = ""
    author: str = ""
    architecture: str = ""
    bits: int = 0
    capability: Capability | Literal[""] = ""
    max_bytes: int = 0
    fits: bool = False
    sort: SortKey = "downloads"
    limit: int = 20
    cursor: str = ""


class HubModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model on the hub. `bytes` are its weights (0 where the hub does not say), `gated` "" for one that is open to all,
    else "auto" or "manual", as the hub calls it. `local` says that this machine has it."""

    id: str
    author: str = ""
    architecture: str = ""
    bits: int = 0
    bytes: int = 0
    parameters: int = 0
    downloads: int = 0
    likes: int = 0
    updated: float = 0.0
    tags: tuple[str, ...] = ()
    capabilities: tuple[Capability, ...] = ()
    gated: str = ""
    verdict: Verdict = "unknown"
    local: bool = False


class HubPage(msgspec.Struct, frozen=True, kw_only=True):
    """Hits in order; `cursor` asks for those after them, empty at the end. `offline` says that only local ones are here."""

    models: tuple[HubModel, ...]
    cursor: str = ""
    offline: bool = False


class HubFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a repository. `sha256` is that of its content where the hub knows it (LFS), `oid` its git blob id."""

    path: str
    bytes: int
    sha256: str = ""
    oid: str = ""


class HubDetails(msgspec.Struct, frozen=True, kw_only=True):
    """One model on the hub with its files, config and README (Markdown, as its author wrote it: never trusted as HTML).

    `needed` is what it would take in memory, `reason` says why it cannot be had (gated, or not for mlx).
    """

    model: HubModel
    commit: str
    files: tuple[HubFile, ...] = ()
    config: dict[str, Any] = {}
    readme: str = ""
    licence: str = ""
    context_length: int = 0
    needed: int = 0
    free_disk: int = 0
    reason: str = ""


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """A job that fetches a model into the hub cache. `rate` is bytes per second over the last seconds, `seconds_left`
    None where it is not known. `error` is a sentence for a person. `fetched` counts bytes that came over the network
    in all, torn ones included; `done` those that are on disk and right."""

    task: str
    model: str
    revision: str = "main"
    commit: str = ""
    state: DownloadState = "queued"
    done: int = 0
    total: int = 0
    fetched: int = 0
    rate: float = 0.0
    seconds_left: float | None = None
    files_done: int = 0
    files: int = 0
    file: str = ""
    error: str = ""
    retries: int = 0
    created: float = 0.0
    ended: float | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a report: what was looked at, what came out, and what it means for a person."""

    step: str
    level: Level = "info"
    text: str = ""
    value: Any = None


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A job on a local model. `done` of `total` are in `unit` ("bytes", "steps"); `result` names the model that was made.

    `report` is Markdown to copy, once it is done.
    """

    id: str
    kind: TaskKind
    model: str
    state: TaskState = "queued"
    step: str = ""
    done: int = 0
    total: int = 0
    unit: str = "steps"
    findings: tuple[Finding, ...] = ()
    report: str = ""
    result: str = ""
    error: str = ""
    created: float = 0.0
    ended: float | None = None


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a model can do. `source` "files" was read from config, tokenizer and chat template without running anything;
    "probe" was tried with real generations at `probed`.

    `tools` and `reasoning` name a dialect and a style of `parse/` ("" is none), `switch` the template's variable that
    turns reasoning on, `usable_context` the tokens that were really processed (0: not tried).
    """

    kinds: tuple[Capability, ...] = ()
    architecture: str = ""
    family: str = ""
    tools: str = ""
    reasoning: str = ""
    switch: str = ""
    template_variables: tuple[str, ...] = ()
    context_length: int = 0
    usable_context: int = 0
    dimensions: int = 0
    bits: int = 0
    source: Literal["files", "probe"] = "files"
    probed: float | None = None
    supported: bool = True
    reason: str = ""


class LibraryModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model on this machine. `source` is one of "folder" and "hub cache", `revision` the commit of the latter.

    `last_used` is when its last request ended, None if it never had one. `expected` is what it takes in memory, by
    prediction or measurement; `complete` False is a folder of which files are missing (`missing` names some).
    """

    id: str
    path: str
    source: str
    revision: str = ""
    bytes: int = 0
    parameters: int = 0
    dtype: str = ""
    created: float = 0.0
    last_used: float | None = None
    capabilities: Capabilities = Capabilities()
    expected: int = 0
    verdict: Verdict = "unknown"
    state: str = "available"
    complete: bool = True
    missing: tuple[str, ...] = ()
    verified: float | None = None


class HubState(msgspec.Struct, frozen=True, kw_only=True):
    """How this server stands to the hub. `user` is the token's owner once it was tested. The token itself is never told."""

    endpoint: str = "https://huggingface.co"
    offline: bool = False
    token: bool = False
    user: str = ""
    cache: str = ""
    free_disk: int = 0
