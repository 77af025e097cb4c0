"""From a GGUF file's metadata to config.json, and from its tensor names to those of mlx-lm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..errors import ImportRefused
from .gguf_blocks import BLOCKS
from .gguf_file import GgufFile

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
# Keys with which the same tensors mean another model; refused unless they hold the value that changes nothing.
NEUTRAL = {
    "expert_count": 0,
    "attention.scale": 0.0,
    "logit_scale": 0.0,
    "residual_scale": 0.0,
    "embedding_scale": 0.0,
    "attention.causal": True,
}
ROPE_FACTORS = "rope_freqs.weight"
# Llama 3.1 and 3.2 differ in the factor alone; a file keeps only the result.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


class Weight(NamedTuple):
    """A tensor a model needs: its name in the file and in mlx-lm, its shape, and the heads to un-permute (0: none)."""

    source: str
    target: str
    shape: tuple[int, ...]
    heads: int = 0


def read_config(file: GgufFile) -> dict[str, Any]:
    """config.json without its quantization, once the file is known to hold exactly this model.

    Raises ImportRefused naming the architecture, metadata key or tensors that stand in the way.
    """
    architecture = file.need("general.architecture", str)
    if architecture not in CLASSES:
        raise ImportRefused(
            f"{file.path.name} has the architecture {architecture!r}; {', '.join(CLASSES)} can be imported."
        )
    _refuse_other_meanings(file, architecture)
    config = _dimensions(file, architecture)
    config |= _rope(file, architecture, config["head_dim"])
    _check_tensors(file, config)
    return config


def weights(config: dict[str, Any]) -> Iterator[Weight]:
    """Every tensor of the model that `config` describes."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    yield Weight("token_embd.weight", "model.embed_tokens.weight", (vocabulary, hidden))
    yield Weight("output_norm.weight", "model.norm.weight", (hidden,))
    if not config["tie_word_embeddings"]:
        yield Weight("output.weight", "lm_head.weight", (vocabulary, hidden))
    for layer in range(config["num_hidden_layers"]):
        for weight in _layer(config):
            yield weight._replace(
                source=f"blk.{layer}.{weight.source}", target=f"model.layers.{layer}.{weight.target}"
            )


def _layer(config: dict[str, Any]) -> Iterator[Weight]:
    hidden, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    turned = config["model_type"] == "llama"
    yield Weight("attn_norm.weight", "input_layernorm.weight", (hidden,))
    yield Weight("ffn_norm.weight", "post_attention_layernorm.weight", (hidden,))
    yield Weight("ffn_gate.weight", "mlp.gate_proj.weight", (inner, hidden))
    yield Weight("ffn_up.weight", "mlp.up_proj.weight", (inner, hidden))
    yield Weight("ffn_down.weight", "mlp.down_proj.weight", (hidden, inner))
    yield Weight("attn_output.weight", "self_attn.o_proj.weight", (hidden, heads * size))
    if config["attention_bias"] and turned:
        yield Weight("attn_output.bias", "self_attn.o_proj.bias", (hidden,))
    for letter, count, permuted in (("q", heads, heads), ("k", kv_heads, kv_heads), ("v", kv_heads, 0)):
        source, target, unturn = f"attn_{letter}", f"self_attn.{letter}_proj", permuted if turned else 0
        yield Weight(f"{source}.weight", f"{target}.weight", (count * size, hidden), unturn)
        if config["attention_bias"]:
            yield Weight(f"{source}.bias", f"{target}.bias", (count * size,), unturn)


def unpermuted(rows: int, heads: int) -> np.ndarray:
    """Which row of the file is row i of mlx-lm: llama files interleave the two halves of every head's rotation."""
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(-1)


def _refuse_other_meanings(file: GgufFile, architecture: str) -> None:
    for key, neutral in NEUTRAL.items():
        value = file.get(f"{architecture}.{key}", neutral)
        if value != neutral:
            raise ImportRefused(f"{file.path.name}: {architecture}.{key} = {value!r} cannot be imported.")


def _dimensions(file: GgufFile, architecture: str) -> dict[str, Any]:
    def number(key: str, default: int | None = None) -> int:
        name = f"{architecture}.{key}"
        value = file.need(name, int) if default is None else file.get(name, default)
        if value < 1:
            raise ImportRefused(f"{file.path.name}: {name} = {value!r} cannot be imported.")
        return value

    hidden, heads = number("embedding_length"), number("attention.head_count")
    kv_heads = number("attention.head_count_kv", heads)
    size = number("attention.key_length", hidden // heads)
    if number("attention.value_length", size) != size or (architecture == "qwen2" and size * heads != hidden):
        raise ImportRefused(f"{file.path.name}: attention heads of {size} of {hidden} cannot be imported.")
    if number("rope.dimension_count", size) != size or heads % kv_heads or size % 2:
        raise ImportRefused(f"{file.path.name}: {heads} heads, {kv_heads} key heads, size {size} do not fit.")
    return {
        "architectures": [CLASSES[architecture]],
        "model_type": architecture,
        "hidden_size": hidden,
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": size,
        "hidden_act": "silu",
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": _rounded(file.need(f"{architecture}.attention.layer_norm_rms_epsilon", float)),
        "vocab_size": file.tensors["token_embd.weight"].shape[0]
        if "token_embd.weight" in file.tensors
        else 1,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "attention_bias": architecture == "qwen2" or "blk.0.attn_q.bias" in file.tensors,
    }


def _rounded(value: float) -> float:
    """A float32 as it was written: 9.999999747378752e-06 is 1e-05."""
    return float(str(np.float32(value)))


def _rope(file: GgufFile, architecture: str, size: int) -> dict[str, Any]:
    base = _rounded(file.get(f"{architecture}.rope.freq_base", 10000.0))
    kind = file.get(f"{architecture}.rope.scaling.type", "none")
    scaling: dict[str, Any] | None = None
    if kind == "linear":
        factor = file.need(f"{architecture}.rope.scaling.factor", float)
        scaling = {"rope_type": "linear", "type": "linear", "factor": factor}
    elif kind != "none":
        raise ImportRefused(
            f"{file.path.name}: the rope scaling {kind!r} cannot be imported; none, linear and llama3 can."
        )
    if ROPE_FACTORS in file.tensors:
        if scaling is not None:
            raise _strange_factors(file)
        scaling = _llama3(file, base, size)
    return {"rope_theta": base, "rope_scaling": scaling}


def _llama3(file: GgufFile, base: float, size: int) -> dict[str, Any] | None:
    """The scaling behind a file's rope factors: llama3, none where all are 1; other factors are refused."""
    tensor = file.tensors[ROPE_FACTORS]
    found = BLOCKS[tensor.type].floats(file.rows(tensor)).reshape(-1)
    factor = float(found.max())
    if factor == 1.0 == found.min():
        return None
    if found.shape != (size // 2,) or not np.allclose(found, _llama3_factors(base, size, factor), rtol=1e-3):
        raise _strange_factors(file)
    return {"rope_type": "llama3", "factor": factor, **LLAMA3}


def _llama3_factors(base: float, size: int, factor: float) -> np.ndarray:
    """By how much llama3 scaling slows every frequency down; the same formula as in Meta's reference code."""
    turns = LLAMA3["original_max_position_embeddings"] / (2 * np.pi * base ** (np.arange(0, size, 2) / size))
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def _strange_factors(file: GgufFile) -> ImportRefused:
    return ImportRefused(
        f"{file.path.name}: the factors in {ROPE_FACTORS} are not those of llama3 rope scaling."
    )


def _check_tensors(file: GgufFile, config: dict[str, Any]) -> None:
    layers = config["num_hidden_layers"]
    if layers > len(file.tensors):  # a damaged count must not make us list millions of names
        raise ImportRefused(f"{file.path.name} has {len(file.tensors)} tensors for {layers} layers.")
    needed = {weight.source: weight.shape for weight in weights(config)}
    missing = [name for name in needed if name not in file.tensors]
    unknown = [name for name in file.tensors if name not in needed and name != ROPE_FACTORS]
    if missing or unknown:
        faults = [f"lacks {_first(missing)}"] * bool(missing) + [f"has the unknown {_first(unknown)}"] * bool(
            unknown
        )
        raise ImportRefused(f"{file.path.name} {' and '.join(faults)}.")
    for name, shape in needed.items():
        if file.tensors[name].shape != shape:
            found = list(file.tensors[name].shape)
            raise ImportRefused(
                f"{file.path.name}: tensor {name} is {found}, its metadata says {list(shape)}."
            )


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"tensor{'s' * (len(names) > 1)} {', '.join(names[:3])}{more}"
