"""Where the time of real requests went: measured in the worker, kept beside the row, told by the API."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from mlx_panel.analytics import RequestView

from .models import tiny_model
from .server import Running, running
from .test_doors import GENERATE, body, raw_request

ROUTE = "/v1/admin/audit-logs"
LONG = 2400  # tokens, some passes of a quarter second each on a slow machine


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("data")
    tiny_model(folder / "models" / "tiny", hidden=128, layers=4, context=8192)
    with running(folder, prefill_step=256, prefix_disk=False) as server:
        server.client.post("/v1/admin/models/load/tiny").raise_for_status()
        yield server


def tokens(seed: int, count: int) -> list[int]:
    return [20 + (seed * 7919 + 31 * place) % 250 for place in range(count)]


def ask(server: Running, id: str, prompt: list[int], **more: Any) -> None:
    """A completion of a real model, and its end; with `began`, an event that is set when its prompt is under way."""
    began: threading.Event | None = more.pop("began", None)
    asked = {
        "model": "tiny",
        "prompt": prompt,
        "max_tokens": 8,
        "ignore_eos": True,
        "stream": True,
        "temperature": 0.25,
    }
    asked["stream_options"] = {"include_progress": True}
    with server.client.stream(
        "POST", "/v1/completions", json=asked | more, headers={"X-Request-ID": id}
    ) as reply:
        assert reply.status_code == 200, reply.read()
        for line in reply.iter_lines():
            if began is not None and '"stage":"prefill"' in line:
                began.set()


def view(server: Running, name: str) -> RequestView:
    reply = server.client.get(f"{ROUTE}/{name}")
    assert reply.status_code == 200, reply.text
    return msgspec.json.decode(reply.content, type=RequestView)


def kinds(found: RequestView) -> set[str]:
    return {span.kind for span in found.spans}


def check(found: RequestView) -> None:
    """What holds of every request: spans follow each other within its time, and its shares add up to it."""
    worker = [span for span in found.spans if span.kind != "send"]
    for one, two in itertools.pairwise(worker):
        assert two.at_ms >= one.at_ms + one.ms - 0.01
    assert worker[0].at_ms >= 0
    assert worker[-1].at_ms + worker[-1].ms <= found.record.duration_ms + 1
    assert sum(found.shares.values()) == pytest.approx(found.record.duration_ms, abs=0.02)
    assert found.sentence.endswith(".")


@pytest.fixture(scope="module")
def crowd(serving: Running) -> dict[str, RequestView]:
    """Two long prompts, and a short one that comes while the first is processed."""
    began = threading.Event()
    first = threading.Thread(target=ask, args=(serving, "long-a", tokens(1, LONG)), kwargs={"began": began})
    others = [
        threading.Thread(target=ask, args=(serving, "long-b", tokens(2, LONG))),
        threading.Thread(target=ask, args=(serving, "short", tokens(3, 12)), kwargs={"max_tokens": 24}),
    ]
    first.start()
    assert began.wait(30)
    for other in others:
        other.start()
    for thread in (first, *others):
        thread.join()
    return {name: view(serving, name) for name in ("long-a", "long-b", "short")}


def test_a_request_knows_whose_prefill_it_waited_for(crowd: dict[str, RequestView]) -> None:
    short, long = crowd["short"], crowd["long-a"]
    for found in crowd.values():
        check(found)
    waited = {one.request_id: one for one in short.neighbours}
    assert waited["long-a"].prefill_ms > 0
    assert waited["long-a"].tokens >= 100
    assert short.record.interference_ms == pytest.approx(
        sum(one.prefill_ms for one in short.neighbours), abs=0.01
    )
    assert 0 < short.shares["others"] <= short.record.duration_ms
    assert max(short.shares, key=lambda kind: short.shares[kind]) == "others"
    assert "prefill" in short.sentence
    # The long one has its chunks, all of its prompt in them but the token that decoding begins with.
    chunks = [span for span in long.spans if span.kind == "prefill"]
    assert len(chunks) >= 3
    assert sum(span.tokens for span in chunks) == LONG - 1
    assert long.record.prefill_ms == pytest.approx(sum(span.ms for span in chunks), abs=0.01)


def test_neighbours_are_found_in_the_log(crowd: dict[str, RequestView]) -> None:
    short, long = crowd["short"], crowd["long-a"]
    beside = {one.request_id: one for one in short.beside}
    assert beside["long-a"].id == long.id
    assert beside["long-a"].at_ms < 0  # it came before
    assert beside["long-a"].model == "tiny"
    assert any(span.kind == "prefill" for span in beside["long-a"].spans)
    assert all(
        span.at_ms >= 0 and span.at_ms + span.ms <= short.record.duration_ms + 0.01
        for span in beside["long-a"].spans
    )
    # What two shared is the same from both sides.
    for one, two in (("short", "long-a"), ("long-a", "long-b"), ("short", "long-b")):
        here = [(n.steps, n.decode_ms) for n in crowd[one].neighbours if n.request_id == two and n.steps]
        there = [(n.steps, n.decode_ms) for n in crowd[two].neighbours if n.request_id == one and n.steps]
        assert here == there


def test_what_the_cache_had_is_restored(serving: Running, crowd: dict[str, RequestView]) -> None:
    ask(serving, "again", tokens(1, LONG), n=2)
    found = view(serving, "again")
    check(found)
    assert {"restore", "decode"} <= kinds(found)
    assert found.record.cached_tokens > LONG - 300
    assert found.record.restore_ms is not None
    assert found.record.saved_ms > 10 * (found.record.restore_ms + 1)
    assert (found.record.prefill_ms or 0.0) < 0.5 * crowd["long-a"].record.prefill_ms
    assert (found.record.batch_mean, found.record.choices) == (2.0, 2)
    record = crowd["long-a"].record
    assert (record.temperature, record.top_p, record.top_k, record.max_tokens) == (0.25, 1.0, 0, 8)
    assert 0 < record.itl_ms <= record.itl_max_ms <= record.duration_ms
    assert record.decode_ms == pytest.approx(7 * record.itl_ms, rel=0.01, abs=0.01)
    # Its way through the log.
    assert view(serving, str(found.id)) == found
    assert found.before is not None
    assert view(serving, str(found.before)).after == found.id


def test_the_prompts_of_one_body_do_not_blame_each_other(serving: Running) -> None:
    prompts = [tokens(seed, 500) for seed in (11, 12, 13)]
    ask(serving, "several", prompts)
    found = view(serving, "several")
    check(found)
    assert found.record.choices == 3
    assert found.record.interference_ms == 0
    assert {one.request_id for one in found.neighbours} == {"several"}
    assert "others" not in found.shares
    assert found.shares["prefill"] == pytest.approx(found.record.prefill_ms, abs=0.1)


def test_a_client_that_is_slow_to_read(serving: Running) -> None:
    # An echo as large as no socket's buffer, in one piece.
    asked = {"model": "plain", "prompt": "x" * 12_000_000, "echo": True, "stream": True}
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        client.settimeout(30)
        client.connect(("127.0.0.1", int(serving.url.rpartition(":")[2])))
        client.sendall(raw_request("/v1/completions", json.dumps(asked), "slow-reader"))
        data = bytearray(client.recv(1))  # it begins, and cannot go on
        for _ in range(20):
            serving.client.get("/health")
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data += client.recv(1 << 20)
    found = view(serving, "slow-reader")
    check(found)
    assert found.record.status == "success"
    sends = [span.ms for span in found.spans if span.kind == "send"]
    assert sum(sends) == pytest.approx(found.record.blocked_ms, abs=0.1)
    assert found.record.blocked_ms > 1
    assert found.shares["send"] > 0
    assert "load" in kinds(found)  # nobody had asked for this model before


def test_one_that_is_cut_off_has_what_was_known(serving: Running) -> None:
    with serving.client.stream(
        "POST", GENERATE[0], json=body("chat", "slow", stream=True), headers={"X-Request-ID": "gone"}
    ) as reply:
        next(reply.iter_lines())
    serving.row("gone")
    found = view(serving, "gone")
    check(found)
    assert found.record.status == "cancelled"
    assert "decode" in kinds(found)
    assert found.sentence.startswith("Its client left after")
    failed = serving.client.post(
        GENERATE[0], json=body("chat", "failing"), headers={"X-Request-ID": "failed"}
    )
    assert failed.status_code == 503
    assert {"prefill", "decode"} <= kinds(view(serving, "failed"))


def test_one_id_twice_and_one_that_is_not_there(serving: Running) -> None:
    for _ in range(2):
        ask(serving, "twice", tokens(5, 8))
    found = view(serving, "twice")
    assert found.same[0] == found.id
    assert len(found.same) == 2
    other = view(serving, str(found.same[1]))
    assert (other.id, other.record.request_id) == (found.same[1], "twice")
    management = view(serving, serving.client.get("/health").headers["x-request-id"])
    assert (management.spans, management.record.queue_ms) == ((), None)
    assert "No model worked on it" in management.sentence
    for name in ("12345678", "nobody", "9" * 18):
        reply = serving.client.get(f"{ROUTE}/{name}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    assert serving.client.get(f"{ROUTE}/twice", params={"limit": 3}).status_code == 400
