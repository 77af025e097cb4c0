"""Small GGUF files for tests: a random model of mlx-lm's own classes, written with the `gguf` package."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
from gguf import GGMLQuantizationType as Type
from mlx.utils import tree_flatten
from mlx_lm.models import llama, qwen2
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "The year 2026 has 365 days, hasn't it?",
    "naïve café\n\n  x = [i**2 for i in range(10)]",
    "東京 12345 🙂",
] * 3
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attn_output",
    **{f"self_attn.{letter}_proj": f"attn_{letter}" for letter in "qkv"},
    **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
}
LLAMA3_TEXT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass
class Sample:
    """A file to write. `metadata` and `tensors` replace or, with None, leave out what would be written."""

    architecture: str = "llama"
    type: Type = Type.F16
    embedding: Type | None = None
    pre: str = "smollm"
    tied: bool = True
    alignment: int = 32
    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, np.ndarray | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tokenizer = original_tokenizer(self.pre)
        self.model = tiny_model(self.architecture, self.tokenizer.get_vocab_size(), self.tied)
        self.stored: dict[str, np.ndarray] = {}

    def write(self, path: Path) -> Path:
        """Write the file; `self.stored` then holds what its tensors are worth, by the model's names."""
        writer = gguf.GGUFWriter(path, self.architecture)
        writer.data_alignment = self.alignment
        for key, value in (self._model_metadata() | self._tokenizer_metadata() | self.metadata).items():
            add_value(writer, key, value)
        for name, value in tree_flatten(self.model.parameters()):
            self._add_tensor(writer, name, np.array(value))
        for name, value in self.tensors.items():
            if value is not None:
                writer.add_tensor(name, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def reference(self) -> Any:
        """mlx-lm's model with the weights that the file holds, in float32."""
        self.model.load_weights([(name, mx.array(value)) for name, value in self.stored.items()])
        return self.model

    def _add_tensor(self, writer: gguf.GGUFWriter, name: str, value: np.ndarray) -> None:
        kind = self._type_of(name, value)
        raw = gguf.quants.quantize(value, kind)
        self.stored[name] = gguf.quants.dequantize(raw, kind).astype(np.float32)
        title = gguf_name(name)
        if title in self.tensors:
            return
        if self.architecture == "llama" and (".q_proj" in name or ".k_proj" in name):
            raw = gguf.quants.quantize(permuted(self.stored[name], self._heads(name)), kind)
        writer.add_tensor(title, raw, raw_dtype=kind)

    def _type_of(self, name: str, value: np.ndarray) -> Type:
        if value.ndim == 1:
            return Type.F32
        return self.embedding or self.type if "embed_tokens" in name else self.type

    def _heads(self, name: str) -> int:
        return (
            self.model.args.num_attention_heads if "q_proj" in name else self.model.args.num_key_value_heads
        )

    def _model_metadata(self) -> dict[str, Any]:
        args, prefix = self.model.args, self.architecture
        return {
            "general.name": "Tiny Random (test)",
            "general.alignment": np.uint32(self.alignment),
            f"{prefix}.block_count": args.num_hidden_layers,
            f"{prefix}.context_length": args.max_position_embeddings,
            f"{prefix}.embedding_length": args.hidden_size,
            f"{prefix}.feed_forward_length": args.intermediate_size,
            f"{prefix}.attention.head_count": args.num_attention_heads,
            f"{prefix}.attention.head_count_kv": args.num_key_value_heads,
            f"{prefix}.attention.layer_norm_rms_epsilon": args.rms_norm_eps,
            f"{prefix}.rope.freq_base": float(args.rope_theta),
        }

    def _tokenizer_metadata(self) -> dict[str, Any]:
        vocabulary = self.tokenizer.get_vocab()
        tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
        merges = model_json(self.tokenizer)["merges"]
        return {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": self.pre,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3 if token in CONTROL_TOKENS else 1 for token in tokens],
            "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
            "tokenizer.ggml.bos_token_id": vocabulary["<|im_start|>"],
            "tokenizer.ggml.eos_token_id": vocabulary["<|im_end|>"],
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.chat_template": TEMPLATE,
        }


def add_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """One key with the type that a value's Python type suggests; None leaves the key out."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int | np.integer):
        writer.add_uint32(key, int(value))
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif value is not None:
        writer.add_array(key, value)


def gguf_name(name: str) -> str:
    """A tensor's name in GGUF files from its name in mlx-lm."""
    name = name.replace("model.layers.", "blk.")
    for ours, theirs in NAMES.items():
        name = name.replace(f"{ours}.", f"{theirs}.")
    return name


def permuted(value: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of the rows of q and k: the halves of every head interleaved."""
    shape = value.shape
    return value.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def tiny_model(architecture: str, vocabulary: int, tied: bool) -> Any:
    sizes = {
        "model_type": architecture,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": vocabulary,
        "max_position_embeddings": 128,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
    }
    mx.random.seed(0)
    module = {"llama": llama, "qwen2": qwen2}[architecture]
    model = module.Model(module.ModelArgs(**sizes))
    model.load_weights(
        [(name, mx.random.normal(value.shape) * 0.2) for name, value in tree_flatten(model.parameters())]
    )
    return model


def model_json(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.to_str())["model"]


def original_tokenizer(pre: str) -> Tokenizer:
    """A tokenizer as its makers publish it on the hub, trained on a few lines."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in ("smollm", "gpt-2"))
    text = LLAMA3_TEXT.replace("{1,3}", "") if pre == "qwen2" else LLAMA3_TEXT
    before = {
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "gpt-2": [],
    }.get(pre, [pre_tokenizers.Split(Regex(text), "isolated")])
    tokenizer = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, level])
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        show_progress=False,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer
