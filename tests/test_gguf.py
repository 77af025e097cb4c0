"""Importing GGUF files: the imported model computes what the file says, and what cannot be imported is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx_lm import load
from mlx_lm.models.rope_utils import initialize_rope

from mlx_panel.errors import Conflict, ImportRefused, InvalidParameter
from mlx_panel.hub import disk
from mlx_panel.hub.gguf import import_gguf
from mlx_panel.hub.gguf_blocks import TYPE_NAMES
from mlx_panel.hub.gguf_config import read_config
from mlx_panel.hub.gguf_file import read_gguf
from mlx_panel.hub.gguf_tokenizer import read_tokenizer

from .gguf_files import Sample

PROMPT = [5, 17, 42, 99, 7, 250]


def imported(sample: Sample, folder: Path, **options: Any) -> Path:
    file = sample.write(folder / "tiny.gguf")
    return Path(import_gguf(file, folder / "models", **options).path)


def logits(model: Any) -> np.ndarray:
    return np.array(model(mx.array([PROMPT])).astype(mx.float32))


def refusal(sample: Sample, folder: Path) -> str:
    with pytest.raises(ImportRefused) as caught:
        imported(sample, folder)
    assert not list((folder / "models").glob("*"))
    return str(caught.value)


# --- weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q8_0])
def test_float32_import_computes_what_the_file_says(architecture: str, kind: Type, tmp_path: Path):
    sample = Sample(architecture, kind, tied=kind != Type.Q8_0)
    model, tokenizer = load(str(imported(sample, tmp_path, dtype="float32")))
    np.testing.assert_allclose(logits(model), logits(sample.reference()), atol=2e-4, rtol=1e-3)
    assert tokenizer.eos_token_ids == {0, 2}


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_1, Type.Q8_0])
def test_keep_leaves_quantised_weights_as_they_are(kind: Type, tmp_path: Path):
    sample = Sample("llama", kind, embedding=Type.Q8_0)
    folder = imported(sample, tmp_path)
    model, _ = load(str(folder))
    bits = 8 if kind == Type.Q8_0 else 4
    assert model.layers[0].self_attn.q_proj.bits == bits
    assert model.model.embed_tokens.bits == 8
    assert disk.read_folder(folder).dtype == f"{bits}-bit (group 32)"
    layer = model.layers[1].mlp.down_proj
    found = mx.dequantize(
        layer.weight, layer.scales.astype(mx.float32), layer.biases.astype(mx.float32), 32, bits
    )
    np.testing.assert_allclose(
        np.array(found), sample.stored["model.layers.1.mlp.down_proj.weight"], atol=1e-6
    )
    model.set_dtype(mx.float32)
    np.testing.assert_allclose(logits(model), logits(sample.reference()), atol=0.02, rtol=0.02)


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [
        (Type.F32, "keep", "float32"),
        (Type.F16, "keep", "float16"),
        (Type.BF16, "keep", "bfloat16"),
        (Type.Q4_0, "float16", "float16"),
        (Type.Q4_0, "bfloat16", "bfloat16"),
    ],
)
def test_dtype_of_floats(kind: Type, dtype: Any, expected: str, tmp_path: Path):
    sample = Sample("llama", kind)
    folder = imported(sample, tmp_path, dtype=dtype)
    weights = mx.load(str(folder / "model.safetensors"))
    assert {value.dtype for value in weights.values()} == {getattr(mx, expected)}
    assert disk.read_folder(folder).dtype == expected
    for name, value in sample.stored.items():
        assert mx.array_equal(weights[name], mx.array(value).astype(getattr(mx, expected))).item()


def test_a_value_too_large_for_float16_is_refused(tmp_path: Path):
    sample = Sample("llama", Type.F16, tensors={"output_norm.weight": np.full(64, 1e6, np.float32)})
    assert "output_norm.weight does not fit float16" in refusal(sample, tmp_path)


def test_alignment_is_the_files_own(tmp_path: Path):
    sample = Sample(type=Type.Q8_0, alignment=128)
    model, _ = load(str(imported(sample, tmp_path, dtype="float32")))
    np.testing.assert_allclose(logits(model), logits(sample.reference()), atol=2e-4, rtol=1e-3)


# --- rope ----------------------------------------------------------------------------------------------------


BASE = 500000.0


def llama3_factors(factor: float) -> np.ndarray:
    """What llama.cpp's converter writes for heads of 16: by how much each rotation slows down."""
    wavelengths = 2 * np.pi * BASE ** (np.arange(0, 16, 2) / 16)
    middle = 1 / ((1 - (8192 / wavelengths - 1) / 3) / factor + (8192 / wavelengths - 1) / 3)
    ends = np.where(wavelengths < 8192 / 4, 1.0, factor)
    return np.where((wavelengths >= 8192 / 4) & (wavelengths <= 8192), middle, ends).astype(np.float32)


def rope(folder: Path, metadata: dict[str, Any] | None = None, factors: np.ndarray | None = None) -> Any:
    tensors = {} if factors is None else {"rope_freqs.weight": factors}
    file = Sample(metadata=metadata or {}, tensors=tensors).write(folder / "rope.gguf")
    return read_config(read_gguf(file))["rope_scaling"]


def test_rope_scaling(tmp_path: Path):
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    assert rope(tmp_path) is None
    assert rope(tmp_path, factors=np.ones(8, np.float32)) is None
    assert rope(tmp_path, linear)["factor"] == 4.0


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_recognised_and_means_the_same(factor: float, tmp_path: Path):
    factors = llama3_factors(factor)
    scaling = rope(tmp_path, {"llama.rope.freq_base": BASE}, factors)
    assert scaling["factor"] == factor
    turning = initialize_rope(16, BASE, False, scaling, 128)
    np.testing.assert_allclose(
        np.array(turning._freqs), BASE ** (np.arange(0, 16, 2) / 16) * factors, rtol=1e-4
    )


def test_other_factors_are_refused(tmp_path: Path):
    with pytest.raises(ImportRefused, match=r"rope_freqs\.weight are not those of llama3"):
        rope(tmp_path, {"llama.rope.freq_base": BASE}, np.linspace(1, 9, 8, dtype=np.float32))


def test_yarn_is_refused_by_name(tmp_path: Path):
    with pytest.raises(ImportRefused, match="'yarn'"):
        rope(tmp_path, {"llama.rope.scaling.type": "yarn"})


# --- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"architecture": "qwen2", "metadata": {"general.architecture": "gemma3"}},
            "architecture 'gemma3'; llama, qwen2",
        ),
        ({"metadata": {"llama.block_count": None}}, "lacks the metadata key 'llama.block_count'"),
        ({"metadata": {"llama.block_count": 3}}, "lacks tensors blk.2"),
        ({"metadata": {"llama.block_count": 1}}, "has the unknown tensors blk.1"),
        ({"metadata": {"llama.block_count": "two"}}, "'llama.block_count' is no int"),
        ({"metadata": {"llama.embedding_length": 96}}, "its metadata says"),
        ({"metadata": {"llama.expert_count": 8}}, "llama.expert_count = 8"),
        ({"metadata": {"llama.rope.dimension_count": 8}}, "do not fit"),
        ({"metadata": {"tokenizer.ggml.model": "t5"}}, "tokenizer model 't5'; gpt2, llama"),
        ({"metadata": {"tokenizer.ggml.pre": "tekken"}}, "pre-tokenizer 'tekken'; default, gpt-2, smollm"),
        ({"metadata": {"tokenizer.ggml.pre": None}}, "lacks the metadata key 'tokenizer.ggml.pre'"),
        ({"metadata": {"tokenizer.ggml.merges": ["q zz"]}}, "merge 'q zz' leads out of the vocabulary"),
        ({"metadata": {"tokenizer.ggml.tokens": ["a", "a"]}}, "token 'a' is in the vocabulary twice"),
        (
            {"metadata": {"tokenizer.ggml.tokens": [str(n) for n in range(999)]}},
            "999 tokens and 311 embeddings",
        ),
        ({"metadata": {"tokenizer.ggml.tokens": [1, 2]}}, "'tokenizer.ggml.tokens' is no array of str"),
        ({"metadata": {"llama.block_count": 2**31}}, "tensors for 2147483648 layers"),
        ({"metadata": {"split.count": 3}}, "one of 3 parts"),
        (
            {"tensors": {"blk.0.attn_q_norm.weight": np.ones(16, np.float32)}},
            "unknown tensor blk.0.attn_q_norm.weight",
        ),
        ({"tensors": {"token_embd.weight": None}}, "lacks tensor token_embd.weight"),
    ],
)
def test_what_cannot_be_imported_is_named(options: dict[str, Any], expected: str, tmp_path: Path):
    assert expected in refusal(Sample(**options), tmp_path)


@pytest.mark.parametrize("kind", [Type.Q5_0, Type.TQ1_0])
def test_other_tensor_types_are_refused_by_name(kind: Type, tmp_path: Path):
    width = 256
    value = gguf.quants.quantize(np.ones((4, width), np.float32), kind)
    file = tmp_path / "typed.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tensor("token_embd.weight", value, raw_dtype=kind)
    for step in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        step()
    with pytest.raises(ImportRefused, match=f"type {kind.name}; F32, F16, BF16, Q4_0, Q4_1, Q8_0 can"):
        read_gguf(file)


def test_type_names_are_those_of_the_format():
    assert all(TYPE_NAMES.get(kind.value, kind.name) == kind.name for kind in Type)


@pytest.mark.parametrize("length", [4, 20, 200, 3000, -1])
def test_a_truncated_file_is_refused(length: int, tmp_path: Path):
    file = Sample().write(tmp_path / "tiny.gguf")
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ImportRefused, match="truncated"):
        read_gguf(file)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "is not a GGUF file"),
        (b"PK\3\4" + bytes(100), "is not a GGUF file"),
        (b"GGUF" + (1).to_bytes(4, "little") + bytes(16), "GGUF version 1"),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(16), "big-endian"),
        (b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16, "truncated"),
    ],
)
def test_other_files_are_refused(data: bytes, expected: str, tmp_path: Path):
    file = tmp_path / "other.gguf"
    file.write_bytes(data)
    with pytest.raises(ImportRefused, match=expected):
        read_gguf(file)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_header_is_refused_or_read(data: st.DataObject, tmp_path: Path):
    sample = tmp_path / "tiny.gguf"
    whole = bytearray((sample if sample.exists() else Sample().write(sample)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(8, 600))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(whole)
    try:
        file = read_gguf(damaged)
        read_config(file)
        read_tokenizer(file)
    except ImportRefused:
        pass


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(ImportRefused, match="No such file"):
        import_gguf(tmp_path / "none.gguf", tmp_path)


# --- the folder ------------------------------------------------------------------------------------------------


def test_the_name_is_the_files_own_or_the_given_one(tmp_path: Path):
    file = Sample().write(tmp_path / "tiny.gguf")
    assert import_gguf(file, tmp_path / "models").id == "Tiny-Random-test"
    assert import_gguf(file, tmp_path / "models", name="mine").id == "mine"
    with pytest.raises(InvalidParameter, match=r"'\.\./mine' will not do"):
        import_gguf(file, tmp_path / "models", name="../mine")


def test_an_existing_model_is_replaced_by_force_alone(tmp_path: Path):
    file = Sample().write(tmp_path / "tiny.gguf")
    import_gguf(file, tmp_path / "models", name="mine", dtype="float32")
    with pytest.raises(Conflict, match="--force"):
        import_gguf(file, tmp_path / "models", name="mine")
    assert import_gguf(file, tmp_path / "models", name="mine", force=True).dtype == "float16"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["mine"]


def test_a_stopped_import_leaves_the_old_model(tmp_path: Path):
    file = Sample().write(tmp_path / "tiny.gguf")
    old = import_gguf(file, tmp_path / "models", name="mine", dtype="float32")

    def stop(stage: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_gguf(file, tmp_path / "models", name="mine", force=True, progress=stop)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["mine"]
    assert disk.read_folder(Path(old.path)) == old


def test_progress_ends_at_its_total(tmp_path: Path):
    file = Sample(type=Type.Q4_1).write(tmp_path / "tiny.gguf")
    told: list[tuple[str, int, int]] = []
    model = import_gguf(file, tmp_path / "models", progress=lambda *step: told.append(step))
    stage, done, total = told[-1]
    assert stage == "weights"
    assert 0 < done == total <= model.bytes


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = Sample().write(tmp_path / "tiny.gguf")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(Conflict, match="GB of disk"):
        import_gguf(file, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_config_is_what_transformers_would_write(tmp_path: Path):
    folder = imported(Sample("qwen2", Type.Q4_0, tied=False), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "qwen2"
    assert config["rms_norm_eps"] == 1e-5
    assert config["quantization"] == {"group_size": 32, "bits": 4}
    assert config["tie_word_embeddings"] is False
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2, 0]
