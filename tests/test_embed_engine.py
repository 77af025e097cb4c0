"""The embedding engine: its vectors against a reference written here, and how requests share it."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_panel.engine.embed import bert, recipe
from mlx_panel.engine.embed.engine import EmbedEngine
from mlx_panel.engine.embed.gelu import Gelu
from mlx_panel.engine.embed.job import Job, share
from mlx_panel.engine.embed.model import Encoder
from mlx_panel.engine.embed.text import Texts
from mlx_panel.errors import Conflict, ContextLengthExceeded, EmptyPrompt, InvalidParameter, ModelLoadFailed
from mlx_panel.hub.disk import read_folder
from mlx_panel.messages import Cancelled, Embedded, EmbedRequest, Event, Failed, Stage
from mlx_panel.tuning import EngineOptions

from .embedding_models import LIMIT, MEAN, WORDS, tiny_bert, tiny_decoder, word_tokenizer, write

import mlx.core as mx  # isort: skip  # after the engine, which puts a BLAS in place
from mlx_lm.utils import load as load_decoder  # isort: skip

TEXTS = (
    "the cat",
    "a dog sat on the mat and ate fish.",
    "cats",
    "rice with fish, fish with rice",
    "home",
    "the cat",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def engine(folder: Path) -> Iterator[EmbedEngine]:
    one = EmbedEngine.load(folder)
    yield one
    one.close()


def embed(engine: EmbedEngine, *inputs: Any, **more: Any) -> np.ndarray:
    """The vectors of inputs, (n, D)."""
    return vectors(
        next(
            event
            for event in engine.generate(EmbedRequest("one", "", inputs, **more))
            if isinstance(event, Embedded)
        )
    )


def vectors(done: Embedded) -> np.ndarray:
    return np.frombuffer(done.vectors, "<f4").reshape(-1, done.dimensions)


def run(engine: EmbedEngine) -> list[Event]:
    events = []
    while engine.busy:
        events += engine.step()
    return events


# --- the reference: one sentence at a time, as the papers write it -------------------------------------------------


def reference(folder: Path, tokens: list[int]) -> np.ndarray:
    """The last hidden states (L, D), float64."""
    config = json.loads((folder / "config.json").read_text())
    loaded = mx.load(str(folder / "model.safetensors"))
    weights = {name: np.array(array, np.float64) for name, array in loaded.items()}

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(
            x.var(-1, keepdims=True) + config["layer_norm_eps"]
        )
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    first = config["pad_token_id"] + 1 if config["model_type"] != "bert" else 0
    x = weights["embeddings.word_embeddings.weight"][tokens]
    x = x + weights["embeddings.position_embeddings.weight"][first : first + len(tokens)]
    x = norm("embeddings.LayerNorm", x + weights["embeddings.token_type_embeddings.weight"][0])
    for number in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{number}"
        heads = []
        q, k, v = (dense(f"{name}.attention.self.{part}", x) for part in ("query", "key", "value"))
        for part in np.split(np.arange(config["hidden_size"]), config["num_attention_heads"]):
            scores = q[:, part] @ k[:, part].T / math.sqrt(len(part))
            chances = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(chances / chances.sum(-1, keepdims=True) @ v[:, part])
        x = norm(
            f"{name}.attention.output.LayerNorm",
            x + dense(f"{name}.attention.output.dense", np.concatenate(heads, -1)),
        )
        inner = ACTIVATIONS[config["hidden_act"]](dense(f"{name}.intermediate.dense", x))
        x = norm(f"{name}.output.LayerNorm", x + dense(f"{name}.output.dense", inner))
    return x


ACTIVATIONS = {
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "gelu_new": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "relu": lambda x: np.maximum(x, 0),
}
POOLINGS = {
    "mean": lambda h: h.mean(0),
    "cls": lambda h: h[0],
    "lasttoken": lambda h: h[-1],
    "max": lambda h: h.max(0),
    "mean_sqrt_len_tokens": lambda h: h.sum(0) / math.sqrt(len(h)),
    "weightedmean": lambda h: (h * np.arange(1, len(h) + 1)[:, None]).sum(0) / np.arange(1, len(h) + 1).sum(),
}


def expected(engine: EmbedEngine, folder: Path, text: str, *modes: str) -> np.ndarray:
    hidden = reference(folder, engine.embedder.texts.encode([text])[0].ids)
    pooled = np.concatenate([POOLINGS[mode](hidden) for mode in modes or ("mean",)])
    return pooled / np.linalg.norm(pooled)


def close(one: np.ndarray, other: np.ndarray) -> bool:
    """As near as GELU's approximation allows, for values of about 1 and below."""
    return bool(np.abs(one - other).max() < 2e-4 * max(1.0, float(np.abs(other).max())))


@pytest.mark.parametrize("host", [True, False], ids=["numpy", "mlx"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"hidden_act": "gelu_new"},
        {"hidden_act": "relu"},
        {"family": "xlm-roberta", "layer_norm_eps": 1e-5},
    ],
    ids=lambda config: "-".join(map(str, config.values())) or "bert",
)
def test_vectors_are_those_of_the_papers(tmp_path: Path, config: dict[str, Any], host: bool) -> None:
    folder = tiny_bert(tmp_path, **config)
    engine = EmbedEngine.load(folder)
    engine.embedder.model.close()
    shape = recipe.read_json(folder / "config.json")
    encoder = Encoder(bert.load(folder, shape), engine.embedder.recipe, host=host)
    engine.embedder = engine.embedder._replace(model=encoder)
    for text, vector in zip(TEXTS, embed(engine, *TEXTS), strict=True):
        assert close(vector, expected(engine, folder, text)), text
    engine.close()


def test_attention_with_scores_beyond_what_exp_can_take(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path)
    tensors: Any = mx.load(str(folder / "model.safetensors"))
    sharper = {name: array * (80 if "self.query" in name else 1) for name, array in tensors.items()}
    mx.eval(sharper)
    mx.save_safetensors(str(folder / "model.safetensors"), sharper)
    engine = EmbedEngine.load(folder)
    for text, vector in zip(TEXTS, embed(engine, *TEXTS), strict=True):
        assert close(vector, expected(engine, folder, text)), text
    engine.close()


@pytest.mark.parametrize("name", ["gelu", "gelu_new"])
def test_gelu_near_and_far(name: str) -> None:
    x = np.concatenate([np.linspace(-8, 8, 4001), [-1e4, -50.0, -12.0, 12.0, 50.0, 1e4]])
    gelu = Gelu(name)
    values = (x * gelu.before).astype(np.float32)
    gelu(values, np.empty_like(values), np.empty_like(values))
    assert np.abs(values * gelu.after - ACTIVATIONS[name](x)).max() < 2e-3  # of 1e4: float32
    assert np.abs(values * gelu.after - ACTIVATIONS[name](x))[np.abs(x) < 100].max() < 3e-5


@pytest.mark.parametrize(
    "modes",
    [("cls",), ("max",), ("lasttoken",), ("mean_sqrt_len_tokens",), ("weightedmean",), ("cls", "mean")],
    ids="+".join,
)
def test_each_pooling(tmp_path: Path, modes: tuple[str, ...]) -> None:
    folder = tiny_bert(
        tmp_path,
        pooling={"embedding_dimension": 32, "pooling_mode": list(modes)},
        steps=("Transformer", "Pooling"),
    )
    engine = EmbedEngine.load(folder)
    assert engine.info.dimensions == 32 * len(modes)
    for text, vector in zip(TEXTS, embed(engine, *TEXTS), strict=True):
        hidden = reference(folder, engine.embedder.texts.encode([text])[0].ids)
        assert close(vector, np.concatenate([POOLINGS[mode](hidden) for mode in modes])), text
    engine.close()


def test_what_follows_the_pooling_is_done(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path, steps=("Transformer", "Pooling", "Dense"))
    weight, bias = (
        mx.random.normal((5, 32), key=mx.random.key(0)),
        mx.random.normal((5,), key=mx.random.key(1)),
    )
    write(folder / "2_Dense" / "config.json", {"activation_function": "torch.nn.modules.activation.Tanh"})
    mx.save_safetensors(
        str(folder / "2_Dense" / "model.safetensors"), {"linear.weight": weight, "linear.bias": bias}
    )
    engine = EmbedEngine.load(folder)
    hidden = reference(folder, engine.embedder.texts.encode(["the cat"])[0].ids).mean(0)
    wanted = np.tanh(np.array(weight) @ hidden + np.array(bias))  # and not normalised: no step says so
    assert close(embed(engine, "the cat")[0], wanted)
    assert engine.info.dimensions == 5
    engine.close()


def test_quantised_and_half_weights(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path)
    plain = EmbedEngine.load(folder)
    wanted = embed(plain, *TEXTS)
    plain.close()
    tensors: Any = mx.load(str(folder / "model.safetensors"))
    half = {f"bert.{name}": array.astype(mx.float16) for name, array in tensors.items()}
    for name in [name for name in half if name.endswith("query.weight")]:
        stem = name.removesuffix(".weight")
        half[name], half[f"{stem}.scales"], half[f"{stem}.biases"] = mx.quantize(
            half[name], group_size=32, bits=8
        )
    mx.eval(half)
    mx.save_safetensors(str(folder / "model.safetensors"), half)
    config = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", {**config, "quantization": {"group_size": 32, "bits": 8}})
    engine = EmbedEngine.load(folder)
    assert (embed(engine, *TEXTS) * wanted).sum(1).min() > 0.99
    assert engine.info.dtype == "8-bit, computed in float32"
    engine.close()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("form", [{}, {"named": False}, {"files": False}], ids=["whole", "bare", "no files"])
def test_a_decoder_is_pooled_by_its_last_token(
    tmp_path: Path, form: dict[str, bool], dtype: mx.Dtype
) -> None:
    known, _, *_ = load_decoder(str(tiny_decoder(tmp_path / "known", dtype=dtype)))
    known.set_dtype(mx.float32)
    folder = tiny_decoder(tmp_path / "Tiny-Embedding", dtype=dtype, **form)
    assert read_folder(folder).kind == "embedding"
    engine = EmbedEngine.load(folder)
    found = embed(engine, *TEXTS, (5, 6, 7))
    inputs = [tokens.ids for tokens in engine.embedder.texts.encode(TEXTS)]
    assert all(ids[-1] == 0 for ids in inputs)  # the end of sequence, appended
    for ids, vector in zip([*inputs, [5, 6, 7]], found, strict=True):
        last = np.array(known.model(mx.array([ids]))[0, -1])
        assert close(vector, last / np.linalg.norm(last))
    assert engine.info.context_length == 128
    engine.close()


# --- what a folder says -------------------------------------------------------------------------------------------


def test_what_a_model_is_for(tmp_path: Path) -> None:
    kinds = {
        ("llama", "Llama-3"): "text",
        ("qwen3", "Qwen3-0.6B"): "text",
        ("qwen3", "mlx-community/Qwen3-Embedding-0.6B-4bit"): "embedding",
        ("gemma3_text", "embeddinggemma-300m"): "embedding",
        ("llama", "Embedded-Llama"): "text",
        ("llama", "disembed"): "text",
        ("bert", "anything"): "embedding",
        ("modernbert", "anything"): "embedding",
    }
    for (family, name), kind in kinds.items():
        assert recipe.kind_of(tmp_path, {"model_type": family}, name) == kind, name
    write(tmp_path / "modules.json", [{"type": "sentence_transformers.models.Transformer", "path": ""}])
    assert recipe.kind_of(tmp_path, {"model_type": "mistral"}, "e5") == "embedding"


def test_the_limit_is_that_of_sentence_transformers(tmp_path: Path) -> None:
    assert read_folder(tiny_bert(tmp_path / "a")).context_length == LIMIT
    assert read_folder(tiny_bert(tmp_path / "b", limit=None)).context_length == 64
    assert read_folder(tiny_bert(tmp_path / "c", limit=None, family="roberta")).context_length == 62
    assert (
        read_folder(tiny_bert(tmp_path / "d", limit=5000)).context_length == 64
    )  # there are no more positions
    (tmp_path / "d" / "sentence_bert_config.json").write_text("{damaged")
    assert read_folder(tmp_path / "d").context_length == 64


def test_without_files_an_encoder_is_pooled_by_the_mean(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path, pooling=None)
    engine = EmbedEngine.load(folder)
    assert close(embed(engine, "the cat")[0], expected(engine, folder, "the cat"))
    engine.close()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a step": ({"steps": ("Transformer", "Pooling", "LSTM")}, "a step that is not supported: LSTM"),
    "a pooling": ({"pooling": {"pooling_mode": "median"}}, "not supported: median"),
    "a prompt left out": ({"pooling": {**MEAN, "include_prompt": False}}, "include_prompt"),
    "an activation": ({"hidden_act": "silu"}, "activation is not supported: silu"),
    "positions": ({"position_embedding_type": "relative_key"}, "positions are not supported: relative_key"),
    "another family": (
        {"family": "modernbert"},
        r"modernbert need mlx-embeddings: pip install 'mlx-panel\[embeddings\]'",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_supported_is_named(tmp_path: Path, what: str) -> None:
    if what == "another family" and importlib.util.find_spec("mlx_embeddings"):
        pytest.skip("mlx-embeddings is installed")
    how, words = REFUSED[what]
    with pytest.raises(ModelLoadFailed, match=words):
        EmbedEngine.load(tiny_bert(tmp_path, **how))


# --- texts to tokens -----------------------------------------------------------------------------------------------


LONG = "antidisestablishmentarianism"  # a token of 28 characters, of which a part is many tokens


@pytest.fixture(scope="module")
def spelling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spelling")
    letters = "abcdefghijklmnopqrstuvwxyz"
    word_tokenizer(
        folder, LONG, *(one for one in letters if one != "a"), *(f"##{one}" for one in letters if one != "s")
    )
    return folder


@settings(deadline=None, max_examples=300)
@given(
    words=st.lists(st.sampled_from([*WORDS[:4], LONG, LONG, "cats.", " ", "\n", "日本"]), max_size=60),
    limit=st.integers(3, 12),
)
def test_a_long_text_is_read_by_its_beginning(spelling: Path, words: list[str], limit: int) -> None:
    """The ids are those of the tokenizer told to cut; the count is right where it matters and never too high."""
    text = " ".join(words)
    texts = Texts(spelling, limit)
    found = texts.encode([text, "the cat"])
    whole = texts._tokenizer.encode(text)
    count = len(whole.ids) + sum(len(part.ids) - 2 for part in whole.overflowing)
    assert found[0].ids == whole.ids
    assert (found[0].whole > limit) == (count > limit)
    assert found[0].whole <= count
    assert len(found[1].ids) == min(4, limit)


# --- requests ------------------------------------------------------------------------------------------------------


def test_inputs_of_many_requests_share_a_pass(engine: EmbedEngine) -> None:
    before = engine.passes
    for number in range(20):
        engine.add(EmbedRequest(f"r{number}", "", (TEXTS[number % 6], "home")))
    events = run(engine)
    done = {event.id: event for event in events if isinstance(event, Embedded)}
    assert len(done) == 20
    assert engine.passes - before < 20
    for number in range(20):
        assert np.abs(vectors(done[f"r{number}"]) - embed(engine, TEXTS[number % 6], "home")).max() < 1e-5
    started = [event.id for event in events if isinstance(event, Stage) and not event.done]
    assert sorted(started) == sorted(done)


def test_a_small_request_does_not_wait_for_a_large_one(engine: EmbedEngine) -> None:
    engine.tune(EngineOptions(prefill_step=64))
    engine.add(EmbedRequest("large", "", ("the cat sat on the mat and ate fish",) * 500))
    for _ in range(8):
        engine.step()
    engine.add(EmbedRequest("small", "", ("the cat",)))
    events: list[Event] = []
    # Which of the passes under way ends first is the machine's business; a hundred of them are still to come.
    while not any(isinstance(event, Embedded) for event in events):
        events += engine.step()
    assert [event.id for event in events if isinstance(event, Embedded)] == ["small"]
    progress = [event for event in events if isinstance(event, Stage) and event.id == "large"]
    assert progress[-1].total == 500 * 11
    assert 0 < progress[-1].done < progress[-1].total
    assert engine.beat().running == 1
    done = [event for event in run(engine) if isinstance(event, Embedded)]
    assert done[0].usage.prompt_tokens == 500 * 11
    assert len(vectors(done[0])) == 500


def test_large_requests_take_turns(engine: EmbedEngine) -> None:
    engine.tune(EngineOptions(prefill_step=12))  # two inputs a pass
    for name in ("one", "two", "three", "four"):
        engine.add(EmbedRequest(name, "", ("the cat sat",) * 50))
    done: dict[str, int] = {}
    for _ in range(20):
        done |= {event.id: event.done for event in engine.step() if isinstance(event, Stage)}
    assert len(done) == 4
    assert max(done.values()) - min(done.values()) <= 4 * 5
    run(engine)


def test_where_its_time_went(engine: EmbedEngine) -> None:
    engine.add(EmbedRequest("one", "", ("the cat sat",) * 3))
    done = next(event for event in run(engine) if isinstance(event, Embedded))
    (trace,) = engine.traces()
    assert [span.kind for span in trace.spans] == ["queue", "tokenise", "prefill"]
    assert trace.spans[-1].tokens == done.usage.prompt_tokens == 15
    assert trace.spans[2].at_ms == pytest.approx(trace.spans[1].at_ms + trace.spans[1].ms, abs=0.01)
    engine.add(EmbedRequest("two", "", ("the cat",)))
    engine.cancel("two")
    run(engine)
    assert [(one.id, one.spans[0].kind) for one in engine.traces()] == [("two", "queue")]


def test_a_pass_has_something_of_every_request() -> None:
    jobs = [
        Job(EmbedRequest(id, "", ((1, 2),) * count), LIMIT) for id, count in (("a", 9), ("b", 1), ("c", 2))
    ]
    assert [one.job.id for one in share(jobs, 8)] == ["a", "b", "c", "a"]
    assert [one.job.id for one in share(jobs, 8)] == ["a", "c", "a", "a"]
    assert [one.job.id for one in share(jobs, 1)] == ["a"]  # at least one, whatever its length


def test_usage_counts_what_was_processed(engine: EmbedEngine) -> None:
    before = engine.prompt_tokens
    done = [
        event
        for event in engine.generate(EmbedRequest("one", "", ("the cat", "a dog sat", (4, 5))))
        if isinstance(event, Embedded)
    ]
    assert done[0].usage.prompt_tokens == 4 + 5 + 2 == engine.prompt_tokens - before


def test_over_the_limit(engine: EmbedEngine) -> None:
    long, ids = "cat " * 40, (6,) * 30
    for one, at_least in ((long, LIMIT + 1), (ids, 30)):
        engine.add(EmbedRequest("ok", "", ("the cat",)))
        failed: Any = None
        try:
            engine.add(EmbedRequest("long", "", ("home", one)))
        except ContextLengthExceeded as error:
            failed = error
        events = run(engine)
        failed = failed or next(event for event in events if isinstance(event, Failed))
        assert failed.numbers["context_length"] == LIMIT
        assert failed.numbers["prompt_tokens"] >= at_least
        assert [event.id for event in events if isinstance(event, Embedded)] == ["ok"]
    asked = EmbedRequest("cut", "", (long, ids, "home"), truncate=True)
    done = next(event for event in engine.generate(asked) if isinstance(event, Embedded))
    assert (done.truncated, done.usage.prompt_tokens) == (2, LIMIT + LIMIT + 3)
    cut = (engine.embedder.texts.encode([long])[0].ids, ids[:LIMIT])
    assert cut[0][-1] == 3  # the special token at the end stays
    assert np.abs(vectors(done)[:2] - embed(engine, *map(tuple, cut))).max() < 1e-5


def test_dimensions_where_they_are_valid(tmp_path: Path, engine: EmbedEngine) -> None:
    for wrong in (5, 33):
        with pytest.raises(InvalidParameter) as refused:
            engine.add(EmbedRequest("one", "", ("home",), dimensions=wrong))
        assert refused.value.field == "dimensions"
    assert embed(engine, "home", dimensions=32).shape == (1, 32)
    for config, right, wrong in (
        ({"is_matryoshka": True}, 5, 33),
        ({"matryoshka_dimensions": [8, 16]}, 8, 5),
    ):
        trained = EmbedEngine.load(tiny_bert(tmp_path / str(right), **config))
        whole, cut = embed(trained, "home")[0], embed(trained, "home", dimensions=right)[0]
        assert np.abs(cut - whole[:right] / np.linalg.norm(whole[:right])).max() < 1e-6
        with pytest.raises(InvalidParameter):
            trained.add(EmbedRequest("one", "", ("home",), dimensions=wrong))
        trained.close()


def test_what_cannot_be_embedded(engine: EmbedEngine) -> None:
    for empty in ((), ("",), ("home", ""), ((),)):
        with pytest.raises(EmptyPrompt):
            engine.add(EmbedRequest("one", "", empty))
    for ids in ((-1,), (engine.info.vocab_size,)):
        with pytest.raises(InvalidParameter):
            engine.add(EmbedRequest("one", "", (ids,)))
    engine.add(EmbedRequest("one", "", ("home",)))
    with pytest.raises(Conflict):
        engine.add(EmbedRequest("one", "", ("home",)))
    with pytest.raises(Conflict):
        next(engine.generate(EmbedRequest("two", "", ("home",))))
    run(engine)


def test_a_request_is_cancelled_before_the_next_pass(engine: EmbedEngine) -> None:
    engine.tune(EngineOptions(prefill_step=32))
    engine.add(EmbedRequest("gone", "", ("the cat sat",) * 200))
    for _ in range(7):  # what the next step would compute is chosen
        engine.step()
    assert engine.cancel("gone")
    assert not engine.cancel("gone")
    before = engine.passes
    events = run(engine)
    assert engine.passes == before
    assert [type(event) for event in events] == [Cancelled]
    assert 0 < events[0].usage.prompt_tokens < 1000
    assert engine.ids == ()


def test_what_is_computed_for_a_request_that_is_gone_is_not_told(engine: EmbedEngine) -> None:
    engine.add(EmbedRequest("gone", "", ("the cat sat",)))
    assert [type(event) for event in engine.step()] == [Stage]  # its pass has begun
    assert engine.cancel("gone")
    assert [type(event) for event in engine.step()] == [Cancelled]
    assert engine.step() == []  # it waits for the pass, which no other may overtake here
    engine.add(EmbedRequest("next", "", ("home",)))
    assert {event.id for event in run(engine)} == {"next"}
    assert engine.prompt_tokens == 5 + 3


def test_a_request_that_fails_fails_alone(engine: EmbedEngine) -> None:
    words = engine.embedder.model.encoder.weights.words
    words[engine.embedder.texts.encode(["fish"])[0].ids[1]] = np.nan
    for number, text in enumerate(("the cat", "fish", "home")):
        engine.add(EmbedRequest(str(number), "", (text, "rice")))
    ends = {event.id: event for event in run(engine) if isinstance(event, Embedded | Failed)}
    assert [type(ends[id]) for id in "012"] == [Embedded, Failed, Embedded]
    assert ends["1"].code == "generation_failed"
    assert engine.embedder is not None
    assert np.isfinite(embed(engine, "home")).all()
