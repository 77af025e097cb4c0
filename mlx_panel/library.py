"""Models on the hub and on this machine as a person sees them, and the jobs that fetch, check and change them.

Frozen structs, nothing that acts. Sizes are bytes, times Unix seconds, durations seconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

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
ModelId = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
ModelName = Annotated[str, msgspec.Meta(max_length=128, pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$")]
# What mlx-lm 0.32 quantises to; the modes but "affine" have their own bits and groups.
Bits = Literal[0, 2, 3, 4, 5, 6, 8]
QuantMode = Literal["affine", "mxfp4", "nvfp4", "mxfp8"]
FIXED_BITS: dict[str, int] = {
    "mxfp4": 4,
    "nvfp4": 4,
    "mxfp8": 8,
    "mixed_2_6": 2,
    "mixed_3_4": 3,
    "mixed_3_6": 3,
    "mixed_4_6": 4,
}
Recipe = Literal["", "mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"]


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
    """A model on the hub. `bytes` are its weights (0 where the hub does not say; `estimated` where they follow from its
    name), `gated` "" for one that is open to all, else "auto" or "manual", as the hub calls it. `local` says that this
    machine has it."""

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
    estimated: bool = False


class HubPage(msgspec.Struct, frozen=True, kw_only=True):
    """Hits in order; `cursor` asks for those after them, empty at the end. `offline` says that only local ones are here,
    and `reason` why."""

    models: tuple[HubModel, ...]
    cursor: str = ""
    offline: bool = False
    reason: str = ""


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
    None where it is not known. `error` is a sentence for a person, and so is `note`, which says what it waits for.
    `fetched` counts bytes that came over the network in all, torn ones included; `done` those that are on disk and
    right. `file` is the largest of those that come now; `retries` counts connections that broke."""

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
    note: str = ""
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


class ModelOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A job on a model of this machine."""

    model: ModelId


class ConvertOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to make of a model on this machine: a new one, called `name` ("": its own name and what was done).

    `bits` quantises in groups of `group_size` weights (0: the mode's own), 0 does not, None is what mode or recipe say,
    else 4, and 0 with `dequantize`, which turns a quantised model back into one that is not. `recipe` gives some layers
    more bits than others, as mlx-lm mixes them. `dtype` is that of what stays unquantised ("": as it is).
    """

    model: ModelId
    name: ModelName = ""
    bits: Bits | None = None
    group_size: Literal[0, 32, 64, 128] = 0
    mode: QuantMode = "affine"
    recipe: Recipe = ""
    dtype: Literal["", "float32", "float16", "bfloat16"] = ""
    dequantize: bool = False

    @property
    def wanted(self) -> int:
        """Bits to quantise to, 0 for none."""
        if self.bits is not None:
            return self.bits
        return 0 if self.dequantize else FIXED_BITS.get(self.recipe or self.mode, 4)


class ImportOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A GGUF file on the server's machine to make a model of. `dtype` "keep" leaves quantised weights as they are."""

    file: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    name: ModelName = ""
    dtype: Literal["", "keep", "float32", "float16", "bfloat16"] = ""


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
    """How this server stands to the hub. `user` is the token's owner once it was tested, `source` where it comes from:
    "stored" (entered here), "environment" (HF_TOKEN), "login" (`hf auth login`). The token itself is never told; `error`
    says why one that was stored cannot be read."""

    endpoint: str = "https://huggingface.co"
    offline: bool = False
    token: bool = False
    source: str = ""
    user: str = ""
    error: str = ""
    cache: str = ""
    free_disk: int = 0
