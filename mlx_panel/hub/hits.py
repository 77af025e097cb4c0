"""What the hub says of a model, and what a model folder says, as a `HubModel`. Pure functions of what was read.

Whatever comes from the hub may be missing or of another kind than it should be; none of it is trusted.
"""

from __future__ import annotations

import math
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from ..library import Capability, HubModel, HubQuery, LibraryModel
from ..parse import reasoning

# What an answer of the hub's list is asked to hold. It refuses `usedStorage` there, which one model alone may be asked for.
EXPAND = (
    "author", "config", "downloads", "gated", "lastModified", "library_name", "likes", "pipeline_tag", "safetensors",
    "tags",
)  # fmt: skip
SORTED_THERE = {"downloads": "downloads", "likes": "likes", "updated": "lastModified"}
EMBEDDING = frozenset({"feature-extraction", "sentence-similarity", "text-ranking"})
VISION = frozenset({"image-text-to-text", "any-to-any", "video-text-to-text", "visual-question-answering"})
AUDIO = frozenset(
    {
        "automatic-speech-recognition",
        "text-to-speech",
        "text-to-audio",
        "audio-text-to-text",
        "audio-to-audio",
    }
)
TEXT = frozenset({"text-generation", "text2text-generation"}) | VISION
HALF = 16  # bits of a weight that is not quantised
GROUP = 64  # weights that share a scale and a bias of 16 bits each, mlx-lm's default
ITEM_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F4": 4,
}  # fmt: skip
UNKNOWN_LAST = 1e30
COUNT = re.compile(r"(?<![A-Za-z0-9.])(?:(\d{1,2})x)?(\d{1,4}(?:\.\d{1,3})?)([BMT])(?![A-Za-z0-9])", re.I)
BITS = re.compile(
    r"(?<![A-Za-z0-9])(?:(\d{1,2})-?bits?|q(\d)|(?:mx|nv)?fp(4|8|16)|mxfp(8)|(bf16|f16))(?![0-9])", re.I
)
TAG_BITS = re.compile(r"(\d{1,2})-bit")
SCALE = {"M": 1e6, "B": 1e9, "T": 1e12}


class Weight(NamedTuple):
    """Bytes of the weights and how many there are; `estimated` where the hub did not say it outright."""

    bytes: int = 0
    parameters: int = 0
    estimated: bool = False


def hit(raw: Mapping[str, Any]) -> HubModel | None:
    """One entry of the hub's list; None for one without a name."""
    id = _text(raw.get("id")) or _text(raw.get("modelId"))
    if not id:
        return None
    config, tags = table(raw.get("config")), texts(raw.get("tags"))
    bits = bits_of(id, config, tags, table(raw.get("safetensors")))
    weight = weigh(table(raw.get("safetensors")), bits, named_parameters(id))
    return HubModel(
        id=id, author=_text(raw.get("author")) or id.partition("/")[0] * ("/" in id),
        architecture=_text(config.get("model_type")), bits=bits, bytes=weight.bytes, parameters=weight.parameters,
        estimated=weight.estimated, downloads=_count(raw.get("downloads")), likes=_count(raw.get("likes")),
        updated=seconds(raw.get("lastModified")), tags=tags, capabilities=capabilities(raw),
        gated=_text(raw.get("gated")),
    )  # fmt: skip


def is_for_mlx(raw: Mapping[str, Any]) -> bool:
    """Whether a repository says it is made for MLX."""
    return "mlx" in texts(raw.get("tags")) or raw.get("library_name") == "mlx"


def local_hit(model: LibraryModel) -> HubModel:
    """A model of this machine, told like one on the hub."""
    can = model.capabilities
    return HubModel(
        id=model.id, author=model.id.partition("/")[0] if "/" in model.id else "", architecture=can.architecture,
        bits=can.bits, bytes=model.bytes, parameters=model.parameters, updated=model.created, capabilities=can.kinds,
        verdict=model.verdict, local=True,
    )  # fmt: skip


def matches(model: HubModel, query: HubQuery) -> bool:
    """Whether a model is what a query is for, but for its text, its author and its place in memory."""
    return (
        query.architecture.lower() in ("", model.architecture.lower())
        and query.bits in (0, model.bits)
        and query.capability in ("", *model.capabilities)
    )


def fits(model: HubModel, query: HubQuery) -> bool:
    """Whether a model's size is what a query is for; one of unknown size is not, where a size is asked for."""
    small = not query.max_bytes or 0 < model.bytes <= query.max_bytes
    return small and (not query.fits or model.verdict in ("fits", "evicts"))


def here(model: HubModel, query: HubQuery) -> bool:
    """Whether a model of this machine is what a query is for, its words and author included."""
    words = query.text.lower().split()
    found = all(word in model.id.lower() for word in words)
    return found and query.author.lower() in ("", model.author.lower()) and matches(model, query)


def key(model: HubModel, query: HubQuery) -> tuple[float | str, str]:
    """By what models are in order: most downloads, most likes, newest, smallest, or by name; then by name."""
    name = model.id.lower()
    if query.sort == "name":
        return name, model.id
    if query.sort == "size":
        return float(model.bytes or UNKNOWN_LAST), name
    return -float(
        {"downloads": model.downloads, "likes": model.likes, "updated": model.updated}[query.sort]
    ), name


# --- what follows from the name, the config and the counts -----------------------------------------------------------


def named_parameters(id: str) -> int:
    """Parameters by a name such as Qwen3-30B-A3B-4bit or Mixtral-8x7B, 0 where it says none."""
    found = COUNT.search(id.rpartition("/")[2])
    if not found:
        return 0
    times, number, unit = found.groups()
    return int(int(times or 1) * float(number) * SCALE[unit.upper()])


def bits_of(
    id: str,
    config: Mapping[str, Any],
    tags: tuple[str, ...] = (),
    safetensors: Mapping[str, Any] | None = None,
) -> int:
    """Bits of a weight: by the config, the tags, the name, the types of the weights; 0 where nothing tells, 16 for half precision."""
    for part in (config, table(config.get("text_config"))):
        for name in ("quantization", "quantization_config"):
            told = table(part.get(name)).get("bits")
            if isinstance(told, int) and 0 < told <= HALF:
                return told
    for tag in tags:
        if told := TAG_BITS.fullmatch(tag):
            return int(told[1])
    if found := BITS.search(id.rpartition("/")[2]):
        number = next(group for group in found.groups() if group)
        return int(re.sub(r"\D", "", number))
    types = set(table(table(safetensors).get("parameters")))
    return HALF if types and types <= {"F16", "BF16", "F32"} else 0


def weigh(safetensors: Mapping[str, Any], bits: int, named: int) -> Weight:
    """Size and count of the weights, by the counts of elements the hub tells for each type.

    Quantised weights of MLX lie packed in U32. The hub counts these elements for some repositories and the weights in
    them for others (huggingface.js pull request 2415), so what is meant follows from the total that its makers declared,
    the count in the name, or the share of scales and biases.
    """
    counts = {name: _count(value) for name, value in table(safetensors.get("parameters")).items()}
    if not any(counts.values()):
        return _by_name(bits, named)
    words, everything = counts.pop("U32", 0), sum(counts.values())
    rest = sum(count * ITEM_BITS.get(name, 8) // 8 for name, count in counts.items())
    if not words or not bits or bits >= 32:
        return Weight(rest + 4 * words, everything + words, estimated=bool(words))
    held = words * 32 // bits
    total = _count(safetensors.get("total"))
    if total > 1.2 * (everything + words):
        packed, held = True, total
    elif named:
        packed = abs(math.log(held / named)) < abs(math.log(words / named))
    else:
        packed = everything / words >= 0.4 / bits  # with groups of 64 it is 1 / bits
    if packed:
        return Weight(rest + 4 * words, held)
    return Weight(rest + _quantised(words, bits), words, estimated=True)


def _by_name(bits: int, named: int) -> Weight:
    if not named or not bits:
        return Weight(parameters=named, estimated=True)
    return Weight(named * 2 if bits >= HALF else _quantised(named, bits), named, estimated=True)


def _quantised(parameters: int, bits: int) -> int:
    """Bytes with a scale and a bias of 16 bits for each group."""
    return int(parameters * (bits / 8 + 4 / GROUP))


def capabilities(raw: Mapping[str, Any]) -> tuple[Capability, ...]:
    """What a model can do, by its task on the hub, its class and its chat template."""
    return tuple(_capabilities(raw))


def _capabilities(raw: Mapping[str, Any]) -> Iterator[Capability]:
    config, task = table(raw.get("config")), _text(raw.get("pipeline_tag"))
    tags = {task, *texts(raw.get("tags"))}
    classes = texts(config.get("architectures"))
    embeds = task in EMBEDDING or (task not in TEXT and "sentence-transformers" in tags)
    chats = task in TEXT or (
        not task and any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in classes)
    )
    if embeds:
        yield "embedding"
    elif chats:
        yield "text"
        template = template_of(config)
        if "tools" in template:
            yield "tools"
        if reasoning.find(template, ()) or "enable_thinking" in template:
            yield "reasoning"
    if task in VISION:
        yield "vision"
    if task in AUDIO:
        yield "audio"


def template_of(config: Mapping[str, Any]) -> str:
    """The chat template in what the hub tells of a config, "" without one."""
    if told := _text(config.get("chat_template_jinja")):
        return told
    templates = table(config.get("tokenizer_config")).get("chat_template")
    if isinstance(templates, list):
        named = {table(one).get("name"): _text(table(one).get("template")) for one in templates}
        return named.get("tool_use") or named.get("default") or ""
    return _text(templates)


def licence_of(raw: Mapping[str, Any]) -> str:
    """The licence's name as the hub's card or tags have it."""
    card = table(raw.get("cardData"))
    named = card.get("license")
    found = texts(named) if isinstance(named, list) else (_text(named),)
    name = ", ".join(found) or next(
        (tag.removeprefix("license:") for tag in texts(raw.get("tags")) if tag.startswith("license:")), ""
    )
    return _text(card.get("license_name")) or name if name in ("", "other") else name


# --- values nobody vouches for ----------------------------------------------------------------------------------------


def table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def texts(value: Any) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def parse_query(query: str) -> list[tuple[str, str]]:
    """A query string's parameters in their order."""
    return urllib.parse.parse_qsl(query, keep_blank_values=True)


def seconds(value: Any) -> float:
    """Unix seconds of a time as the hub writes it, 0 for anything else."""
    try:
        return datetime.fromisoformat(_text(value)).timestamp()
    except (ValueError, OverflowError):
        return 0.0
