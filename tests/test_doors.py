"""Every route against every fault: the right status, the right body, exactly one audit row."""

from __future__ import annotations

import inspect
import json
import os
import signal
import socket
import time
from typing import Any

import httpx
import openai
import pytest

from mlx_panel.errors import HostRefused
from mlx_panel.http.admission import check_caller
from mlx_panel.http.endpoint import Endpoint
from mlx_panel.http.fallback import Fallback
from mlx_panel.http.routes import MODULES

from .server import WORDS, Running

VERBS = ("get", "head", "post", "put", "patch", "delete", "options")
GENERATE = ("/v1/chat/completions", "/v1/completions")
ENDPOINTS = [handler for module in MODULES for _, handler in module.routes]
PATHS = {
    "/v1/models/{id}": "/v1/models/plain",
    "/v1/admin/models/load/{id}": "/v1/admin/models/load/plain",
    "/v1/admin/models/unload/{id}": "/v1/admin/models/unload/plain",
    "/v1/admin/cache/requests/{request_id}": "/v1/admin/cache/requests/none",
    "/v1/admin/cache/{model}": "/v1/admin/cache/plain",
    "/v1/admin/audit-logs/charts/{name}": "/v1/admin/audit-logs/charts/requests",
    "/v1/admin/audit-logs/{id}": "/v1/admin/audit-logs/none",
    "/v1/admin/benchmarks/{id}": "/v1/admin/benchmarks/none",
    "/api/settings/engine/{model}": "/api/settings/engine/plain",
    "/api/profiles/{name}": "/api/profiles/none",
    "/api/profiles/{name}/duplicate": "/api/profiles/none/duplicate",
    "/api/profiles/{name}/export": "/api/profiles/none/export",
    "/api/servers/{preset}/start": "/api/servers/none/start",
    "/api/servers/{preset}/stop": "/api/servers/none/stop",
    "/api/servers/{preset}/restart": "/api/servers/none/restart",
    "/api/servers/{preset}/status": "/api/servers/none/status",
    "/api/servers/{preset}/health": "/api/servers/none/health",
    "/api/models/hub/{id}": "/api/models/hub/none",
    "/api/models/local/{id}": "/api/models/local/none",
    "/api/models/capabilities/{id}": "/api/models/capabilities/none",
    "/api/models/tasks/{id}": "/api/models/tasks/none",
    "/api/models/tasks/{id}/progress": "/api/models/tasks/none/progress",
    **{
        f"/api/models/download/{{task}}{rest}": f"/api/models/download/none{rest}"
        for rest in ("", "/status", "/progress", "/pause", "/resume", "/cancel", "/retry")
    },
    "(no route)": "/v1/there/is/nothing",
}


def path(endpoint: type[Endpoint]) -> str:
    return PATHS.get(endpoint.route, endpoint.route)


def body(route: str, model: str = "plain", **more: Any) -> dict[str, Any]:
    asked = (
        {"messages": [{"role": "user", "content": "Hello"}]}
        if "chat" in route
        else {"prompt": "Hello", "max_tokens": 1000}
    )
    return {"model": model, **asked, **more}


def check_problem(server: Running, reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The reply is a problem document with one audit row that says the same. Returns the document."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert {"type", "title", "status", "detail", "instance", "request_id", "error"} <= set(problem)
    assert problem["status"] == status
    assert problem["error"]["code"] == code
    assert set(problem["error"]) == {"message", "type", "param", "code"}
    check_row(server, reply.headers["x-request-id"], status, code)
    assert problem["request_id"] == reply.headers["x-request-id"]
    return problem


def check_row(server: Running, request_id: str, http_status: int, error_type: str | None) -> dict[str, Any]:
    row = server.row(request_id)
    assert (row["http_status"], row["error_type"]) == (http_status, error_type)
    return row


# --- the wrapper -----------------------------------------------------------------------------------------------


def test_no_handler_goes_around_the_wrapper() -> None:
    for endpoint in ENDPOINTS:
        assert issubclass(endpoint, Endpoint)
        for cls in endpoint.__mro__[: endpoint.__mro__.index(Endpoint)]:
            assert not set(VERBS) & set(vars(cls)), f"{cls.__name__} defines a verb"
        assert "except" not in inspect.getsource(endpoint), f"{endpoint.__name__} catches"


@pytest.mark.parametrize(
    "endpoint", [one for one in ENDPOINTS if one is not Fallback], ids=lambda endpoint: endpoint.route
)
def test_a_method_a_route_does_not_know(serving: Running, endpoint: type[Endpoint]) -> None:
    reply = serving.client.patch(path(endpoint))
    check_problem(serving, reply, 405, "method_not_allowed")
    assert set(endpoint.verbs) <= set(reply.headers["allow"].split(", "))


@pytest.mark.parametrize("where", ["/v1/there/is/nothing", "/api", "/nothing", "/v1/models/"])
@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_a_path_that_is_nothing(serving: Running, where: str, method: str) -> None:
    check_problem(serving, serving.client.request(method, where), 404, "route_not_found")


def test_a_method_nobody_knows(serving: Running) -> None:
    reply = serving.client.request("BREW", "/v1/models")
    assert reply.status_code == 405
    assert reply.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.route)
def test_a_foreign_host_and_a_foreign_page_are_refused(serving: Running, endpoint: type[Endpoint]) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        reply = serving.client.request(endpoint.verbs[0], path(endpoint), headers=headers)
        check_problem(serving, reply, 403, "host_refused")
        assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.route)
def test_one_id_everywhere(serving: Running, endpoint: type[Endpoint]) -> None:
    given = f"my-id.{time.monotonic_ns()}"
    reply = serving.client.request(
        "PATCH" if "PATCH" not in endpoint.verbs else "GET", path(endpoint), headers={"X-Request-ID": given}
    )
    assert reply.headers["x-request-id"] == given
    assert reply.json()["request_id"] == given
    assert len(serving.rows(given)) == 1
    assert serving.rows(given)[0]["endpoint"] == endpoint.route


def test_an_id_that_is_not_one_is_replaced(serving: Running) -> None:
    for bad in ("a b", "x" * 65, "<script>"):
        reply = serving.client.get("/health", headers={"X-Request-ID": bad})
        assert reply.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("address", ["192.168.1.7", "10.0.0.1", "2001:db8::1", "fe80::1%eth0"])
def test_other_machines_are_refused_while_there_are_no_keys(address: str) -> None:
    with pytest.raises(HostRefused):
        check_caller(address)
    for own in ("127.0.0.1", "127.8.8.8", "::1", None, ""):
        check_caller(own)


def test_a_head_of_the_live_feed_ends(serving: Running) -> None:
    assert serving.client.head("/api/live").headers["content-type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "http://127.0.0.1", "http://[::1]:8888", "vscode-webview://abc"]
)
def test_cors(serving: Running, origin: str) -> None:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-stainless-os",
    }
    preflight = serving.client.options("/v1/chat/completions", headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == origin
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
    reply = serving.client.get("/v1/models", headers={"Origin": origin})
    assert reply.headers["access-control-allow-origin"] == origin


# --- what a body can get wrong -----------------------------------------------------------------------------------

MALFORMED: dict[str, tuple[bytes, str, str | None]] = {
    "no body": (b"", "invalid_body", None),
    "not json": (b"{nope", "invalid_body", None),
    "not an object": (b"[1]", "invalid_body", None),
    "deep": (b"[" * 100_000, "invalid_body", None),
    "not utf-8": b'{"model": "\xff"}' and (b'{"model": "\xff"}', "invalid_body", None),
    "lone surrogate": (rb'{"model": "\ud800"}', "invalid_body", None),
}
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no model": ({"model": None}, "invalid_parameter", "model"),
    "model is a number": ({"model": 5}, "invalid_parameter", "model"),
    "temperature is text": ({"temperature": "warm"}, "invalid_parameter", "temperature"),
    "temperature too high": ({"temperature": 2.5}, "invalid_parameter", "temperature"),
    "max_tokens is zero": ({"max_tokens": 0}, "invalid_parameter", "max_tokens"),
    "max_tokens is half": ({"max_tokens": 1.5}, "invalid_parameter", "max_tokens"),
    "max_tokens is huge": ({"max_tokens": 10**30}, "invalid_parameter", "max_tokens"),
    "top_p above one": ({"top_p": 1.1}, "invalid_parameter", "top_p"),
    "stop is a number": ({"stop": 5}, "invalid_parameter", "stop"),
    "stop is empty": ({"stop": ""}, "invalid_parameter", "stop"),
    "too many stops": ({"stop": ["x"] * 17}, "invalid_parameter", "stop"),
    "stream is text": ({"stream": "yes"}, "invalid_parameter", "stream"),
    "stream_options alone": (
        {"stream_options": {"include_usage": True}},
        "invalid_parameter",
        "stream_options",
    ),
    "n is too high": ({"n": 129}, "invalid_parameter", "n"),
    "n is true": ({"n": True}, "invalid_parameter", "n"),
    "seed is half": ({"seed": 0.5}, "invalid_parameter", "seed"),
    "seed is huge": ({"seed": 2**63}, "invalid_parameter", "seed"),
    "presence_penalty too high": ({"presence_penalty": 2.1}, "invalid_parameter", "presence_penalty"),
    "frequency_penalty too low": ({"frequency_penalty": -2.1}, "invalid_parameter", "frequency_penalty"),
    "repetition_penalty is zero": ({"repetition_penalty": 0}, "invalid_parameter", "repetition_penalty"),
    "repetition_penalty is tiny": ({"repetition_penalty": 1e-300}, "invalid_parameter", "repetition_penalty"),
    "repetition_context_size below zero": (
        {"repetition_context_size": -1},
        "invalid_parameter",
        "repetition_context_size",
    ),
    "a bias for a word": ({"logit_bias": {"zq7canary4Kx": 1}}, "invalid_parameter", "logit_bias"),
    "a bias for no token": ({"logit_bias": {"999999": 1}}, "invalid_parameter", "logit_bias"),
    "too many biases": (
        {"logit_bias": dict.fromkeys(map(str, range(1025)), 1)},
        "invalid_parameter",
        "logit_bias",
    ),
    "deterministic is a number": ({"deterministic": 1}, "invalid_parameter", "deterministic"),
}


@pytest.mark.parametrize("route", GENERATE)
@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_body(serving: Running, route: str, fault: str) -> None:
    raw, code, _ = MALFORMED[fault]
    reply = serving.client.post(route, content=raw, headers={"Content-Type": "application/json"})
    check_problem(serving, reply, 400, code)


@pytest.mark.parametrize("route", GENERATE)
@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_field_is_named(serving: Running, route: str, fault: str) -> None:
    change, code, field = WRONG[fault]
    problem = check_problem(serving, serving.client.post(route, json=body(route) | change), 400, code)
    assert problem["error"]["param"] == field
    assert problem["errors"][0]["field"] == field
    assert field in problem["detail"]


MESSAGES: dict[str, tuple[Any, str]] = {
    "none": ([], "messages"),
    "not a list": ("Hello", "messages"),
    "unknown role": ([{"role": "robot", "content": "x"}], "messages[0].role"),
    "no content": ([{"role": "user"}], "messages[0].content"),
    "an image": (
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        "messages[0].content[0].type",
    ),
    "a part without text": ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]"),
    "a tool result without its call": ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
    "an old function call": (
        [{"role": "assistant", "content": "x", "function_call": {"name": "f"}}],
        "messages[0]",
    ),
}


@pytest.mark.parametrize("fault", MESSAGES)
def test_a_wrong_message_is_named(serving: Running, fault: str) -> None:
    messages, field = MESSAGES[fault]
    reply = serving.client.post("/v1/chat/completions", json={"model": "plain", "messages": messages})
    problem = check_problem(serving, reply, 400, reply.json()["error"]["code"])
    assert problem["error"]["param"] == field


CHAT_REFUSED = {
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy", "format": "mp3"},
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {},
    "moderation": {"model": "x"},
    "verbosity": "low",
    "store": True,
    "guided_json": {"type": "object"},
    "guided_regex": "a",
    "guided_choice": ["a"],
    "guided_grammar": "start: /a/",
}
CHAT_NEUTRAL = {
    "n": 1,
    "tools": [],
    "response_format": {"type": "text"},
    "logprobs": False,
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "tool_choice": "auto",
    "logit_bias": {},
    "seed": None,
    "store": False,
    "functions": [],
    "function_call": "auto",
    "parallel_tool_calls": True,
    "top_logprobs": 0,
    "reasoning_effort": "none",
    "modalities": ["text"],
    "verbosity": "medium",
    "chat_template_kwargs": {},
    "structured_outputs": {},
}


@pytest.mark.parametrize("name", CHAT_REFUSED)
def test_an_unsupported_parameter_is_refused_by_name(serving: Running, name: str) -> None:
    problem = check_problem(serving, serving.chat(**{name: CHAT_REFUSED[name]}), 400, "unsupported_parameter")
    assert problem["error"]["param"] == name


def test_an_unsupported_parameter_may_be_neutral(serving: Running) -> None:
    reply = serving.chat(**CHAT_NEUTRAL)
    assert reply.status_code == 200, reply.text
    assert "x-ignored-fields" not in reply.headers


def test_fields_outside_the_vocabulary_are_named_or_refused(serving: Running, serve: Any) -> None:
    reply = serving.chat(frobnicate=1, **{"two\nlines": 2})
    assert reply.status_code == 200
    assert reply.headers["x-ignored-fields"] == "(unprintable), frobnicate"
    strict = serve(unknown_fields="refuse")
    problem = check_problem(strict, strict.chat(frobnicate=1), 400, "unknown_field")
    assert problem["error"]["param"] == "frobnicate"


def test_fields_inside_messages_are_named_or_refused(serving: Running, serve: Any) -> None:
    part = {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral"}}
    messages = [{"role": "user", "content": [part], "mood": "good"}]
    reply = serving.client.post(GENERATE[0], json={"model": "plain", "messages": messages})
    assert reply.headers["x-ignored-fields"] == "messages.content.cache_control, messages.mood"
    strict = serve(unknown_fields="refuse")
    problem = check_problem(
        strict,
        strict.client.post(GENERATE[0], json={"model": "plain", "messages": messages}),
        400,
        "unknown_field",
    )
    assert problem["error"]["param"] == "messages[0].mood"


def test_a_header_names_only_so_many_fields(serving: Running) -> None:
    named = serving.chat(**{f"field{place}": place for place in range(500)}).headers["x-ignored-fields"]
    assert named.endswith("and-480-more")
    assert len(named) < 500


RAW = {
    "a host that is none": ("GET /health HTTP/1.1\r\nHost: [::1\r\n\r\n", 403),
    "a length that is none": (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: abc\r\n\r\n",
        400,
    ),
    "two lengths": ("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 31,32\r\n\r\n", 400),
    "a path that is no text": ("GET /v1/models/%ff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a query that is no text": (
        "GET /v1/admin/audit-logs?model=%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        400,
    ),
}


@pytest.mark.parametrize("fault", RAW)
def test_a_malformed_request(serving: Running, fault: str) -> None:
    text, status = RAW[fault]
    with socket.create_connection(("127.0.0.1", int(serving.url.rpartition(":")[2]))) as client:
        client.settimeout(10)
        client.sendall(text.encode())
        head = client.recv(65536).decode()
    assert int(head.split()[1]) == status, head
    assert "application/problem+json" in head or "Content-Type" not in head


@pytest.mark.parametrize("route", GENERATE)
def test_the_wrong_content_type(serving: Running, route: str) -> None:
    reply = serving.client.post(
        route, content=json.dumps(body(route)), headers={"Content-Type": "text/plain"}
    )
    check_problem(serving, reply, 415, "unsupported_media_type")


@pytest.mark.parametrize("route", GENERATE)
def test_a_body_over_the_limit(serve: Any, route: str) -> None:
    server = serve(max_body_mb=0.05)
    assert server.client.post(route, json=body(route, user="x" * 40_000)).status_code == 200
    problem = check_problem(
        server, server.client.post(route, json=body(route, user="x" * 60_000)), 413, "payload_too_large"
    )
    assert problem["limit_bytes"] == 50_000


@pytest.mark.parametrize("route", GENERATE)
@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model(serving: Running, route: str, stream: bool) -> None:
    reply = serving.client.post(route, json=body(route, model="gpt-17", stream=stream))
    check_problem(serving, reply, 404, "model_not_found")
    assert serving.row(reply.headers["x-request-id"])["model_requested"] == "unknown"


# --- what a model can get wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", GENERATE)
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_cannot_be_loaded(serving: Running, route: str, stream: bool) -> None:
    problem = check_problem(
        serving,
        serving.client.post(route, json=body(route, "broken", stream=stream)),
        503,
        "model_load_failed",
    )
    assert "its weights are missing" in problem["detail"]


@pytest.mark.parametrize("route", GENERATE)
def test_a_prompt_that_does_not_fit(serving: Running, route: str) -> None:
    reply = serving.client.post(route, json=body(route, "small") | {"max_tokens": 1000})
    problem = check_problem(serving, reply, 400, "context_length_exceeded")
    assert problem["context_length"] == 8
    assert problem["error"]["param"] == ("messages" if "chat" in route else "prompt")
    assert "maximum context length is 8 tokens" in problem["detail"]


@pytest.mark.parametrize("route", GENERATE)
@pytest.mark.parametrize(("model", "code"), [("failing", "generation_failed"), ("dying", "worker_died")])
def test_a_failure_in_the_middle(serving: Running, route: str, model: str, code: str) -> None:
    reply = serving.client.post(route, json=body(route, model))
    check_problem(serving, reply, 503, code)
    with serving.client.stream("POST", route, json=body(route, model, stream=True)) as stream:
        lines = [line for line in stream.iter_lines() if line]
    event = json.loads(lines[-1].removeprefix("data: "))
    assert stream.status_code == 200
    assert event["error"]["code"] == code
    assert event["request_id"] == stream.headers["x-request-id"]
    row = check_row(serving, event["request_id"], 200, code)
    assert (row["status"], row["stream"]) == ("error", True)
    assert row["completion_tokens"] == 2
    assert serving.client.post(route, json=body(route)).status_code == 200


@pytest.mark.parametrize("model", ["failing", "dying", "slow"])
def test_work_that_began_is_not_done_twice(serve: Any, model: str) -> None:
    """OpenAI's clients repeat a 408 and a 503 unless they are told not to."""
    server: Running = serve(timeout_chat_seconds=2)
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=3) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello"}])
    page = server.client.get("/v1/admin/audit-logs").json()
    assert page["total"] == 1
    assert caught.value.request_id == page["rows"][0]["request_id"]


def test_a_worker_killed_in_the_middle_is_replaced(serving: Running) -> None:
    with serving.client.stream(
        "POST", "/v1/chat/completions", json=body("chat", "slow", stream=True)
    ) as stream:
        lines = stream.iter_lines()
        next(lines)
        victim = next(worker for worker in serving.workers() if "--name=slow" in worker.cmdline())
        os.kill(victim.pid, signal.SIGKILL)
        last = [line for line in lines if line][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "worker_died"
    again = serving.chat("slow", max_tokens=3)
    assert again.status_code == 200, again.text
    assert again.json()["usage"]["completion_tokens"] == 3


# --- time ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "setting"),
    [(GENERATE[0], "timeout_chat_seconds"), (GENERATE[1], "timeout_completions_seconds")],
)
def test_the_total_limit_of_each_endpoint(serve: Any, route: str, setting: str) -> None:
    server = serve(**{setting: 1})
    began = time.monotonic()
    problem = check_problem(server, server.client.post(route, json=body(route, "slow")), 408, "timeout")
    assert problem["timeout_seconds"] == 1
    assert time.monotonic() - began < 3
    with server.client.stream("POST", route, json=body(route, "slow", stream=True)) as stream:
        last = [line for line in stream.iter_lines() if line][-1]
    event = json.loads(last.removeprefix("data: "))
    assert event["timeout_seconds"] == 1
    assert check_row(server, event["request_id"], 200, "timeout")["status"] == "timeout"
    other = GENERATE[1 - GENERATE.index(route)]
    assert (
        server.client.post(other, json=body(other) | {"max_tokens": 60, "model": "slow"}).status_code == 200
    )
    wait_for(lambda: idle(server))


@pytest.mark.parametrize(
    ("setting", "model", "words"),
    [
        ("timeout_first_token_seconds", "silent", "No token"),
        ("timeout_stall_seconds", "stalled", "paused"),
        ("timeout_chat_seconds", "late", "limit"),
    ],
)
def test_the_finer_clocks(serve: Any, setting: str, model: str, words: str) -> None:
    server = serve(**{setting: 1})
    if model == "late":
        server.client.put("/api/settings/timeouts", json={setting: 1}).raise_for_status()
    reply = server.chat(model)
    if model == "late" and reply.status_code == 200:
        pytest.skip("the model loaded within its second")
    assert words in check_problem(server, reply, 408, "timeout")["detail"]


def test_the_queue_clock(serve: Any) -> None:
    server = serve(timeout_queue_seconds=1, max_batch=1)
    with server.client.stream(
        "POST", "/v1/chat/completions", json=body("chat", "slow", stream=True)
    ) as first:
        lines = first.iter_lines()  # held: dropping it would close the connection
        next(lines)
        problem = check_problem(server, server.chat("slow"), 408, "timeout")
    assert "queue" in problem["detail"]


def test_a_silent_stream_is_kept_alive(serve: Any) -> None:
    server = serve(sse_keepalive_seconds=0.1, timeout_chat_seconds=1)
    server.client.post("/v1/admin/models/load/stalled").raise_for_status()
    with server.client.stream(
        "POST", "/v1/chat/completions", json=body("chat", "stalled", stream=True)
    ) as stream:
        lines = list(stream.iter_lines())
    assert lines.count(": keep-alive") >= 5


def test_limits_change_live_and_survive_a_restart(serve: Any) -> None:
    server = serve()
    changed = (
        server.client.put("/api/settings/timeouts", json={"timeout_chat_seconds": 1})
        .raise_for_status()
        .json()
    )
    chat = next(limit for limit in changed["timeouts"] if limit["name"] == "timeout_chat_seconds")
    assert (chat["value"], chat["source"]) == (1.0, "live")
    check_problem(server, server.chat("slow"), 408, "timeout")
    assert server.stop() == 0
    again = serve()
    check_problem(again, again.chat("slow"), 408, "timeout")
    again.client.delete("/api/settings/timeouts").raise_for_status()
    assert again.chat("slow", max_tokens=60).status_code == 200


@pytest.mark.parametrize("value", [0, -1, 1e9, "5", True, None])
def test_a_limit_out_of_bounds_changes_nothing(serving: Running, value: Any) -> None:
    before = serving.client.get("/api/settings/timeouts").json()
    reply = serving.client.put(
        "/api/settings/timeouts", json={"timeout_completions_seconds": 5, "timeout_chat_seconds": value}
    )
    check_problem(serving, reply, 400, "invalid_parameter")
    assert serving.client.get("/api/settings/timeouts").json() == before


def test_more_requests_than_the_server_takes(serve: Any) -> None:
    server = serve(max_requests=1)
    with server.client.stream(
        "POST", "/v1/chat/completions", json=body("chat", "slow", stream=True)
    ) as first:
        lines = first.iter_lines()  # held: dropping it would close the connection
        next(lines)
        reply = server.chat()
        check_problem(server, reply, 503, "queue_full")
        assert reply.headers["retry-after"] == "1"
    wait_for(lambda: server.chat().status_code == 200)


# --- clients that leave ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", GENERATE)
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_work(serving: Running, route: str, stream: bool) -> None:
    given = f"leaver-{time.monotonic_ns()}"
    with socket.create_connection(("127.0.0.1", int(serving.url.rpartition(":")[2]))) as client:
        client.sendall(raw_request(route, json.dumps(body(route, "slow", stream=stream)), given))
        wait_for(lambda: not idle(serving))
    row = serving.row(given)
    assert (
        (row["status"], row["http_status"], row["error_type"]) == ("cancelled", 499, "client_gone")
        if not stream
        else row["status"] == "cancelled"
    )
    assert row["duration_ms"] < 5000
    wait_for(lambda: idle(serving))


def test_a_client_that_leaves_before_its_body_is_there(serving: Running) -> None:
    given = f"half-{time.monotonic_ns()}"
    with socket.create_connection(("127.0.0.1", int(serving.url.rpartition(":")[2]))) as client:
        client.sendall(raw_request(GENERATE[0], "x" * 1000, given)[:-500])
        time.sleep(0.2)
    assert serving.row(given)["status"] == "cancelled"


def test_a_client_that_does_not_read_is_let_go(serve: Any) -> None:
    from .server import scripted

    server = serve(timeout_write_seconds=1)
    scripted(server.folder, "flood", text="x" * 20_000, repeat=4000, context_length=100_000)
    wait_for(lambda: "flood" in server.client.get("/v1/models").text)
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        client.sendall(raw_request(GENERATE[0], json.dumps(body("chat", "flood", stream=True)), "standing"))
        assert server.row("standing", timeout=15)["status"] == "cancelled"


def raw_request(route: str, text: str, request_id: str) -> bytes:
    head = f"POST {route} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nX-Request-ID: {request_id}\r\nContent-Length: {len(text)}\r\n\r\n"
    return (head + text).encode()


def idle(server: Running) -> bool:
    """Whether no worker runs or holds a request."""
    models = server.client.get("/v1/admin/models/status").json()["models"]
    return server.client.get("/health").json()["requests"] == 0 and not any(
        model["running"] or model["queued"] for model in models
    )


def wait_for(condition: Any, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


# --- what is right -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", GENERATE)
@pytest.mark.parametrize("stream", [False, True])
def test_success_leaves_a_full_row(serving: Running, route: str, stream: bool) -> None:
    reply = serving.client.post(route, json=body(route, stream=stream))
    assert reply.status_code == 200
    row = serving.row(reply.headers["x-request-id"])
    assert WORDS.split()[0] in reply.text
    assert (
        row
        | {
            "status": "success",
            "http_status": 200,
            "stream": stream,
            "endpoint": route,
            "dialect": "openai",
            "backend_type": "local",
            "model_used": "plain",
            "model_requested": "plain",
            "caller": "127.0.0.1",
            "finish_reason": "stop",
            "error_type": None,
        }
        == row
    )
    assert row["total_tokens"] == row["prompt_tokens"] + row["completion_tokens"] > 9
    assert 0 < row["ttft_ms"] <= row["duration_ms"]
    assert row["queue_ms"] is not None
    assert row["load_ms"] is not None
