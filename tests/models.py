"""Tiny models for tests: real architectures, real tokenizers, random weights, on disk within a second."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.llama import Model, ModelArgs
from mlx_lm.utils import quantize_model, save_config, save_model
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

# Configurations of tiny models of several architectures, for tests that make them without a folder.
VOCABULARY = 96
COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 2048,
}
LFM2 = {
    "hidden_size": 128,
    "norm_eps": 1e-5,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_dim": 128,
    "block_multiple_of": 32,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
    "layer_types": ["conv", "full_attention"],
}
FALCON = {
    "mamba_d_ssm": 64,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 1,
}
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}"
    "{% if message.role == 'tool' and not loop.previtem %}{{ raise_exception('A tool cannot speak first') }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls %}{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "Once upon a time there was a little model which knew nothing at all.",
    "def add(a, b):\n    return a + b\n",
    "Ein Ring, sie zu knechten; naïve café, œuvre, 日本語, 😀👩‍👩‍👧.",
)


def tokenizer(folder: Path, template: str | None = CHATML, marks: Sequence[str] = ("<think>",)) -> int:
    """Write a byte-level BPE tokenizer: any text can be encoded, `marks` are added and not special. Its size."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=511,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    made.train_from_iterator(SENTENCES * 2, trainer)
    made.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in marks])
    made.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
    }
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return made.get_vocab_size()


def tiny_model(
    folder: Path,
    seed: int = 0,
    hidden: int = 64,
    layers: int = 2,
    vocab: int | None = None,
    quantize: int | None = None,
    context: int = 1024,
    template: str | None = CHATML,
    marks: Sequence[str] = ("<think>",),
) -> Path:
    """Write a random llama that `mlx_lm.load` opens; `quantize` is a number of bits. Returns the folder.

    `vocab` None pads the tokenizer's size to a multiple of 32, as real models do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = tokenizer(folder, template, marks)
    config = {
        "model_type": "llama",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": hidden * 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": vocab or -(-size // 32) * 32,
        "max_position_embeddings": context,
        "tie_word_embeddings": False,
        "eos_token_id": 2,
    }
    model = randomized(Model(ModelArgs.from_dict(config)), seed)
    if quantize is not None:
        with contextlib.redirect_stdout(io.StringIO()):
            model, config = quantize_model(model, config, group_size=32, bits=quantize)
    save_model(folder, model)
    save_config(config, folder / "config.json")
    return folder


def randomized(model: Any, seed: int) -> Any:
    """Weights far enough apart that the most likely token is rarely a near tie."""
    keys = iter(mx.random.split(mx.random.key(seed), len(tree_flatten(model.parameters()))))

    def draw(weight: mx.array) -> mx.array:
        scale = weight.shape[-1] ** -0.5
        return mx.random.normal(weight.shape, key=next(keys)) * scale if weight.ndim > 1 else weight

    model.update(tree_map(draw, model.parameters()))
    mx.eval(model.parameters())
    return model
