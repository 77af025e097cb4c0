"""What a model can do, by its files alone: its config, its tokenizer, and its chat template, parsed and never rendered.

No code of a folder is imported or run, here or anywhere else in the house: the loaders say `trust_remote_code=False`.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..engine.embed import recipe
from ..engine.embed.recipe import read_json
from ..library import Capabilities, Capability
from ..parse import detect, reasoning, template
from .architectures import Architectures
from .disk import CONFIG, SCRIPT, SCRIPTED_CONTEXT, context_of

TOKENIZER, TOKENIZER_CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
MORE_TEMPLATES = "additional_chat_templates"
READ = (CONFIG, SCRIPT, TOKENIZER, TOKENIZER_CONFIG, TEMPLATE, "modules.json", "sentence_bert_config.json")
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
# The families as people call them, by the beginning of a model's name or of its architecture; the first that fits.
FAMILIES = {
    "smollm": "SmolLM", "smolvlm": "SmolLM", "deepseek": "DeepSeek", "qwen": "Qwen", "qwq": "Qwen", "llama": "Llama", "tinyllama": "Llama",
    "codellama": "Llama", "meta-llama": "Llama", "gemma": "Gemma", "embeddinggemma": "Gemma", "functiongemma": "Gemma", "medgemma": "Gemma",
    "paligemma": "Gemma", "mistral": "Mistral", "ministral": "Mistral", "mixtral": "Mistral", "devstral": "Mistral", "codestral": "Mistral",
    "magistral": "Mistral", "pixtral": "Mistral", "voxtral": "Mistral", "phi": "Phi", "gpt-oss": "gpt-oss", "gpt_oss": "gpt-oss", "glm": "GLM",
    "chatglm": "GLM", "kimi": "Kimi", "minimax": "MiniMax", "minicpm": "MiniCPM", "granite": "Granite", "nemotron": "Nemotron", "olmo": "OLMo",
    "lfm": "LFM", "falcon": "Falcon", "cohere": "Command", "command": "Command", "c4ai": "Command", "seed": "Seed", "hunyuan": "Hunyuan",
    "ernie": "ERNIE", "exaone": "EXAONE", "internlm": "InternLM", "longcat": "LongCat", "mimo": "MiMo", "bge": "BGE", "e5": "E5",
    "multilingual-e5": "E5", "nomic": "Nomic", "all-minilm": "MiniLM", "modernbert": "ModernBERT", "xlm-roberta": "RoBERTa", "roberta": "RoBERTa",
    "bert": "BERT", "whisper": "Whisper", "fake": "Scripted",
}  # fmt: skip
LISTENS = re.compile(r"whisper|wav2vec|audio|speech|voxtral|omni|parler|kokoro|tts\b|csm\b", re.IGNORECASE)
SEES = re.compile(r"vision|llava|paligemma|pixtral|[-_\d]vl\b|vl[-_]|vlm|ocr|siglip|clip\b", re.IGNORECASE)
# Families that only listen, or only see: they write no text of their own.
NO_TEXT = re.compile(r"^(whisper|wav2vec2|hubert|encodec|kokoro|parler_tts|clip|siglip|vit|dinov2|sam)", re.I)
# Ways of quantising that mlx-lm reads beside its own; it would take others for weights that are not quantised.
QUANTISED = {
    "bitnet": 2,
    "mxfp4": 4,
    "mxfp8": 8,
    "fp8": 8,
    "compressed-tensors": 4,
    "modelopt": 4,
    "awq": 4,
    "gptq": 4,
}
UNQUANTISED = 16


class _Added(msgspec.Struct, frozen=True):
    content: str = ""


class _Model(msgspec.Struct, frozen=True):
    vocab: Any = None


class _Tokenizer(msgspec.Struct, frozen=True):
    """The part of a tokenizer.json that names tokens; the rest, merges above all, is skipped unread."""

    added_tokens: list[_Added] = []
    model: _Model = _Model()


class Manners(msgspec.Struct, frozen=True):
    """How a model is talked to: its chat template's source, its tokens, and the names of special ones. `program` says
    that the template is code of mlx-lm's own."""

    template: str = ""
    vocabulary: Collection[str] = ()
    special: tuple[str, ...] = SPECIAL
    program: bool = False


class CapabilityReader:
    """Reads folders, and keeps what it found until one of the files it was read from changes."""

    def __init__(self, architectures: Architectures | None = None):
        self.architectures = architectures or Architectures()
        self._known: dict[str, tuple[Any, Capabilities]] = {}

    def __repr__(self) -> str:
        return f"<CapabilityReader {len(self._known)} known, {self.architectures!r}>"

    def read(self, folder: Path, name: str = "") -> Capabilities:
        """What the model in a folder can do; `name` is what it is called, by default as its folder. Blocks."""
        name, stamp = name or folder.name, tuple(_stamp(folder / file) for file in READ)
        key = f"{folder}\n{name}"
        if self._known.get(key, (None,))[0] != stamp:
            self._known[key] = (stamp, self._read(folder, name))
        return self._known[key][1]

    def describe(
        self, config: Mapping[str, Any], name: str, manners: Manners | None = None, *, embeds: bool = False
    ) -> Capabilities:
        """The same of a config alone, for a model that is not on this machine. Does not read a folder."""
        family = str(config.get("model_type") or "")
        text = not embeds and not (NO_TEXT.match(family) and "text_config" not in config)
        kinds: list[Capability] = ["embedding"] if embeds else ["text"] if text else []
        kinds += [kind for kind in ("vision", "audio") if _has(config, name, kind)]
        spoken = _speaks(manners, family) if text and manners is not None else {}
        kinds += [kind for kind in ("tools", "reasoning") if spoken.get(kind)]
        supported, reason = self._served(dict(config), name, kinds, embeds=embeds)
        return Capabilities(
            kinds=tuple(kinds), architecture=family, family=family_of(name, family), bits=bits_of(config),
            context_length=context_of(dict(config)), supported=supported, reason=reason, **spoken,
        )  # fmt: skip

    def _read(self, folder: Path, name: str) -> Capabilities:
        config = read_json(folder / CONFIG)
        if not config and (folder / SCRIPT).is_file():
            return _scripted(read_json(folder / SCRIPT))
        if not config:
            return Capabilities(supported=False, reason="config.json is missing, or no JSON object.")
        embeds = recipe.kind_of(folder, config, name) == "embedding"
        found = self.describe(config, name, read_manners(folder), embeds=embeds)
        if embeds:
            return msgspec.structs.replace(
                found, context_length=recipe.limit_of(folder, config), dimensions=_dimensions(folder, config)
            )
        return found

    def _served(
        self, config: dict[str, Any], name: str, kinds: list[Capability], *, embeds: bool
    ) -> tuple[bool, str]:
        """Whether this server can load it, and what a person should know of it."""
        family = str(config.get("model_type") or "unknown")
        if config.get("model_file"):
            return False, "It needs code of its own to be run, which this server never does."
        if method := _unread(config):
            return False, f"Its weights are quantised by {method}, which mlx-lm does not read."
        if embeds:
            return self._embeds(config, family)
        if "text" not in kinds or not self.architectures.module(config):
            return False, f"mlx-lm {self.architectures.version} has no module for the architecture {family}."
        beyond = [word for kind, word in (("vision", "images"), ("audio", "sound")) if kind in kinds]
        return True, f"Served for text: it is not given {' or '.join(beyond)} here." if beyond else ""

    def _embeds(self, config: dict[str, Any], family: str) -> tuple[bool, str]:
        if family in recipe.BERTS:
            return True, ""
        if family in recipe.ENCODERS:
            known = importlib.util.find_spec("mlx_embeddings") is not None
            return known, "" if known else f"Embedding models of the family {family} need mlx-embeddings."
        known = bool(self.architectures.module(config))
        why = f"mlx-lm {self.architectures.version} has no module for the architecture {family}."
        return known, "" if known else why


def read_manners(folder: Path) -> Manners:
    """How the model in a folder is talked to. Blocks; a tokenizer of 150,000 tokens takes some 50 ms."""
    config = read_json(folder / TOKENIZER_CONFIG)
    special = {*SPECIAL, *(key for key in config if key.endswith("_token"))}
    extra = config.get("extra_special_tokens")
    special |= set(extra) if isinstance(extra, dict) else set()
    source = template.chosen(_templates(folder, config))
    program = bool(config.get("chat_template_type")) and not source
    return Manners(source, _vocabulary(folder, config), tuple(sorted(special)), program)


def family_of(name: str, architecture: str = "") -> str:
    """The family a model belongs to, as people call it: by its name, else by its architecture; "" for others."""
    words = [part for part in (name.rpartition("/")[2].lower(), architecture.lower()) if part]
    return next(
        (family for word in words for start, family in FAMILIES.items() if word.startswith(start)), ""
    )


def bits_of(config: Mapping[str, Any]) -> int:
    """Bits of a weight: of one that is quantised, else 16."""
    for part in (config, config.get("text_config")):
        for key in ("quantization", "quantization_config"):
            said = part.get(key) if isinstance(part, Mapping) else None
            if isinstance(said, Mapping):
                bits = said.get("bits") or QUANTISED.get(str(said.get("quant_method")))
                if isinstance(bits, int):
                    return bits
    return UNQUANTISED


def _unread(config: Mapping[str, Any]) -> str:
    """A way of quantising that mlx-lm does not read, by name."""
    said = config.get("quantization_config")
    if config.get("quantization") or not isinstance(said, Mapping) or "quant_method" not in said:
        return ""
    method = str(said["quant_method"])
    return "" if method in QUANTISED else re.sub(r"[^\w.-]", "", method)[:32] or "an unknown method"


def _speaks(manners: Manners, family: str) -> dict[str, Any]:
    """What a chat template says of tools and reasoning; nothing of a model without one."""
    if not manners.template:
        return {}
    names = template.variables(manners.template)
    own = template.own(names, manners.special)
    dialect = detect.dialect(manners.template, manners.vocabulary, family)
    style = reasoning.find(manners.template, manners.vocabulary)
    return {
        "tools": dialect.name if dialect is not None else "", "reasoning": style.name if style is not None else "",
        "switch": template.switch(own), "template_variables": own,
    }  # fmt: skip


def _has(config: Mapping[str, Any], name: str, kind: str) -> bool:
    """Whether a model is made to see or to listen: its config has a part for that, or its names say so."""
    family = f"{config.get('model_type', '')}"
    if kind == "vision":
        keys = ("vision_config", "vision_tower", "visual", "mm_vision_tower")
        return any(config.get(key) for key in keys) or bool(SEES.search(family))
    hears = ("audio_config", "audio_encoder", "speech_config")
    return any(config.get(key) for key in hears) or bool(LISTENS.search(family))


def _dimensions(folder: Path, config: dict[str, Any]) -> int:
    """The length of an embedding model's vectors: that of its last layer's output; 0 where its files do not say."""
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else {}
    wide = config.get("hidden_size") or text.get("hidden_size") or 0  # type: ignore[union-attr]
    for module in reversed(recipe.read_modules(folder)):
        said = read_json(folder / Path(str(module.get("path", ""))).name / CONFIG)
        if str(module.get("type", "")).endswith("Dense") and isinstance(said.get("out_features"), int):
            return said["out_features"]
    return wide if isinstance(wide, int) else 0


def _templates(folder: Path, config: Mapping[str, Any]) -> Any:
    """A folder's chat templates as transformers finds them: files of their own before the tokenizer's config."""
    if (text := _text(folder / TEMPLATE)) is not None:
        more = sorted((folder / MORE_TEMPLATES).glob("*.jinja"))
        return {"default": text, **{file.stem: _text(file) for file in more}} if more else text
    found = config.get("chat_template")
    if isinstance(found, list):
        return {str(one.get("name")): one.get("template") for one in found if isinstance(one, dict)}
    return found


def _vocabulary(folder: Path, config: Mapping[str, Any]) -> Collection[str]:
    added = config.get("added_tokens_decoder")
    words: list[Any] = (
        [one.get("content") for one in added.values() if isinstance(one, dict)]
        if isinstance(added, dict)
        else []
    )
    try:
        made = msgspec.json.decode((folder / TOKENIZER).read_bytes(), type=_Tokenizer)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        made = _Tokenizer()
    words += [one.content for one in made.added_tokens]
    vocab = made.model.vocab
    words += (
        vocab if isinstance(vocab, dict) else [one[0] for one in vocab or () if isinstance(one, list) and one]
    )
    return {word for word in words if isinstance(word, str)}


def _scripted(spec: Mapping[str, Any]) -> Capabilities:
    tools, style, context = (
        str(spec.get("tools") or ""),
        str(spec.get("reasoning") or ""),
        spec.get("context_length"),
    )
    kinds: list[Capability] = ["text"]
    kinds += ["tools"] if tools else []
    kinds += ["reasoning"] if style else []
    return Capabilities(
        kinds=tuple(kinds), architecture="fake", family="Scripted", tools=tools, reasoning=style,
        switch=template.SWITCHES[0] if style else "", template_variables=(template.SWITCHES[0],) if style else (),
        context_length=context if isinstance(context, int) else SCRIPTED_CONTEXT,
    )  # fmt: skip


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
