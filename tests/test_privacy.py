"""Canaries through every route, error paths included: none may come up in a file, a log or an output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .models import tiny_model
from .server import Running, running
from .test_doors import ENDPOINTS, GENERATE, MALFORMED, path

CANARY = "zq7canary4Kx"


def send_everywhere(server: Running) -> None:
    """The canary wherever a request can hold text."""
    for endpoint in ENDPOINTS:
        if endpoint.route == "/api/live":
            continue
        for verb in ("GET", "POST", "PUT", "DELETE"):
            server.client.request(verb, path(endpoint), json={CANARY: CANARY})
            server.client.request(
                verb,
                path(endpoint),
                content=f"{{{CANARY}",
                headers={"Content-Type": "application/json", "User-Agent": CANARY},
            )
        server.client.get(f"{path(endpoint)}?{CANARY}={CANARY}")
    server.client.get(f"/v1/models/{CANARY}")
    server.client.post(f"/v1/admin/models/load/{CANARY}")
    for model in ("tiny", "plain", "failing", "dying", "broken", "small", CANARY):
        for route in GENERATE:
            for stream in (False, True):
                server.client.post(route, json=full(route, model, stream=stream))
    for raw, _, _ in MALFORMED.values():
        server.client.post(
            GENERATE[0], content=raw + CANARY.encode(), headers={"Content-Type": "application/json"}
        )
    for model in ("tiny", "plain"):
        for route in GENERATE:
            for more in held(route):
                for stream in (False, True):
                    server.client.post(route, json=full(route, model, stream=stream) | more)
    for wrong in (
        {"temperature": CANARY},
        {"stop": [CANARY] * 20},
        {"n": CANARY},
        {CANARY: 1},
        {"max_tokens": 10**9},
        {"stream": CANARY},
    ):
        server.client.post(GENERATE[0], json=full(GENERATE[0], "tiny") | wrong)


def full(route: str, model: str, **more: Any) -> dict[str, Any]:
    turns = [
        {"role": "system", "content": CANARY},
        {"role": "user", "content": f"Say {CANARY}!", "name": CANARY},
    ]
    asked = {"messages": turns} if "chat" in route else {"prompt": f"{CANARY} " * 5}
    return {
        "model": model,
        **asked,
        "max_tokens": 4,
        "user": CANARY,
        "metadata": {CANARY: CANARY},
        "stop": [CANARY],
        **more,
    }


def held(route: str) -> list[dict[str, Any]]:
    """The canary in whatever says what an answer looks like, right and wrong."""
    schema = {"type": "object", "properties": {CANARY: {"enum": [CANARY]}}, "required": [CANARY]}
    tool = {"name": CANARY, "description": CANARY, "parameters": schema}
    shapes: list[dict[str, Any]] = [
        {"regex": f"{CANARY}+"},
        {"regex": f"({CANARY}"},
        {"choice": [CANARY]},
        {"grammar": f'start: "{CANARY}"'},
        {"grammar": f"start: {CANARY}"},
        {"response_format": {"type": "json_schema", "json_schema": {"name": CANARY, "schema": schema}}},
        {"structured_outputs": {"json": f'{{"pattern": "({CANARY}"}}'}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {CANARY: {"not": 1}}},
            }
        },
        {"response_format": {"type": CANARY}},
        {"logprobs": 2, "echo": True, "prompt": [CANARY, CANARY]},
    ]
    if "chat" not in route:
        return shapes
    call = {"id": CANARY, "type": "function", "function": {"name": CANARY, "arguments": f'{{"{CANARY}": 1'}}
    turns = [
        {"role": "user", "content": CANARY},
        {"role": "assistant", "content": None, "reasoning_content": CANARY, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": CANARY, "content": CANARY},
    ]
    tools = [{"type": "function", "function": tool | {"strict": strict}} for strict in (False, True)]
    return [
        *shapes,
        {"logprobs": True, "top_logprobs": 3, "messages": turns},
        {"tools": tools[:1], "messages": turns},
        {"tools": tools[1:], "tool_choice": "required", "messages": turns},
        {"tools": tools[1:], "tool_choice": {"type": "function", "function": {"name": CANARY}}},
        {"tools": tools},
        {"tools": [{"type": CANARY, CANARY: CANARY}]},
        {"tools": tools[:1], "tool_choice": CANARY},
        {"chat_template_kwargs": {CANARY: CANARY}},
        {"reasoning_effort": CANARY},
        {"reasoning": {CANARY: CANARY}},
    ]


def leaks(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and CANARY.encode() in file.read_bytes()]


@pytest.mark.parametrize("level", ["info", "debug"])
def test_nothing_of_a_request_is_kept(tmp_path: Path, level: str) -> None:
    tiny_model(tmp_path / "models" / "tiny")
    with running(tmp_path, log_level=level) as server:
        send_everywhere(server)
        answer = server.chat("tiny", "Hello", max_tokens=8, temperature=0).json()["choices"][0]["message"][
            "content"
        ]
        assert leaks(tmp_path) == []  # the database, its log and the server's output, while it runs
        rows = server.client.get("/v1/admin/audit-logs", params={"scope": "all", "limit": 1000}).text
    assert leaks(tmp_path) == []
    assert CANARY not in rows
    assert len(answer) < 4 or not [
        file for file in tmp_path.rglob("*.duckdb*") if answer.encode() in file.read_bytes()
    ]


def test_no_error_quotes_a_prompt(serving: Running) -> None:
    """What an error may name is the caller's own model, field names and route, never text to generate from."""
    for model in ("failing", "broken", "small", "nothing"):
        for route in GENERATE:
            assert CANARY not in serving.client.post(
                route, json=full(route, model) | {"max_tokens": 10_000}
            ).text.replace(json.dumps(model), "")


def test_the_files_are_the_owners_alone(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        server.chat()
        modes = {
            file.name: file.stat().st_mode & 0o777
            for file in server.folder.rglob("*")
            if file.suffix in (".duckdb", ".log", ".wal")
        }
        assert server.folder.stat().st_mode & 0o777 == 0o700
    assert set(modes.values()) == {0o600}, modes
