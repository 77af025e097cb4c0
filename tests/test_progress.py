"""A client that asks hears how far its request is, from the load of the model to the end of its prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai

from .server import WORDS, Running, running, scripted


def events(server: Running, model: str, **more: Any) -> list[dict[str, Any]]:
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Say it"}], **more}
    with server.client.stream("POST", "/v1/chat/completions", json=body) as reply:
        assert reply.status_code == 200
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def stages(found: list[dict[str, Any]]) -> list[str]:
    return [one["progress"]["stage"] for one in found if "progress" in one]


def test_load_and_prompt_are_told_before_the_first_token(tmp_path: Path) -> None:
    scripted(tmp_path, "tiny", text=WORDS, load_seconds=2.0, weights_bytes=1_000_000)
    ask = {"stream_options": {"include_progress": True}, "max_tokens": 3, "ignore_eos": True}
    with running(tmp_path) as server:
        cold = events(server, "tiny", **ask)
        told = stages(cold)
        assert told[0] in ("load.waiting", "load.starting")
        assert "load.weights" in told
        assert told[-1] == "prefill"
        assert all(
            one["choices"] == [] and one["object"] == "chat.completion.chunk" for one in cold[: len(told)]
        )
        last = cold[len(told) - 1]["progress"]
        assert last["done"] == last["total"] > 0
        warm = stages(events(server, "tiny", **ask))
        assert set(warm) == {"prefill"}
        assert stages(events(server, "tiny", max_tokens=3)) == []  # nobody asked


def test_openais_client_reads_on(tmp_path: Path) -> None:
    scripted(tmp_path, "late", text=WORDS, load_seconds=0.5)
    with running(tmp_path) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        options: Any = {"include_progress": True, "include_usage": True}
        stream = client.chat.completions.create(
            model="late", messages=[{"role": "user", "content": "Hi"}], stream=True, stream_options=options
        )
        chunks = list(stream)
        text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
        assert text == WORDS
        assert any(getattr(one, "progress", None) for one in chunks)


def test_a_load_that_fails_after_progress_ends_the_stream_with_the_error(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        found = events(server, "broken", stream_options={"include_progress": True})
        assert found[-1]["error"]["code"] == "model_load_failed"
        rows = server.client.get("/v1/admin/audit-logs").json()["rows"]
        assert rows[0]["error_type"] == "model_load_failed"
