"""Tiny embedding models for tests: a BERT and a decoder of random weights, in folders as sentence-transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.qwen3 import Model, ModelArgs
from mlx_lm.utils import save_config, save_model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from .models import randomized, tokenizer

WORDS = (
    "the", "a", "cat", "dog", "sat", "on", "mat", "ran", "far", "away", "and", "then", "came", "back", "home", "to", "eat", "fish", "with", "rice",
)  # fmt: skip
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LIMIT = 24
MEAN = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
STEPS = ("Transformer", "Pooling", "Normalize")


def tiny_bert(
    folder: Path,
    *,
    family: str = "bert",
    seed: int = 0,
    limit: int | None = LIMIT,
    pooling: dict[str, Any] | None = MEAN,
    steps: tuple[str, ...] = STEPS,
    **config: Any,
) -> Path:
    """A BERT of 2 layers, 32 wide, with 4 heads and 64 positions. Without `pooling` none of sentence-transformers' files."""
    folder.mkdir(parents=True, exist_ok=True)
    size = word_tokenizer(folder)
    shape = {
        "model_type": family, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "max_position_embeddings": 64,
        "type_vocab_size": 2, "vocab_size": size, "pad_token_id": 0 if family == "bert" else 1, **config,
    }  # fmt: skip
    write(folder / "config.json", shape)
    mx.save_safetensors(str(folder / "model.safetensors"), weights(shape, seed))
    if pooling is not None:
        paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize", "Dense": "2_Dense"}
        modules = [
            {
                "idx": n,
                "name": str(n),
                "path": paths.get(step, step),
                "type": f"sentence_transformers.models.{step}",
            }
            for n, step in enumerate(steps)
        ]
        write(folder / "modules.json", modules)
        write(folder / "1_Pooling" / "config.json", pooling)
    if limit is not None:
        write(folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})
    return folder


def weights(shape: dict[str, Any], seed: int) -> dict[str, mx.array]:
    """Random weights under transformers' names, wide enough that every part of the model matters."""
    wide, inner = shape["hidden_size"], shape["intermediate_size"]
    sizes = {
        "embeddings.word_embeddings.weight": (shape["vocab_size"], wide),
        "embeddings.position_embeddings.weight": (shape["max_position_embeddings"], wide),
        "embeddings.token_type_embeddings.weight": (shape["type_vocab_size"], wide),
        "embeddings.LayerNorm.weight": (wide,),
        "embeddings.LayerNorm.bias": (wide,),
    }
    parts = {"attention.self.query": (wide, wide), "attention.self.key": (wide, wide), "attention.self.value": (wide, wide), "attention.output.dense": (wide, wide), "intermediate.dense": (inner, wide), "output.dense": (wide, inner)}  # fmt: skip
    for number in range(shape["num_hidden_layers"]):
        name = f"encoder.layer.{number}."
        for part, size in parts.items():
            sizes |= {f"{name}{part}.weight": size, f"{name}{part}.bias": size[:1]}
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            sizes |= {f"{name}{part}.weight": (wide,), f"{name}{part}.bias": (wide,)}
    keys = mx.random.split(mx.random.key(seed), len(sizes))
    return {name: mx.random.normal(size, key=key) * (2 * size[-1] ** -0.5) for (name, size), key in zip(sizes.items(), keys, strict=True)}  # fmt: skip


def word_tokenizer(folder: Path, *more: str) -> int:
    """A WordPiece tokenizer of whole words with [CLS] and [SEP] around, left as a careless maker leaves it: cutting at
    8 tokens and padding to 8. Its size."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS, "##s", ".", ",", *more))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    made.enable_truncation(8)
    made.enable_padding(length=8)
    made.save(str(folder / "tokenizer.json"))
    write(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 512})
    return len(vocabulary)


def tiny_decoder(
    folder: Path, *, named: bool = True, files: bool = True, dtype: mx.Dtype = mx.float32
) -> Path:
    """A Qwen3 of random weights, pooled by the last token, whose tokenizer appends the end of sequence.

    Without `named` the weights are those of the backbone alone, as Qwen3-Embedding's are; without `files` there are none
    of sentence-transformers', as in conversions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = tokenizer(folder, template=None)
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = made.token_to_id("<|endoftext|>")
    made.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
    )
    made.save(str(folder / "tokenizer.json"))
    config = {
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2,
        "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "rms_norm_eps": 1e-6, "vocab_size": -(-size // 32) * 32, "max_position_embeddings": 128, "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }  # fmt: skip
    model = randomized(Model(ModelArgs.from_dict(config)), seed=3)
    model.set_dtype(dtype)
    save_model(folder, model)
    save_config(config, folder / "config.json")
    if not named:
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
        bare = {
            name.removeprefix("model."): array
            for name, array in mx.load(str(folder / "model.safetensors")).items()
        }
        mx.eval(bare)
        mx.save_safetensors(str(folder / "model.safetensors"), bare)
    if files:
        write(folder / "modules.json", [{"path": "", "type": "sentence_transformers.models.Transformer"}, {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}, {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}])  # fmt: skip
        write(
            folder / "1_Pooling" / "config.json",
            {"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False},
        )
    return folder


def write(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")
