"""Presets: a model with a way of using it, under a name of its own; and the rules for names nobody has. Frozen structs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Name = Annotated[
    str, msgspec.Meta(min_length=1, max_length=128, pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.:/ -]*\Z")
]
Seconds = Annotated[float, msgspec.Meta(ge=1, le=86400)]
Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Repetition = Annotated[float, msgspec.Meta(ge=0.01, le=10)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
TokensOrZero = Annotated[int, msgspec.Meta(ge=0, le=10_000_000)]
Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
RuleKind = Literal["exact", "prefix", "regex"]
Priority = Literal["normal", "low"]


class SamplingDefaults(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What a request of this preset uses where its body says nothing; None leaves the API's own default."""

    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: TokensOrZero | None = None
    min_p: Share | None = None
    repetition_penalty: Repetition | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    max_tokens: Tokens | None = None
    seed: Seed | None = None
    stop: tuple[str, ...] = ()


class PresetTimeouts(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Total limits in seconds instead of the endpoints' own; None leaves those."""

    chat: Seconds | None = None
    completions: Seconds | None = None
    embeddings: Seconds | None = None


class Preset(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A name on the API. Two presets on one model share its worker.

    `system_prompt` stands before a conversation that has no system or developer message of its own. `template` are
    values for the chat template's variables; a request's own win. `tools` and `reasoning` name a dialect and a style of
    `parse/` ("" leaves the model's own). `context_length` caps prompt and answer together (0: the model's). `kv_bits`
    and `kv_group_size` shape the worker's KV cache from its next load on, so presets of one model must agree on them.
    `auto_start` loads the model with the server; `pinned` keeps it in memory.
    """

    name: Name
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    description: Annotated[str, msgspec.Meta(max_length=2000)] = ""
    system_prompt: Annotated[str, msgspec.Meta(max_length=100_000)] = ""
    sampling: SamplingDefaults = SamplingDefaults()
    template: dict[str, Any] = {}
    thinking: bool | None = None
    tools: str = ""
    reasoning: str = ""
    context_length: TokensOrZero = 0
    kv_bits: Literal[0, 4, 8] | None = None
    kv_group_size: Literal[32, 64, 128] | None = None
    auto_start: bool = False
    pinned: bool = False
    priority: Priority = "normal"
    timeouts: PresetTimeouts = PresetTimeouts()


class Alias(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule for names that no model and no preset has: the first of the list whose `pattern` matches decides.

    `target` names a model or a preset. With `priority` "low" its requests give way to others and load nothing that
    would evict a model: they take one that is in memory or has room.
    """

    pattern: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    target: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    kind: RuleKind = "exact"
    priority: Priority = "normal"
    enabled: bool = True
    note: Annotated[str, msgspec.Meta(max_length=500)] = ""


class PresetServer(msgspec.Struct, frozen=True, kw_only=True):
    """A preset as a server that runs or does not: what `/api/servers` tells. `state` is its model's (`ModelStateName`), or
    "missing". `memory` is the worker's footprint in bytes, `cpu` percent of one core; `shared_with` are the other presets
    of that worker, whose requests `running` and `queued` count too."""

    preset: str
    model: str
    state: str
    healthy: bool = False
    pid: int | None = None
    uptime: float | None = None
    memory: int = 0
    cpu: float | None = None
    running: int = 0
    queued: int = 0
    pinned: bool = False
    restarts: int = 0
    reason: str = ""
    log: tuple[str, ...] = ()
    shared_with: tuple[str, ...] = ()
