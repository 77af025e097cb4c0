"""Probing models: what is tried is what is found, it decides how answers are read, and nothing of a text is kept."""

from __future__ import annotations

import json
import math
import time
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_panel.http import probe_use
from mlx_panel.library import Capabilities
from mlx_panel.messages import GenerateRequest, Message, ModelInfo, Tools
from mlx_panel.probe.signs import called, cosine, dialects_in, norm, styles_in
from mlx_panel.probe.trials import WEATHER

from .embedding_models import tiny_bert
from .models import tiny_model
from .server import Running, scripted
from .test_library import Serve, ask, follow, local

CANARY = "zq7canary4Kx"
PARIS = '{"city": "Paris"}'
HERMES = f'<tool_call>\n{{"name": "get_weather", "arguments": {PARIS}}}\n</tool_call>'
OFFER = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
]  # fmt: skip


@pytest.fixture
def server(tmp_path: Path, serve: Serve) -> Running:
    folder = tmp_path / "server"
    scripted(
        folder,
        "able",
        text=f"<think>\n{CANARY} hm.\n</think>\n\n{CANARY} {HERMES}",
        reasoning="think",
        tools="hermes_json",
    )
    scripted(folder, "other", text=f"[TOOL_CALLS]get_weather[ARGS]{PARIS}", tools="hermes_json")
    scripted(folder, "muses", text=f"[THINK]{CANARY} so.[/THINK]Yes, {CANARY}.")
    scripted(folder, "endless", text="<think>\n" + "and on " * 400, reasoning="think")
    scripted(
        folder, "wrong", text=HERMES.replace("Paris", "Rome").replace('"city"', '"town"'), tools="hermes_json"
    )
    return serve()


def found(task: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The findings of a task by their step."""
    steps = dict.fromkeys(one["step"] for one in task["findings"])
    return {step: [one for one in task["findings"] if one["step"] == step] for step in steps}


def capabilities(server: Running, model: str) -> dict[str, Any]:
    return server.client.get(f"/api/models/capabilities/{model}").raise_for_status().json()


def state(server: Running, model: str) -> dict[str, Any]:
    models = server.client.get("/v1/admin/models/status").json()["models"]
    return next(one for one in models if one["id"] == model)


def test_a_model_that_can_do_everything(server: Running, tmp_path: Path) -> None:
    task = ask(server, "probe", model="able")
    assert (task["state"], task["error"], task["done"]) == ("done", "", task["total"])
    steps = found(task)
    assert list(steps) == ["load", "text", "context", "thinking", "tools"]
    assert steps["text"][0]["value"]["repeatable"]
    assert [one["value"] for one in steps["tools"]] == ["hermes_json", True]
    # A scripted model says the same whatever its switch says, and a probe tells so.
    assert [one["level"] for one in steps["thinking"]] == ["info", "warning", "info"]
    able = capabilities(server, "able")
    assert (able["source"], able["kinds"], able["tools"], able["reasoning"]) == (
        "probe",
        ["text", "tools", "reasoning"],
        "hermes_json",
        "think",
    )
    assert able["usable_context"] == able["context_length"] == 4096
    assert local(server)["able"]["capabilities"] == able
    assert task["report"].startswith("# Probe of able\n")
    for word in ("mlx-lm", "cores", "| tools |", "4,096 of the 4,096"):
        assert word in task["report"]
    assert state(server, "able")["state"] == "available"  # nobody else used it, so it has gone again
    for file in tmp_path.rglob("*"):
        if file.is_file() and file.name != "fake.json":
            assert CANARY.encode() not in file.read_bytes(), file
    assert CANARY not in json.dumps(task)


def test_what_was_found_decides_how_answers_are_read(server: Running, serve: Serve) -> None:
    """Its own detection says another dialect, or none: after the probe answers are read with what was tried."""

    def message(model: str, **more: Any) -> dict[str, Any]:
        return server.chat(model, **more).raise_for_status().json()["choices"][0]["message"]

    assert "tool_calls" not in message("other", tools=OFFER)
    assert "[THINK]" in message("muses")["content"]
    for model in ("other", "muses"):
        assert ask(server, "probe", model=model)["state"] == "done"
    assert capabilities(server, "other")["tools"] == "mistral_native"
    assert capabilities(server, "muses")["reasoning"] == "mistral_think"
    server.stop()
    server = serve()  # what was found is kept
    assert message("other", tools=OFFER)["tool_calls"][0]["function"]["arguments"] == PARIS
    assert message("muses")["reasoning_content"] == f"{CANARY} so."
    assert "[TOOL_CALLS]" in message("other")["content"]  # nothing is on offer
    server.client.post(
        "/api/profiles", json={"name": "mine", "model": "other", "tools": "hermes_json"}
    ).raise_for_status()
    assert "tool_calls" not in message("mine", tools=OFFER)  # a preset decides before a probe


def test_what_fails_or_is_not_there_is_told(server: Running) -> None:
    for model, why in (("dying", "ended during this trial"), ("broken", "its weights are missing")):
        task = ask(server, "probe", model=model)
        assert task["state"] == "failed"
        assert why in task["error"]
        assert capabilities(server, model)["source"] == "files"
    assert why in state(server, "broken")["reason"]  # the probe leaves the pool's word as it is
    endless = found(ask(server, "probe", model="endless"))
    assert [one["level"] for one in endless["thinking"]] == ["warning"] * 3  # no end, no switch, no budget
    wrong = found(ask(server, "probe", model="wrong"))
    assert wrong["tools"][0]["level"] == "warning"
    assert "not with valid arguments" in wrong["tools"][0]["text"]
    assert "tools" not in capabilities(server, "wrong")["kinds"]
    small = ask(server, "probe", model="small")  # its context has no room for a question
    assert small["state"] == "done"
    assert [one["level"] for one in found(small)["tools"]] == ["action_needed"]


def test_a_tiny_model_is_found_unable_without_a_crash(tmp_path: Path, serve: Serve) -> None:
    folder = tmp_path / "server" / "models"
    tiny_model(folder / "tiny")
    tiny_model(folder / "raw", template=None)
    tiny_bert(folder / "bert")
    server = serve()
    tiny = ask(server, "probe", model="tiny")
    assert tiny["state"] == "done"
    steps = found(tiny)
    assert steps["context"][0]["value"]["tokens"] == 1024
    assert steps["text"][0]["value"] | {"tokens_per_second": 0} == {
        "tokens": 32,
        "tokens_per_second": 0,
        "repeatable": True,
    }
    assert (steps["thinking"][0]["value"], steps["tools"][0]["value"]) == ("", "")
    assert capabilities(server, "tiny") | {"probed": None} == capabilities(server, "tiny") | {
        "kinds": ["text"], "usable_context": 1024, "source": "probe", "probed": None, "tools": "", "reasoning": "",
    }  # fmt: skip
    server.client.post("/v1/admin/models/load/raw").raise_for_status()
    raw = ask(server, "probe", model="raw")
    assert list(found(raw)) == ["load", "text", "context"]  # without a template there is no conversation
    assert "already" in found(raw)["load"][0]["text"]
    assert state(server, "raw")["state"] == "ready"  # it was there before, so it stays
    bert = ask(server, "probe", model="bert")
    assert list(found(bert)) == ["load", "embeddings", "limit"]
    value = found(bert)["embeddings"][0]["value"]
    assert (value["dimensions"], value["norm"]) == (32, 1.0)
    assert found(bert)["limit"][0]["level"] == "info"
    assert capabilities(server, "bert")["usable_context"] == 24


def test_the_context_that_fits_is_found(tmp_path: Path, serve: Serve) -> None:
    """Where memory is less than the model's context takes, the largest that fits is processed, and the reason told."""
    tiny_model(tmp_path / "server" / "models" / "long", context=8000)
    server = serve(memory_limit="160MB")
    context = found(ask(server, "probe", model="long"))["context"][0]
    assert context["level"] == "warning"
    assert "available" in context["text"]
    assert 1000 < context["value"]["tokens"] < 8000
    assert capabilities(server, "long")["usable_context"] == context["value"]["tokens"]


def test_a_probe_is_cancelled_and_a_second_one_is_the_first(server: Running) -> None:
    first = server.client.post("/api/models/probe", json={"model": "stalled"}).json()
    assert server.client.post("/api/models/probe", json={"model": "stalled"}).json()["id"] == first["id"]
    queued = server.client.post("/api/models/probe", json={"model": "able"}).json()
    assert server.client.get(f"/api/models/tasks/{queued['id']}").json()["state"] == "queued"
    assert server.client.delete("/api/models/local/able").status_code == 409
    ended = server.client.delete(f"/api/models/tasks/{first['id']}").json()
    assert ended["state"] == "cancelled"
    assert follow(server, queued)[-1]["state"] == "done"
    assert state(server, "stalled")["state"] == "available"
    late = server.client.post("/api/models/probe", json={"model": "late"}).json()
    while state(server, "late")["state"] != "loading":
        time.sleep(0.02)
    server.client.delete(f"/api/models/tasks/{late['id']}").raise_for_status()
    assert state(server, "late")["state"] == "available"  # the load that was under way is not left behind
    for wrong in ({}, {"model": ""}, {"model": "able", "x": 1}):
        assert server.client.post("/api/models/probe", json=wrong).status_code == 400
    assert server.client.post("/api/models/probe", json={"model": "none"}).status_code == 404


# --- signs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "own", "expected"),
    [
        (HERMES, "mistral_native", "hermes_json"),
        (f"[TOOL_CALLS]get_weather[ARGS]{PARIS}", "hermes_json", "mistral_native"),
        ("<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>", "hermes_json", "qwen3_coder_xml"),
        ("The weather is fine.", "hermes_json", None),
    ],
)  # fmt: skip
def test_a_dialect_shows_in_an_answer(text: str, own: str, expected: str | None) -> None:
    assert next(iter(dialects_in(text, Tools((WEATHER,)), (), own)), None) == expected


def test_marks_in_a_vocabulary_are_tried_too() -> None:
    assert styles_in("Yes.", {"<think>", "</think>"}, "") == ["think"]
    assert styles_in("Yes.", {"<think>", "</think>"}, "think") == []
    assert styles_in("[THINK]So[/THINK]", {"<think>", "</think>"}, "") == ["mistral_think", "think"]


@given(st.text(max_size=60))
def test_any_text_is_looked_at(text: str) -> None:
    dialects_in(text, Tools((WEATHER,)), (), "hermes_json")
    styles_in(text, (), "think")
    called([("get_weather", text)], "get_weather")


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8))
def test_a_vector_points_its_own_way(values: list[float]) -> None:
    vector, turned = array("d", values), array("d", [-value for value in values])
    if norm(vector) > 1e-6:
        assert cosine(vector, vector) == pytest.approx(1)
        assert cosine(vector, turned) == pytest.approx(-1)
    assert norm(vector) == pytest.approx(math.dist(values, [0] * len(values)))
    assert cosine(vector, array("d", [0.0] * len(values))) == 0


def test_a_request_keeps_what_it_says_itself() -> None:
    info = ModelInfo("llama", 10, 10, 0, 0, "", 1, True, tools="hermes_json", reasoning="think")
    request = GenerateRequest("a", "m", messages=(Message("user", "x"),))
    probe = Capabilities(kinds=("text", "tools", "reasoning"), tools="granite", reasoning="longcat_think")
    used = probe_use.use(request, info, probe)
    assert (used.tool_dialect, used.reasoning_style) == ("granite", "longcat_think")
    named = GenerateRequest(
        "a", "m", messages=request.messages, tool_dialect="glm47", reasoning_style="think_start"
    )
    assert probe_use.use(named, info, probe) == named
    assert probe_use.use(request, info, None) == request
    same = Capabilities(kinds=("text", "tools"), tools="hermes_json", reasoning="think")
    assert probe_use.use(request, info, same) == request
    assert probe_use.use(GenerateRequest("a", "m", prompt="x"), info, probe).tool_dialect == ""
