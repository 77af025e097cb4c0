"""What a folder's files say about embedding: whether its model is for that, its limit, and how tokens become one vector.

The files are those of sentence-transformers (https://sbert.net/docs/sentence_transformer/usage/custom_models.html):
`modules.json` names the steps, `1_Pooling/config.json` the pooling, `sentence_bert_config.json` the limit. Reads JSON
alone; imports nothing heavy, as the server reads folders with it too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from ...errors import ModelLoadFailed
from ...messages import ModelKind

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

BERTS = frozenset({"bert", "roberta", "xlm-roberta", "camembert"})
# Those of them whose positions begin after the padding token's id.
ROBERTAS = BERTS - {"bert"}
# Encoders, which generate nothing; those outside BERTS need mlx-embeddings.
ENCODERS = BERTS | {
    "albert", "deberta", "deberta-v2", "distilbert", "electra", "ernie", "eurobert", "modernbert", "mpnet", "new",
    "nomic_bert", "xlm-roberta-xl",
}  # fmt: skip
# Families trained so that the beginning of a vector is a vector (Matryoshka; arXiv 2205.13147).
MATRYOSHKA = frozenset({"gemma3_text", "qwen3"})
LEGACY: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
STEPS = frozenset({"Transformer", "Pooling", "Normalize", "Dense", "Dropout"})
UNKNOWN_LIMIT = 512
# Tokenizers without a limit say 1e30.
NO_LIMIT = 10**9
NAMED = re.compile(r"(?<![a-z])embed(?!ded)", re.IGNORECASE)


class Recipe(msgspec.Struct, frozen=True):
    """How a vector is made of a text's tokens.

    The vectors of all `pooling` modes stand one after the other; the `dense` folders hold layers that follow; with
    `normalize` the result has length 1. `limit` counts the tokens of an input, special ones included. `prompt` stands
    before every text. `sizes` are the shorter lengths a vector may be cut to, None is any.
    """

    pooling: tuple[Pooling, ...]
    normalize: bool
    limit: int
    prompt: str = ""
    dense: tuple[str, ...] = ()
    sizes: tuple[int, ...] | None = ()

    def allows(self, dimensions: int, full: int) -> bool:
        """Whether vectors of length `full` may be cut to `dimensions`."""
        return dimensions == full or (
            0 < dimensions < full and (self.sizes is None or dimensions in self.sizes)
        )


def kind_of(folder: Path, config: dict[str, Any], name: str) -> ModelKind:
    """What the model in a folder is for.

    An embedding model has the files of sentence-transformers, or is an encoder, or says "embed" in its name:
    conversions of decoders such as Qwen3-Embedding often come without those files.
    """
    steps = bool(_types(folder)) or (folder / "1_Pooling" / "config.json").is_file()
    encoder = str(config.get("model_type", "")) in ENCODERS
    return "embedding" if steps or encoder or NAMED.search(name.rpartition("/")[2]) else "text"


def limit_of(folder: Path, config: dict[str, Any]) -> int:
    """The most tokens an input may have: sentence-transformers' `max_seq_length`, else what positions and tokenizer allow."""
    family = str(config.get("model_type", ""))
    positions = int(config.get("max_position_embeddings") or 0)
    if positions and family in ROBERTAS:
        positions -= offset_of(config)
    stated = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
    tokenizer = read_json(folder / "tokenizer_config.json").get("model_max_length")
    known = [int(value) for value in (positions, stated or tokenizer) if value and 0 < value < NO_LIMIT]
    return min(known, default=UNKNOWN_LIMIT)


def offset_of(config: dict[str, Any]) -> int:
    """The position of a text's first token: RoBERTa's positions begin after its padding token's id."""
    return int(config.get("pad_token_id", 1)) + 1 if config.get("model_type") in ROBERTAS else 0


def read(folder: Path, config: dict[str, Any]) -> Recipe:
    """The recipe of a folder. Raises ModelLoadFailed for a step or a mode of pooling that is not known here.

    Without the files of sentence-transformers: the mean of an encoder's tokens, the last token of a decoder,
    normalised.
    """
    modules = read_modules(folder)
    types = _types(folder)
    if unknown := [name for name in types if name not in STEPS]:
        raise ModelLoadFailed(f"modules.json has a step that is not supported: {unknown[0]}")
    return Recipe(
        pooling=_pooling(folder, modules, config),
        normalize="Normalize" in types or not types,
        limit=limit_of(folder, config),
        prompt=_prompt(folder),
        dense=tuple(path for name, path in zip(types, _paths(modules), strict=True) if name == "Dense"),
        sizes=_sizes(config),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file; empty where there is none: others write these folders too."""
    value = _loaded(path)
    return value if isinstance(value, dict) else {}


def read_modules(folder: Path) -> list[dict[str, Any]]:
    """The steps of `modules.json`, in order."""
    value = _loaded(folder / "modules.json")
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _loaded(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _types(folder: Path) -> list[str]:
    return [str(module.get("type", "")).rpartition(".")[2] for module in read_modules(folder)]


def _paths(modules: Iterable[dict[str, Any]]) -> list[str]:
    return [str(module.get("path", "")) for module in modules]


def _pooling(folder: Path, modules: list[dict[str, Any]], config: dict[str, Any]) -> tuple[Pooling, ...]:
    places = [path for path in _paths(modules) if "Pooling" in path] or ["1_Pooling"]
    said = read_json(folder / places[0] / "config.json")
    if said.get("include_prompt") is False:
        raise ModelLoadFailed("its pooling leaves out the prompt (include_prompt), which is not supported")
    mode = said.get("pooling_mode")
    modes = (
        [mode] if isinstance(mode, str) else mode or [LEGACY[key] for key in LEGACY if said.get(key) is True]
    )
    if unknown := [one for one in modes if one not in get_args(Pooling)]:
        raise ModelLoadFailed(f"its mode of pooling is not supported: {unknown[0]}")
    decoder = not said and str(config.get("model_type", "")) not in ENCODERS
    return tuple(modes) or (("lasttoken",) if decoder else ("mean",))


def _prompt(folder: Path) -> str:
    """The prompt that sentence-transformers puts before a text when none is asked for; nearly always none."""
    said = read_json(folder / "config_sentence_transformers.json")
    prompts = said.get("prompts")
    return str(prompts.get(said.get("default_prompt_name"), "")) if isinstance(prompts, dict) else ""


def _sizes(config: dict[str, Any]) -> tuple[int, ...] | None:
    """The key names are those that vLLM reads (https://docs.vllm.ai, Matryoshka embeddings)."""
    if isinstance(sizes := config.get("matryoshka_dimensions"), list):
        return tuple(int(size) for size in sizes)
    trained = config.get("is_matryoshka") or config.get("model_type") in MATRYOSHKA
    return None if trained else ()
