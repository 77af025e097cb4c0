"""What models take in memory: predicted from their files, held against what mlx really takes, corrected by measurement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import mlx.core as mx
import msgspec
import pytest
from hypothesis import given
from mlx_lm.models.cache import make_prompt_cache

from mlx_panel.engine import kv, loader
from mlx_panel.footprint import footprint
from mlx_panel.hub.shape import shape_from, shape_of
from mlx_panel.messages import LocalModel
from mlx_panel.pool.sizes import BASE, Sizes, machine_memory, recommended_memory, reserve
from mlx_panel.sizing import (
    MOST,
    STEP,
    Measured,
    Room,
    Shape,
    kv_bytes,
    largest_context,
    parse_limit,
    size,
)

from .models import COMMON, FALCON, LFM2, tiny_model

MIXED = ["sliding_attention", "full_attention"]
WINDOW = {"sliding_window": 24}
MOE = {"moe_intermediate_size": 32, "num_experts_per_tok": 2, "n_routed_experts": 4, "num_local_experts": 4}
LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16,
    "n_group": 1, "topk_group": 1, "first_k_dense_replace": 2, "n_shared_experts": 1,
}  # fmt: skip
DELTA = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4, "full_attention_interval": 2, "num_experts": 0, "decoder_sparse_step": 1,
    "shared_expert_intermediate_size": 32, "mlp_only_layers": [], "rope_theta": 1e4, "partial_rotary_factor": 1.0,
}  # fmt: skip
MAMBA = {
    "state_size": 16, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True, "time_step_rank": 8,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"model_type": "llama", "layer_types": MIXED, **WINDOW},
    "gemma3_text": {**WINDOW, "sliding_window_pattern": 2},
    "cohere2": {
        **WINDOW,
        "sliding_window_pattern": 2,
        "rope_theta": 1e4,
        "layer_norm_eps": 1e-5,
        "logit_scale": 1.0,
        "hidden_size": 128,
    },
    "gpt_oss": {**MOE, **WINDOW},
    "olmo3": {**WINDOW, "layer_types": MIXED, "rope_theta": 1e4},
    "lfm2": LFM2,
    "falcon_h1": FALCON,
    "deepseek_v3": {**LATENT, **MOE},
    "qwen3_next": {**DELTA, **MOE},
    "mamba": MAMBA,
}
ARCHITECTURES = {name: COMMON | {"model_type": name} | more for name, more in CONFIGS.items()}


def build(config: dict[str, Any]) -> Any:
    module = import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(config))
    model.set_dtype(mx.float32)
    return model


def caches(model: Any, tokens: int, bits: int = 0) -> list[Any]:
    """The real caches of one sequence: a prompt, and then answers, as they grow in use."""
    made = kv.make_caches(model, kv_bits=bits, kv_group_size=32) if bits else make_prompt_cache(model)
    for chunk in (3, *[1] * (tokens - 3)):
        mx.eval(model(mx.zeros((1, chunk), mx.uint32), cache=made))
    return made


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_predicted_cache_is_what_mlx_lm_makes(name: str) -> None:
    config = ARCHITECTURES[name]
    shape = shape_from(config, 0, "float32", wide=True)
    for tokens in (9, 40):
        assert kv_bytes(shape, tokens) == kv.nbytes(caches(build(config), tokens))


@pytest.mark.parametrize("bits", [4, 8])
def test_the_predicted_cache_of_quantised_keys_too(bits: int) -> None:
    config = ARCHITECTURES["llama"]
    shape = shape_from(config, 0, "float32", wide=True)
    real = kv.nbytes(caches(build(config), STEP + 9, bits))
    assert kv_bytes(shape, STEP + 9, bits=bits, group=32) == real


def test_what_a_cache_tells_of_itself_is_what_was_predicted() -> None:
    for name in ("gemma3_text", "lfm2", "deepseek_v3"):
        told = kv.shape(caches(build(ARCHITECTURES[name]), 9))
        shape = shape_from(ARCHITECTURES[name], 0, "float32", wide=True)
        assert [kv_bytes(told, tokens) for tokens in (9, 1000)] == [
            kv_bytes(shape, tokens) for tokens in (9, 1000)
        ]


def halved(folder: Path) -> Path:
    """The folder with its floating weights in half precision."""
    file = folder / "model.safetensors"
    arrays: Any = mx.load(str(file))
    half = {name: one.astype(mx.bfloat16) if one.dtype == mx.float32 else one for name, one in arrays.items()}
    mx.eval(half)
    mx.save_safetensors(str(file), half, metadata={"format": "mlx"})
    return folder


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("half", [False, True])
def test_predicted_weights_are_those_in_memory(tmp_path: Path, bits: int | None, half: bool) -> None:
    folder = tiny_model(tmp_path / "model", hidden=128, quantize=bits)
    folder = halved(folder) if half else folder
    loaded = loader.load(folder)
    assert shape_of(folder).weights == loaded.info.weights_bytes
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    guess = shape_from(config, stored, "bfloat16" if half else "float32")
    assert guess.weights == pytest.approx(loaded.info.weights_bytes, rel=0.05)
    # On a GPU half precision stays what it is.
    assert shape_of(folder, wide=False).weights == pytest.approx(stored, rel=0.05)
    assert shape_of(folder).kv_token == (
        2 * shape_of(folder, wide=False).kv_token if half else 2 * 2 * 2 * 32 * 4
    )


def test_the_predicted_pass_is_about_what_it_takes() -> None:
    config = ARCHITECTURES["llama"] | {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8}
    model, shape = build(config), shape_from(config, 0, "float32", wide=True)
    for tokens, passes in ((256, 1), (256, 4)):
        made = make_prompt_cache(model)
        mx.eval(model.parameters())
        for _ in range(passes):
            before, held = mx.get_active_memory(), kv.nbytes(made)
            mx.reset_peak_memory()
            model(mx.zeros((1, tokens), mx.uint32), cache=made)
            mx.eval([cache.state for cache in made])
        real = mx.get_peak_memory() - before - (kv.nbytes(made) - held)
        room = Room(context=tokens * passes, prefill_step=tokens)
        assert 0.7 < size(shape, room).transient / real < 1.6


def test_an_embedding_model_and_a_scripted_one_keep_nothing(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tiny")
    assert shape_of(folder, "embedding").kv_token == 0 < shape_of(folder, "text").kv_token
    script = tmp_path / "scripted"
    script.mkdir()
    (script / "fake.json").write_text('{"weights_bytes": 123, "context_length": 7}')
    assert shape_of(script) == Shape(weights=123, context_length=7)


SHAPES = st.builds(
    Shape,
    weights=st.integers(0, 10**9),
    kv_token=st.sampled_from([0, 512, 4096, 131072]),
    kv_values=st.sampled_from([0, 128, 1024]),
    kv_fixed=st.integers(0, 10**6),
    kv_window=st.integers(0, 5000),
    kv_window_token=st.integers(0, 4096),
    activation_token=st.integers(0, 10**5),
    activation_pair=st.integers(0, 100),
    context_length=st.sampled_from([0, 100, 131072]),
)
ROOMS = st.builds(
    Room,
    context=st.just(0),
    prefill_step=st.integers(1, 4096),
    kv_bits=st.sampled_from([0, 4, 8]),
    kv_group_size=st.sampled_from([32, 64]),
    cache=st.integers(0, 10**8),
    process=st.integers(0, 10**8),
)


@given(SHAPES, ROOMS, st.integers(0, 4 * 10**9), st.integers(1, 5))
def test_the_largest_context_fits_and_the_next_does_not(
    shape: Shape, room: Room, available: int, sequences: int
) -> None:
    def total(tokens: int) -> int:
        return size(shape, msgspec.structs.replace(room, context=tokens, batch=sequences)).total

    most = largest_context(shape, room, available, sequences)
    limit = shape.context_length or MOST
    assert 0 <= most <= limit
    assert most == 0 or total(most) <= available
    assert most == limit or total(most + 1) > available


def test_a_limit_is_an_amount_or_a_share() -> None:
    limits = {"auto": 1000, "24GB": 24 * 10**9, " 800 mb ": 800 * 10**6, "1.5GiB": 3 << 29, "75%": 750}
    assert {text: parse_limit(text, 1000) for text in limits} == limits
    for bad in ("", "24", "GB", "-1GB", "0%", "101%", "0MB", "75 %x"):
        with pytest.raises(ValueError, match="must be"):
            parse_limit(bad, 1000)


# --- learnt from processes ----------------------------------------------------------------------------------------


def local(folder: Path, id: str = "tiny") -> LocalModel:
    return LocalModel(id, str(folder), "llama", "float32", 5000, 1024, 0)


def sizes(tmp_path: Path) -> Sizes:
    return Sizes(tmp_path / "data" / "sizes.json", lambda model: shape_of(Path(model.path), model.kind))


def test_what_was_measured_corrects_what_is_predicted(tmp_path: Path) -> None:
    folder, room = tiny_model(tmp_path / "tiny"), Room(context=512, prefill_step=64, process=BASE)
    known, model = sizes(tmp_path), local(folder)
    predicted = known.predict(model, room)
    assert known.expected(model, room) == predicted.total
    assert known.measured("tiny") is None
    known.note("tiny", Measured(loaded=90 << 20, peak=1 << 33, baseline=50 << 20))
    # What was loaded is known now; what grows with the context is still predicted, and follows the room asked for.
    grown = predicted.kv + predicted.transient
    assert known.expected(model, room) == (90 << 20) + grown
    more = msgspec.structs.replace(room, batch=3)
    assert known.expected(model, more) - known.expected(model, room) == 2 * predicted.kv
    assert known.base == 50 << 20
    known.note("tiny", Measured(loaded=1))
    assert known.expected(model, room) == predicted.weights + grown


def test_measurements_outlive_a_restart_but_not_the_model(tmp_path: Path) -> None:
    folder, room = tiny_model(tmp_path / "tiny"), Room(context=512)
    known, model = sizes(tmp_path), local(folder)
    known.predict(model, room)
    known.note("tiny", Measured(loaded=90 << 20, baseline=7 << 20, at=3.5))
    known.save()
    file = tmp_path / "data" / "sizes.json"
    assert file.stat().st_mode & 0o777 == 0o600
    again = sizes(tmp_path)
    assert again.measured("tiny") == Measured(loaded=90 << 20, baseline=7 << 20, at=3.5)
    assert again.base == 7 << 20
    assert again.expected(model, room) > 90 << 20
    os.utime(folder / "config.json", ns=(1, 1))
    assert again.expected(model, room) == again.predict(model, room).total < 90 << 20


def test_damage_is_named_and_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "data" / "sizes.json"
    file.parent.mkdir()
    file.write_text('{"models": {"a": 3')
    known = sizes(tmp_path)
    assert "sizes.json is not readable" in caplog.text
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}')
    (broken / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00not json")
    assert known.predict(local(broken, "b"), Room(context=8)).weights == 5000
    assert "the files of b do not say what it takes" in caplog.text
    known.note("b", Measured(loaded=1))
    known.save()
    assert sizes(tmp_path).measured("b") == Measured(loaded=1)


# --- the machine --------------------------------------------------------------------------------------------------


def test_a_group_with_less_memory_counts(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/outer/inner\n")
    inner = tmp_path / "v2" / "outer" / "inner"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    whole = machine_memory(tmp_path / "v2", own)
    (inner.parent / "memory.max").write_text("1000000\n")
    assert machine_memory(tmp_path / "v2", own) == 1000000 < whole
    own.write_text("7:cpu:/x\n4:memory:/unit\n")
    unit = tmp_path / "v1" / "memory" / "unit"
    unit.mkdir(parents=True)
    (unit / "memory.limit_in_bytes").write_text("2000000\n")
    assert machine_memory(tmp_path / "v1", own) == 2000000
    (unit / "memory.limit_in_bytes").write_text(f"{(1 << 63) - 4096}\n")
    assert machine_memory(tmp_path / "v1", own) == whole


def test_the_system_keeps_a_reserve() -> None:
    assert [reserve(gb * 10**9) // 10**9 for gb in (1, 2, 16, 128)] == [1, 1, 4, 8]
    assert recommended_memory(10**9, machine=10**10) == 10**9
    assert 0 < recommended_memory(machine=10**10) < 10**10


def test_a_footprint_is_what_comes_back_when_a_process_ends() -> None:
    code = "import sys; kept = b'x' * (int(sys.argv[1]) << 20); print('.', flush=True); sys.stdin.read()"

    def taken(megabytes: int) -> tuple[int, int]:
        arguments = [sys.executable, "-c", code, str(megabytes)]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            return footprint(child.pid), child.pid

    (small, _), (large, pid) = taken(1), taken(101)
    assert large - small == pytest.approx(100 << 20, rel=0.05)
    assert footprint(pid) == 0
