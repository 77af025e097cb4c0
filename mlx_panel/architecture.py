"""What a model keeps for a sequence, layer by layer, read off its config the way mlx-lm's models make their caches.

Pure functions of a config. Numbers are values (not bytes) of one sequence. A family that is not named here is taken to
keep keys and values of all tokens in every layer, which is the most a model can take.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from .sizing import Shape

Config = dict[str, Any]
Kind = Literal["full", "window", "state", "both", "none"]

# Names under which mlx-lm loads the models of another family (its `MODEL_REMAPPING`, and wrappers of text models).
ALIASES = {
    "mistral": "llama", "falcon_mamba": "mamba", "joyai_llm_flash": "deepseek_v3", "kimi_k2": "deepseek_v3",
    "kimi_k25": "deepseek_v3", "kimi_vl": "deepseek_v3", "glm_moe_dsa": "deepseek_v32", "gemma3": "gemma3_text",
    "gemma4": "gemma4_text", "gemma4_unified": "gemma4_text", "gemma4_unified_text": "gemma4_text",
    "gemma3n_text": "gemma3n", "qwen3_5_text": "qwen3_5", "qwen3_5_moe": "qwen3_5", "qwen3_5_moe_text": "qwen3_5",
    "lfm2_moe": "lfm2", "lfm2_vl": "lfm2", "longcat_flash_ngram": "longcat_flash", "llama4": "llama4_text",
}  # fmt: skip
# Families whose caches hold the latents of multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1) ...
LATENT = {"deepseek_v3", "deepseek_v32", "glm4_moe_lite", "kimi_linear", "kimi_k3", "longcat_flash", "mistral4",
          "bailing_hybrid", "bailing_moe_v3"}  # fmt: skip
# ... and those that keep the keys and values made of them.
UNFOLDED = {"deepseek_v2", "minicpm3", "youtu_llm"}
# Families that read `layer_types`, with what holds for a layer where the config has none: one of these, in turn.
TYPED: dict[str, Sequence[Kind]] = {
    "llama": ("full",), "ministral3": ("full",), "afmoe": ("full",), "exaone_moe": ("full",), "laguna": ("full",),
    "mellum": ("full",), "gemma3n": ("full",), "olmo_hybrid": ("full",), "granitemoehybrid": ("state",),
    "gpt_oss": ("window", "full"), "step3p5": ("window", "full"),
    "olmo3": ("window", "window", "window", "full"), "spark2_5": ("window", "window", "window", "full"),
    "muse_glimmer": ("window", "window", "window", "full"), "muse_spark": ("full",), "lfm2": ("state",),
    "gemma4_text": ("window", "window", "window", "window", "full"),
}  # fmt: skip
NAMED: dict[str, Kind] = {
    "full_attention": "full", "attention": "full", "sliding_attention": "window", "linear_attention": "state",
    "mamba": "state", "conv": "state", "recurrent": "state",
}  # fmt: skip
# Every so many layers one keeps all; the others keep a window or a state.
EVERY: dict[str, tuple[str, int, Kind]] = {
    "gemma3_text": ("sliding_window_pattern", 6, "window"),
    "cohere2": ("sliding_window_pattern", 4, "window"),
    "plamo3": ("sliding_window_pattern", 8, "window"),
    "qwen3_next": ("full_attention_interval", 4, "state"),
    "qwen3_5": ("full_attention_interval", 4, "state"),
}
# Wrappers whose caches are plain ones, whatever the language model in them would make.
PLAIN, WRAPPER = {"mistral3", "llava", "pixtral"}, "wrapper_type"
# Names under which families state their context, the usual one first.
CONTEXTS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
    "max_seq_len",
)
# Measured: what the vocabulary takes in a worker (the tokenizer, the pieces of text, a grammar's tables), for each token.
TOKENIZER_BYTES = 1200
# Measured on a Linux CPU, peak of a pass over 64 to 1024 tokens of models 256 to 1024 wide: values in flight for each
# token are 16 times the width and twice that of the feed-forward part, within 10 %; and 1.1 scores for each head and pair.
WIDTHS, INNER_WIDTHS, SCORES = 16, 2, 1.1
# Head dimensions for which mlx has a fused attention of many tokens on a GPU.
FUSED = (64, 80, 128)
STATES = {"mamba", "mamba2", "rwkv7"}
WINDOWS = (
    "sliding_window",
    "sliding_window_size",
    "attention_window_size",
    "window_size",
    "attention_chunk_size",
)
COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers")


class Layer(NamedTuple):
    """Values a layer keeps: `token` for each token, of all (`window` 0) or of the last so many; and `fixed` ones in any
    case, `wide` of them in float32 whatever the model computes in."""

    token: int = 0
    window: int = 0
    fixed: int = 0
    wide: int = 0


def text_config(config: Config) -> Config:
    """The part of a config that is about the language model, over the whole."""
    found = (config.get(key) for key in ("text_config", "llm_config"))
    inner: Config = next((part for part in found if isinstance(part, dict)), {})
    return config | inner | {WRAPPER: config.get("model_type")}


def family(config: Config) -> str:
    """The name of mlx-lm's module for this (flat) config."""
    name = str(config.get("model_type", "")).replace("-", "_")
    return ALIASES.get(name, name)


def layers(config: Config) -> list[Layer]:
    """The layers of a (flat) config, those that keep something."""
    name = family(config)
    count = number(config, *COUNTS) or len(config.get("hybrid_override_pattern") or ())
    kinds = _kinds(config, name, count)
    made = [_layer(config, name, kind, index) for index, kind in enumerate(kinds) if kind != "none"]
    if name == "iquestloopcoder":
        window = number(config, "loop_window_size", default=64)
        made += [layer._replace(window=window) for layer in made]
    return made * number(config, "num_loops", default=1) if name == "nanbeige" else made


def number(config: Config, *names: str, default: int = 0) -> int:
    """The first of these values that is a positive number."""
    found = (config.get(name) for name in names)
    return next((int(value) for value in found if isinstance(value, int | float) and value > 0), default)


def head_dim(config: Config) -> int:
    """Values of one head."""
    heads = number(config, "num_attention_heads", "n_head", "n_heads", "num_heads", default=1)
    hidden = number(config, "hidden_size", "n_embd", "d_model", "model_dim", "hidden_dim")
    return number(config, "head_dim", "attention_head_dim", "qk_head_dim") or hidden // heads


# --- the whole --------------------------------------------------------------------------------------------------


def shape(config: Config, weights: int, *, item: int, wide: bool, embedding: bool = False) -> Shape:
    """The shape of a model whose parameters take `weights` bytes and whose other values are of `item` bytes.

    `wide` says that it is computed on a CPU, where attention is not fused. An embedding model keeps nothing.
    """
    flat = text_config(config)
    kept = [] if embedding else layers(flat)
    grown = sum(layer.token for layer in kept if not layer.window)
    per_token, per_pair = _activations(flat, item, wide)
    return Shape(
        weights=weights,
        kv_token=grown * item,
        kv_values=grown,
        kv_fixed=sum(layer.fixed * item + layer.wide * 4 for layer in kept),
        kv_window=max((layer.window for layer in kept), default=0),
        kv_window_token=_window_token(kept) * item,
        activation_token=per_token,
        activation_pair=per_pair,
        tokenizer=number(flat, "vocab_size") * TOKENIZER_BYTES,
        context_length=number(flat, *CONTEXTS),
    )


def _window_token(kept: list[Layer]) -> int:
    """Values a token of windows; where they differ in length, as many as if all were as long as the longest."""
    longest = max((layer.window for layer in kept), default=0)
    total = sum(layer.token * layer.window for layer in kept)
    return -(-total // longest) if longest else 0


def _activations(flat: Config, item: int, wide: bool) -> tuple[int, int]:
    """Bytes in flight for a prompt token of one pass, and for each token that it looks at."""
    heads = number(flat, "num_attention_heads", "n_head", "n_heads", "num_heads", default=1)
    hidden = max(number(flat, "hidden_size", "n_embd", "d_model", "model_dim"), heads * head_dim(flat))
    experts = number(flat, "num_experts_per_tok", "moe_top_k", default=1)
    inner = number(flat, "moe_intermediate_size") * experts
    inner = max(inner, number(flat, "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden))
    fused = not wide and head_dim(flat) in FUSED
    return item * (WIDTHS * hidden + INNER_WIDTHS * inner), 0 if fused else math.ceil(item * heads * SCORES)


# --- which layer is what ------------------------------------------------------------------------------------------


def _kinds(config: Config, name: str, count: int) -> list[Kind]:
    if config.get(WRAPPER) in PLAIN:
        return ["full"] * count
    if name in STATES:
        return ["state"] * count
    if name in EVERY:
        key, usual, other = EVERY[name]
        every = number(config, key, default=usual)
        return ["full" if (index + 1) % every == 0 else other for index in range(count)]
    if name in TYPED:
        return _typed(config, name, count)
    rule = RULES.get(name)
    return rule(config, count) if rule is not None else ["full"] * count


def _typed(config: Config, name: str, count: int) -> list[Kind]:
    stated, chosen = config.get("layer_types"), config.get("full_attn_idxs")
    kinds: list[Kind] = list(itertools.islice(itertools.cycle(TYPED[name]), count))
    if name == "lfm2" and isinstance(chosen, list):
        kinds = ["full" if index in chosen else "state" for index in range(count)]
    elif isinstance(stated, list):
        kinds = [NAMED.get(str(one), "window" if "sliding" in str(one) else "full") for one in stated]
    # Layers that share the keys and values of others keep none.
    shared = config.get("num_kv_shared_layers", 20 if name == "gemma4_text" else 0)
    return kinds[: max(0, len(kinds) - int(shared or 0))]


def _grouped(config: Config, count: int) -> list[Kind]:
    size = number(config, "layer_group_size", default=4)
    whole = count // size * size
    return ["full" if (index + 1) % size == 0 or index >= whole else "state" for index in range(count)]


def _lettered(config: Config, count: int) -> list[Kind]:
    """nemotron_h: M is mamba, * attention; the others keep nothing."""
    stated = (
        config.get("hybrid_override_pattern") or config.get("layers_block_type") or config.get("layer_types")
    )
    names: dict[str, Kind] = {"M": "state", "*": "full"} | NAMED  # type: ignore[assignment]
    return [names.get(str(one), "none") for one in stated or ["*"] * count]


def _exaone4(config: Config, count: int) -> list[Kind]:
    pattern = config.get("sliding_window_pattern")
    if not isinstance(pattern, str) or not pattern:
        return ["full"] * count
    return ["window" if pattern[index % len(pattern)] == "L" else "full" for index in range(count)]


def _jamba(config: Config, count: int) -> list[Kind]:
    stated = config.get("layers_block_type")
    if isinstance(stated, list):
        return [NAMED.get(str(one), "full") for one in stated]
    period, offset = number(config, "attn_layer_period", default=1), number(config, "attn_layer_offset")
    return ["full" if index % period == offset else "state" for index in range(count)]


def _linear(config: Config, count: int) -> list[Kind]:
    """kimi_linear: the layers of its delta attention are named, from 1 on."""
    named = (config.get("linear_attn_config") or {}).get("kda_layers") or ()
    return ["state" if index + 1 in named else "full" for index in range(count)]


def _plamo2(config: Config, count: int) -> list[Kind]:
    step = number(config, "mamba_step", default=2)
    if config.get("mamba_enabled") is False:
        return ["full"] * count
    if count <= step // 2:
        return ["state" if index != count - 1 else "full" for index in range(count)]
    return ["state" if index % step != step // 2 else "full" for index in range(count)]


def _recurrent_gemma(config: Config, count: int) -> list[Kind]:
    blocks = (
        config.get("block_types") or config.get("_block_types") or ["recurrent", "recurrent", "attention"]
    )
    return ["state" if blocks[index % len(blocks)] == "recurrent" else "window" for index in range(count)]


def _nas(config: Config, count: int) -> list[Kind]:
    blocks = [(block or {}).get("attention") or {} for block in config.get("block_configs") or [{}] * count]
    return ["none" if block.get("no_op") or block.get("replace_with_linear") else "full" for block in blocks]


def _chosen(key: str) -> Callable[[Config, int], list[Kind]]:
    """Layers whose entry in a list is 1 keep a window."""
    return lambda config, count: ["window" if one == 1 else "full" for one in config.get(key) or [0] * count]


RULES: dict[str, Callable[[Config, int], list[Kind]]] = {
    "bailing_hybrid": _grouped, "bailing_moe_linear": _grouped, "bailing_moe_v3": _grouped, "nemotron_h": _lettered,
    "exaone4": _exaone4, "jamba": _jamba, "kimi_linear": _linear, "kimi_k3": _linear, "plamo2": _plamo2,
    "recurrent_gemma": _recurrent_gemma, "nemotron_nas": _nas, "mimo_v2_flash": _chosen("hybrid_layer_pattern"),
    "falcon_h1": lambda config, count: ["both"] * count,
    "llama4_text": lambda config, count: ["full" if (index + 1) % 4 == 0 else "window" for index in range(count)],
    "baichuan_m1": lambda config, count: [
        "window" if index in (config.get("sliding_window_layers") or ()) else "full" for index in range(count)
    ],
}  # fmt: skip


# --- how much that is ---------------------------------------------------------------------------------------------


def _layer(config: Config, name: str, kind: Kind, index: int) -> Layer:
    fixed, wide = _state(config, name) if kind in ("state", "both") else (0, 0)
    if kind == "state":
        return Layer(fixed=fixed, wide=wide)
    window = number(config, *WINDOWS, default=4096) if kind == "window" else 0
    if name == "baichuan_m1":
        fixed = 2 * _kv_heads(config, index, bool(window)) * head_dim(config)
    return Layer(_width(config, name, index, bool(window)), window, fixed, wide)


def _width(config: Config, name: str, index: int, window: bool) -> int:
    """Values of a token's keys and values in one layer."""
    rope, nope = number(config, "qk_rope_head_dim"), number(config, "qk_nope_head_dim")
    if name in LATENT:
        latent = number(config, "kv_lora_rank") + rope
        indexed = 2 * number(config, "index_head_dim") if name == "deepseek_v32" else 0
        return 2 * latent if name == "longcat_flash" else latent + indexed
    heads = _kv_heads(config, index, window)
    if name in UNFOLDED:
        heads = number(config, "num_attention_heads", default=1)
        own = number(config, "hidden_size") // heads
        return heads * (nope + rope + number(config, "v_head_dim", default=own))
    keys = head_dim(config)
    if name == "gemma4_text" and not window:
        keys = number(config, "global_head_dim", default=512)
    values = keys
    if name == "mimo_v2_flash":
        prefix = "swa_" if window else ""
        keys = number(config, f"{prefix}head_dim", default=keys)
        values = number(config, f"{prefix}v_head_dim", default=keys)
    return heads * (keys + values)


def _kv_heads(config: Config, index: int, window: bool) -> int:
    name = family(config)
    heads = number(config, "num_attention_heads", "n_head", "n_heads", "num_heads", default=1)
    stated = config.get("num_kv_heads")
    if isinstance(stated, list):
        return int(stated[index])
    if name == "nemotron_nas":
        group = ((config.get("block_configs") or [{}])[index].get("attention") or {}).get("n_heads_in_group")
        return heads // int(group or 1)
    if config.get("multi_query", name == "gpt_bigcode") and not config.get("new_decoder_architecture"):
        return 1
    usual = number(
        config, "num_key_value_heads", "n_head_kv", "num_kv_heads", "n_kv_heads", "num_attention_groups"
    )
    if name == "gemma4_text" and not window and config.get("attention_k_eq_v"):
        usual = number(config, "num_global_key_value_heads", default=usual)
    if window and name == "mimo_v2_flash":
        usual = number(config, "swa_num_key_value_heads", default=usual)
    if window and name == "baichuan_m1":
        usual = number(config, "num_swa_key_value_heads", default=usual)
    if window and name == "step3p5" and config.get("attention_other_setting"):
        usual = number(config["attention_other_setting"], "num_attention_groups", default=usual)
    return usual or heads


def _state(config: Config, name: str) -> tuple[int, int]:
    """Values of a layer that keeps a state: in the model's dtype, and in float32."""
    hidden = number(config, "hidden_size", "d_model")
    if name == "lfm2":
        return (number(config, "conv_L_cache", default=3) - 1) * hidden, 0
    if name in ("kimi_linear", "kimi_k3", "bailing_moe_v3"):
        return _delta(config.get("linear_attn_config") or config)
    if name in ("qwen3_next", "qwen3_5", "olmo_hybrid"):
        keys = number(config, "linear_num_key_heads"), number(config, "linear_key_head_dim")
        values = number(config, "linear_num_value_heads"), number(config, "linear_value_head_dim")
        convolved = 2 * keys[0] * keys[1] + values[0] * values[1]
        kernel = number(config, "linear_conv_kernel_dim", default=4)
        return (kernel - 1) * convolved, values[0] * values[1] * keys[1]
    if name in ("mamba", "jamba"):
        inner = number(config, "intermediate_size", "d_inner") if name == "mamba" else 0
        inner = inner or number(config, "mamba_expand", default=2) * hidden
        kernel = number(config, "conv_kernel", "d_conv", "mamba_d_conv", default=4)
        return inner * (kernel - 1 + number(config, "state_size", "d_state", "mamba_d_state", default=16)), 0
    if name == "recurrent_gemma":
        width = number(config, "lru_width", default=hidden)
        return (number(config, "conv1d_width", default=4) - 1) * width + width, 0
    heads = number(config, "num_heads", "num_attention_heads", "linear_num_heads", default=1)
    if name in ("rwkv7", "bailing_moe_linear", "bailing_hybrid"):
        dim = head_dim(config)
        shifts = 2 * hidden if name == "rwkv7" else 0
        return shifts + (
            number(config, "num_heads") or hidden // dim if name == "rwkv7" else heads
        ) * dim * dim, 0
    return _mamba2(config, name, hidden)


def _delta(config: Config) -> tuple[int, int]:
    heads, dim = number(config, "num_heads", "num_attention_heads", default=1), number(config, "head_dim")
    kernel = number(config, "short_conv_kernel_size", "linear_conv_kernel_dim", default=4)
    return 3 * (kernel - 1) * heads * dim, heads * dim * dim


def _mamba2(config: Config, name: str, hidden: int) -> tuple[int, int]:
    """The state space of Mamba 2 (arXiv:2405.21060) and the convolution before it."""
    heads = number(config, "mamba_n_heads", "mamba_num_heads", "num_heads", default=1)
    dim = number(config, "mamba_d_head", "mamba_head_dim", "head_dim", default=64)
    if name == "plamo2":
        dim = number(config, "hidden_size_per_head", default=dim)
    state = number(config, "mamba_d_state", "ssm_state_size", "state_size", default=128)
    kernel = number(config, "mamba_d_conv", "conv_kernel", default=4)
    groups = number(config, "mamba_n_groups", "n_groups", default=1)
    inner = number(config, "mamba_d_ssm", default=heads * dim)
    convolved = inner if name == "plamo2" else inner + 2 * groups * state
    return (kernel - 1) * convolved, heads * dim * state
