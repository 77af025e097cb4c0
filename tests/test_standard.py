"""Bodies against OpenAI's own API document, and hostile JSON; both from public test data outside this repository."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from .server import Running
from .test_doors import GENERATE, body

DATA = Path(os.environ.get("MLX_PANEL_TEST_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="set MLX_PANEL_TEST_DATA to a folder with openai-openapi.json and JSONTestSuite"
)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return nullable(json.loads((DATA / "openai-openapi.json").read_text(encoding="utf-8")))


def nullable(schema: Any) -> Any:
    """OpenAPI 3.0 says null with a word of its own, which JSON Schema does not know."""
    if isinstance(schema, list):
        return [nullable(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: nullable(one) for name, one in schema.items() if name != "nullable"}
    return {"anyOf": [inner, {"type": "null"}]} if schema.get("nullable") is True else inner


def conforms(document: dict[str, Any], name: str, value: Any) -> None:
    """The value is an instance of a schema of the document (JSON Schema with OpenAPI's `nullable`)."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)


@needs_data
def test_chat_bodies(serving: Running, document: dict[str, Any]) -> None:
    conforms(document, "CreateChatCompletionResponse", serving.chat().json())
    reply = serving.chat(stream=True, stream_options={"include_usage": True})
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    for line in lines:
        conforms(document, "CreateChatCompletionStreamResponse", json.loads(line))


@needs_data
def test_completion_bodies(serving: Running, document: dict[str, Any]) -> None:
    conforms(
        document, "CreateCompletionResponse", serving.client.post(GENERATE[1], json=body(GENERATE[1])).json()
    )


@needs_data
def test_model_bodies(serving: Running, document: dict[str, Any]) -> None:
    listed = serving.client.get("/v1/models").json()
    conforms(document, "ListModelsResponse", listed)
    for model in listed["data"]:
        conforms(document, "Model", serving.client.get(f"/v1/models/{model['id']}").json())


@needs_data
@pytest.mark.parametrize(
    "change", [{"model": "nothing"}, {"temperature": 9}, {"model": "broken"}, {"model": "failing"}]
)
def test_error_bodies(serving: Running, document: dict[str, Any], change: dict[str, Any]) -> None:
    conforms(document, "ErrorResponse", serving.chat(**change).json())


@needs_data
def test_any_json_gets_a_clear_answer(serving: Running) -> None:
    """318 files that parsers stumble over: as a body, and as a value inside one."""
    for file in sorted((DATA / "JSONTestSuite" / "test_parsing").glob("*.json")):
        raw = file.read_bytes()
        for content in (
            raw,
            b'{"model": "plain", "messages": ' + raw + b"}",
            b'{"model": "plain", "prompt": "x", "zzz": ' + raw + b"}",
        ):
            for route in GENERATE:
                reply = serving.client.post(
                    route, content=content, headers={"Content-Type": "application/json"}
                )
                assert reply.status_code in (200, 400), (file.name, reply.text)
                assert reply.status_code == 200 or reply.json()["error"]["code"] in (
                    "invalid_body",
                    "invalid_parameter",
                )
    assert serving.chat().status_code == 200
