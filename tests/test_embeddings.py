"""`POST /v1/embeddings`: the released OpenAI client and raw bodies against a real server with real, tiny models."""

from __future__ import annotations

import base64
import importlib.util
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from mlx_panel.engine.embed.engine import EmbedEngine
from mlx_panel.hub import demo
from mlx_panel.messages import Embedded, EmbedRequest

from .embedding_models import LIMIT, tiny_bert, tiny_decoder
from .models import tiny_model
from .server import Running, environment, running
from .test_standard import conforms, document, needs_data  # noqa: F401  # a fixture

ROUTE = "/v1/embeddings"
CANARY = "zq7canary4Kx"
TEXTS = ["the cat", "a dog sat on the mat and ate fish.", "rice"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("embeddings")
    tiny_bert(folder / "models" / "bert")
    tiny_bert(folder / "models" / "nested", is_matryoshka=True)
    tiny_bert(folder / "models" / "odd", family="modernbert")
    # Seconds for a large request: to be interrupted.
    tiny_bert(folder / "models" / "slow", hidden_size=384, intermediate_size=1536, num_hidden_layers=6)
    tiny_decoder(folder / "models" / "decoder")
    tiny_model(folder / "models" / "tiny")
    with running(folder, models="bert", log_level="debug") as one:
        ask(one, model="slow")
        yield one


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as one:
        yield one


def ask(server: Running, input: Any = "the cat", model: str = "bert", **more: Any) -> httpx.Response:
    return server.client.post(ROUTE, json={"model": model, "input": input, **more})


def problem(reply: httpx.Response, code: str, param: str | None, status: int = 400) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    found = reply.json()
    assert (found["error"]["code"], found["error"]["param"]) == (code, param)
    return found


def vectors(reply: httpx.Response) -> np.ndarray:
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert [one["index"] for one in body["data"]] == list(range(len(body["data"])))
    return np.array([one["embedding"] for one in body["data"]], np.float32)


@pytest.fixture(scope="module")
def known(server: Running) -> np.ndarray:
    """The vectors of TEXTS, by the engine itself."""
    engine = EmbedEngine.load(server.folder / "models" / "bert")
    done = next(
        event
        for event in engine.generate(EmbedRequest("one", "", tuple(TEXTS)))
        if isinstance(event, Embedded)
    )
    engine.close()
    return np.frombuffer(done.vectors, "<f4").reshape(len(TEXTS), done.dimensions)


# --- what clients send ---------------------------------------------------------------------------------------------


def test_the_openai_client_gets_the_same_either_way(client: openai.OpenAI, known: np.ndarray) -> None:
    """Unless it is told otherwise it asks for base64 and decodes it itself."""
    by_default = client.embeddings.create(model="bert", input=TEXTS)
    as_text = client.embeddings.create(model="bert", input=TEXTS, encoding_format="float")
    for reply in (by_default, as_text):
        found = np.array([one.embedding for one in reply.data], np.float32)
        assert np.abs(found - known).max() < 1e-6
        assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5
        assert (reply.usage.prompt_tokens, reply.usage.total_tokens) == (4 + 12 + 3, 4 + 12 + 3)
        assert reply.model == "bert"
    assert by_default.model_dump() == as_text.model_dump()


def test_base64_is_little_endian_float32(server: Running, known: np.ndarray) -> None:
    text = ask(server, TEXTS, encoding_format="base64").json()["data"][1]["embedding"]
    assert np.allclose(struct.unpack("<32f", base64.b64decode(text, validate=True)), known[1], atol=1e-6)


def test_every_form_of_input(server: Running, known: np.ndarray) -> None:
    ids = [2, 4, 6, 3]  # [CLS] the cat [SEP]
    for form in ("the cat", ["the cat"], ids, [ids]):
        reply = ask(server, form)
        assert np.abs(vectors(reply) - known[:1]).max() < 1e-6
        assert reply.json()["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert vectors(ask(server, [ids, [4, 6]])).shape == (
        2,
        32,
    )  # ids are taken as they are, without [CLS] and [SEP]


def test_two_thousand_inputs(server: Running) -> None:
    reply = ask(server, ["the cat sat", "home"] * 1024)
    found = vectors(reply)
    assert found.shape == (2048, 32)
    assert np.abs(found[::2] - found[0]).max() < 1e-6
    assert reply.json()["usage"]["prompt_tokens"] == 1024 * (5 + 3)


@needs_data
def test_replies_are_what_openai_documents(server: Running, document: dict[str, Any]) -> None:  # noqa: F811
    for more in ({}, {"truncate": True}, {"dimensions": 32}):
        conforms(document, "CreateEmbeddingResponse", ask(server, TEXTS, **more).json())
    conforms(document, "ErrorResponse", ask(server, "").json())
    for body in (
        {"input": TEXTS},
        {"input": [2, 4, 3], "encoding_format": "float", "dimensions": 32, "user": "me"},
    ):
        conforms(document, "CreateEmbeddingRequest", {"model": "bert", **body})
        assert ask(server, **body).status_code == 200


def test_fields_are_taken_named_or_refused(server: Running) -> None:
    assert ask(server, user="me", zzz=1).headers["x-ignored-fields"] == "user, zzz"
    for wrong, field in (
        ({"input": 5}, "input"),
        ({"input": ["the cat", 4]}, "input"),
        ({"input": [[2, 3], 4]}, "input"),
        ({"input": [-1]}, "input[0]"),
        ({"input": [99_999]}, "input"),
        ({"input": ["home"] * 2049}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": 33}, "dimensions"),
        ({"dimensions": 16}, "dimensions"),
        ({"truncate": "END"}, "truncate"),
    ):
        problem(ask(server, **{"input": "the cat", **wrong}), "invalid_parameter", field)
    for empty in ("", [], [""], ["home", ""], [[]]):
        problem(ask(server, empty), "empty_prompt", "input")
    refused = problem(
        ask(server, truncate_prompt_tokens=8), "unsupported_parameter", "truncate_prompt_tokens"
    )
    assert "'truncate'" in refused["detail"]


# --- limits --------------------------------------------------------------------------------------------------------


def test_an_input_over_the_limit(server: Running) -> None:
    found = problem(ask(server, ["home", "cat " * 30]), "context_length_exceeded", "input")
    assert (found["context_length"], found["prompt_tokens"]) == (LIMIT, 32)
    for inputs in (["home", "cat " * 30, "rice " * 99], [[4] * 3, [4] * 30, [5] * 99]):
        cut = ask(server, inputs, truncate=True)
        assert cut.headers["x-truncated-inputs"] == "2"
        assert cut.json()["truncated"] == 2
        assert cut.json()["usage"]["prompt_tokens"] == 3 + 2 * LIMIT
    whole = ask(server, "home", truncate=True)
    assert "x-truncated-inputs" not in whole.headers
    assert whole.json()["truncated"] == 0


def test_dimensions_where_they_are_valid(server: Running) -> None:
    full, cut = (vectors(ask(server, TEXTS, "nested", **more)) for more in ({}, {"dimensions": 8}))
    assert np.abs(cut - full[:, :8] / np.linalg.norm(full[:, :8], axis=1, keepdims=True)).max() < 1e-6
    refused = problem(ask(server, dimensions=8), "invalid_parameter", "dimensions")
    assert refused["dimensions"] == 32
    assert "32 values" in refused["detail"]


def test_the_time_limit_holds(server: Running) -> None:
    changed = server.client.put("/api/settings/timeouts", json={"timeout_embeddings_seconds": 1})
    assert changed.status_code == 200
    try:
        reply = ask(server, ["the cat sat on the mat"] * 2048, "slow")
        assert problem(reply, "timeout", None, 408)["timeout_seconds"] == 1
        assert server.row(reply.headers["x-request-id"])["status"] == "timeout"
    finally:
        server.client.delete("/api/settings/timeouts")


def test_a_client_that_leaves_ends_its_work(server: Running) -> None:
    body = json.dumps({"model": "slow", "input": ["the cat sat on the mat and ate fish"] * 2048}).encode()
    with socket.create_connection(server.client.base_url.netloc.decode().split(":")) as one:
        one.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-ID: left\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        wait(lambda: state(server, "slow")["running"] == 1)
    assert server.row("left")["status"] == "cancelled"
    wait(lambda: state(server, "slow")["running"] == 0)
    assert ask(server, model="slow").status_code == 200


def state(server: Running, model: str) -> dict[str, Any]:
    models = server.client.get("/v1/admin/models/status").json()["models"]
    return next(one for one in models if one["id"] == model)


def wait(true: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


# --- kinds ---------------------------------------------------------------------------------------------------------


def test_a_model_of_the_other_kind_is_not_even_loaded(server: Running) -> None:
    problem(ask(server, model="tiny"), "wrong_model_kind", "model")
    problem(ask(server, model="plain"), "wrong_model_kind", "model")
    problem(server.chat("nested"), "wrong_model_kind", "model")
    completion = server.client.post("/v1/completions", json={"model": "decoder", "prompt": "x"})
    problem(completion, "wrong_model_kind", "model")
    assert state(server, "tiny")["state"] == state(server, "decoder")["state"] == "available"
    assert state(server, "decoder")["kind"] == "embedding"
    problem(ask(server, model="nothing"), "model_not_found", "model", 404)


def test_a_decoder_of_embeddings(server: Running) -> None:
    reply = ask(server, ["Hello there.", "Hello there.", "Once upon a time"], "decoder")
    found = vectors(reply)
    assert np.abs(found[0] - found[1]).max() < 1e-5
    assert found.shape == (3, 64)


def test_a_family_that_needs_another_package_says_so(server: Running) -> None:
    if importlib.util.find_spec("mlx_embeddings"):
        pytest.skip("mlx-embeddings is installed")
    found = problem(ask(server, model="odd"), "model_load_failed", None, 503)
    assert "pip install 'mlx-panel[embeddings]'" in found["detail"]


# --- what is kept, and many at once ----------------------------------------------------------------------------------


def test_the_audit_row(server: Running) -> None:
    reply = ask(server, TEXTS, user="me")
    row = server.row(reply.headers["x-request-id"])
    assert (row["endpoint"], row["dialect"], row["status"], row["http_status"]) == (
        ROUTE,
        "openai",
        "success",
        200,
    )
    counts = [row[name] for name in ("choices", "prompt_tokens", "completion_tokens", "total_tokens")]
    assert counts == [3, 19, 0, 19]
    assert (row["model_used"], row["backend_type"], row["finish_reason"], row["ttft_ms"]) == (
        "bert",
        "local",
        None,
        None,
    )
    assert 0 <= row["queue_ms"] <= row["duration_ms"]


def test_many_requests_at_once_are_told_apart(server: Running, known: np.ndarray) -> None:
    def one(number: int) -> bool:
        found = vectors(ask(server, [TEXTS[number % 3], "home"]))
        return bool(np.abs(found[0] - known[number % 3]).max() < 1e-5)

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(one, range(96)))


def test_nothing_of_an_input_is_kept(server: Running) -> None:
    for model in ("bert", "decoder", "tiny", "odd", CANARY):
        for input in (CANARY, [CANARY, f"{CANARY} " * 60], [[4, 5]]):
            for more in (
                {},
                {"truncate": True},
                {"dimensions": 7},
                {"encoding_format": CANARY},
                {CANARY: CANARY},
            ):
                reply = ask(server, input, model, user=CANARY, **more)
                assert CANARY not in reply.text.replace(json.dumps(model), "")
    assert server.client.get("/v1/admin/audit-logs", params={"scope": "all"}).text.count(CANARY) == 0
    kept = [file for file in server.folder.rglob("*") if file.is_file() and "models" not in file.parts]
    assert [file for file in kept if CANARY.encode() in file.read_bytes()] == []


# --- the real model --------------------------------------------------------------------------------------------------

# By transformers 5.23 on torch 2.15 in float32: the first values of each, and the number of tokens.
REAL = {
    "The capital of France is Paris.": (9, [0.10326, 0.03042, 0.0291, -0.03732, 0.07868, -0.05472]),
    "Paris is the capital city of France.": (10, [0.09267, 0.03452, 0.02266, -0.0404, 0.07562, -0.03499]),
    "Bananas are yellow.": (6, [-0.02208, 0.00374, 0.02748, 0.01005, 0.04987, 0.06412]),
}


def test_the_embedding_demo(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlx_panel", "models", "demo", "--embedding"]
    for _ in range(2):  # the second time it is there
        fetched = subprocess.run(
            command, env=environment(tmp_path), capture_output=True, text=True, timeout=240
        )
        assert fetched.returncode == 0, fetched.stderr
        assert demo.EMBEDDING_NAME in fetched.stdout
    assert [path.name for path in (tmp_path / "models").iterdir()] == [demo.EMBEDDING_NAME]
    engine = EmbedEngine.load(tmp_path / "models" / demo.EMBEDDING_NAME)
    request = EmbedRequest("one", "", tuple(REAL))
    done = next(event for event in engine.generate(request) if isinstance(event, Embedded))
    found = np.frombuffer(done.vectors, "<f4").reshape(len(REAL), done.dimensions)
    assert done.usage.prompt_tokens == sum(count for count, _ in REAL.values())
    for vector, (_, first) in zip(found, REAL.values(), strict=True):
        assert np.abs(vector[:6] - first).max() < 1e-4
    assert found[0] @ found[1] > 0.9 > 0.2 > found[0] @ found[2]
    assert (engine.info.context_length, engine.info.dimensions, engine.info.kind) == (256, 384, "embedding")
    engine.close()
