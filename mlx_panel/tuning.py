"""What an engine can be told about itself, and what it tells about its caches: frozen structs, nothing that acts."""

from __future__ import annotations

from typing import Literal

import msgspec

AdmissionOrder = Literal["shortest", "arrival"]
Speculation = Literal["off", "ngram", "draft"]
CacheTier = Literal["none", "memory", "disk"]
SourceName = Literal["default", "file", "environment", "command line", "live"]
CacheOutcome = Literal["hit", "first", "changed", "off"]

# The options a running engine keeps: they shape its caches or its models.
FIXED = ("kv_bits", "kv_group_size", "draft_model", "prefix_disk", "wired_limit_mb")
# Prompt tokens of a deterministic request processed at once, whatever else runs.
DETERMINISTIC_CHUNK = 32


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine shares its time and its memory.

    At most `max_batch` requests run, the others wait. `prefill_step` is the most prompt tokens processed at once;
    while answers run, so many fewer that none of them waits longer than `max_decode_stall_ms` for its next token, and
    decoding gets at least `decode_share` (0 to 0.9) of the time. `admission_order` "shortest" lets short prompts
    overtake long ones, "arrival" does not.

    `prefix_cache_mb` is the memory for prompts seen before, 0 is off; `prefix_disk` the folder of its second tier,
    empty is off, and `prefix_disk_mb` the room there. `speculation` guesses tokens of a lone answer from its own text
    ("ngram") or by the small model in the folder `draft_model` ("draft"). `kv_bits` 4 or 8 quantises the KV cache in
    groups of `kv_group_size`, 0 does not. `wired_limit_mb` 0 leaves the system's wired memory alone.

    `context_length` caps what the model states (0 does not), `memory_limit` is what the whole process may take, bytes
    (0: no limit): requests whose KV caches would not fit wait or are refused.

    Those in `FIXED` need a new load.
    """

    max_batch: int = 32
    prefill_step: int = 1024
    max_decode_stall_ms: float = 200.0
    decode_share: float = 0.2
    admission_order: AdmissionOrder = "shortest"
    prefix_cache_mb: int = 1024
    prefix_disk: str = ""
    prefix_disk_mb: int = 8192
    speculation: Speculation = "off"
    draft_model: str = ""
    kv_bits: int = 0
    kv_group_size: int = 64
    wired_limit_mb: int = 0
    context_length: int = 0
    memory_limit: int = 0

    def waiting(self, wanted: EngineOptions) -> tuple[str, ...]:
        """The options in which a running engine with these differs from the wanted ones until its next load."""
        return tuple(name for name in FIXED if getattr(self, name) != getattr(wanted, name))

    def tuned(self, wanted: EngineOptions) -> EngineOptions:
        """What a running engine with these makes of the wanted ones."""
        return msgspec.structs.replace(wanted, **{name: getattr(self, name) for name in FIXED})


class CacheReport(msgspec.Struct, frozen=True, tag=True):
    """What the prefix cache did for a request; an event, told once, before its prefill. Holds no text.

    `cached_tokens` of `prompt_tokens` were restored from `tier`. `outcome` says why not all: "first" when nothing like
    it is known, "changed" when the nearest known prompt goes on differently at token `diverged_at`, which lies in
    message number `message` (from 0) of role `role` (None for a raw prompt or the template's own words), "off"
    when the cache was not asked, and "hit" when everything that could be reused was.
    """

    id: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    tier: CacheTier = "none"
    outcome: CacheOutcome = "off"
    diverged_at: int | None = None
    message: int | None = None
    role: str | None = None


class CacheFigures(msgspec.Struct, frozen=True):
    """An engine's caches now: bytes and counts since its start.

    `kv_dtype` is what the running requests' KV caches really hold, `kv_bytes` their size. Of `tokens_asked` prompt
    tokens `tokens_cached` came from the prefix cache, in `hits` of `lookups` requests. `refused` blocks on disk were
    bad. Of `drafted` guessed tokens `accepted` were right.
    """

    kv_dtype: str = ""
    kv_bytes: int = 0
    bytes: int = 0
    budget: int = 0
    blocks: int = 0
    disk_bytes: int = 0
    disk_budget: int = 0
    disk_blocks: int = 0
    lookups: int = 0
    hits: int = 0
    tokens_asked: int = 0
    tokens_cached: int = 0
    evicted: int = 0
    refused: int = 0
    drafted: int = 0
    accepted: int = 0


class Limit(msgspec.Struct, frozen=True):
    """A setting a person can edit live: its value, bounds, and where the value comes from. Unit: `unit`."""

    name: str
    label: str
    value: float
    default: float
    minimum: float
    maximum: float
    source: SourceName
    unit: str = "s"
    doc: str = ""


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """A setting of the engine, for every model or for one; a number has bounds, a word `choices`.

    `own` says that a model has a value of its own, which then holds whatever the one for all is. With `reload` a
    change holds from the model's next load on, else at once.
    """

    name: str
    value: bool | int | float | str | list[str] | dict[str, float | str]
    default: bool | int | float | str | list[str] | dict[str, float | str]
    source: SourceName
    own: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: list[int | str] = []
    unit: str = ""
    reload: bool = False
    doc: str = ""


class CacheRecord(msgspec.Struct, frozen=True):
    """A `CacheReport` under the id of the API's request, at Unix time `time`; `text` says it in a sentence.

    `helpful` names the rules for volatile lines that are off and would have changed the message that differed.
    """

    request_id: str
    model: str
    time: float
    report: CacheReport
    text: str = ""
    helpful: tuple[str, ...] = ()
