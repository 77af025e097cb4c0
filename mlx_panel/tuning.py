"""What an engine can be told about itself, and what it tells about its caches: frozen structs, nothing that acts."""

from __future__ import annotations

from typing import Literal

import msgspec

AdmissionOrder = Literal["shortest", "arrival"]
Speculation = Literal["off", "ngram", "draft"]
CacheTier = Literal["none", "memory", "disk"]
CacheOutcome = Literal["hit", "first", "changed", "off"]


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

    Only `kv_bits`, `kv_group_size`, `draft_model`, `prefix_disk` and `wired_limit_mb` need a new load.
    """

    max_batch: int = 32
    prefill_step: int = 512
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
