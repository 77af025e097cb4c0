"""Presets as servers: started, stopped, restarted and asked for their health by name."""

from __future__ import annotations

import os
import signal
from typing import Any

import httpx
import psutil
import pytest

from .server import Running, running, scripted
from .test_doors import wait_for
from .test_lifecycle import Reader
from .test_presets import put


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("servers")
    scripted(folder, "hanging", text="one two three", hang_after=1)
    with running(folder, drain_timeout_seconds=20) as server:
        put(server, "first", "slow")
        put(server, "second", "slow")
        put(server, "lone", "plain")
        yield server


def post(server: Running, preset: str, action: str) -> httpx.Response:
    return server.client.post(f"/api/servers/{preset}/{action}")


def status(server: Running, preset: str) -> dict[str, Any]:
    return server.client.get(f"/api/servers/{preset}/status").raise_for_status().json()


def test_start_stop_and_restart(house: Running) -> None:
    assert status(house, "lone")["state"] == "available"
    assert house.client.get("/api/servers/lone/health").status_code == 503
    started = post(house, "lone", "start")
    assert (started.status_code, started.json()["state"], started.json()["healthy"]) == (200, "ready", True)
    pid = started.json()["pid"]
    assert psutil.pid_exists(pid)
    assert post(house, "lone", "start").json()["pid"] == pid
    health = house.client.get("/api/servers/lone/health")
    assert (health.status_code, health.json()["healthy"]) == (200, True)
    again = post(house, "lone", "restart").json()
    assert (again["state"], again["pid"] != pid, psutil.pid_exists(pid)) == ("ready", True, False)
    assert house.chat("lone").status_code == 200
    stopped = post(house, "lone", "stop")
    assert (stopped.status_code, stopped.json()["state"], stopped.json()["pid"]) == (200, "available", None)
    assert not psutil.pid_exists(again["pid"])


def test_a_start_that_nobody_waits_for(house: Running) -> None:
    put(house, "behind", "late")
    reply = post(house, "behind", "start?wait=false")
    assert (reply.status_code, reply.json()["state"]) == (202, "loading")
    wait_for(lambda: status(house, "behind")["state"] == "ready")
    put(house, "hopeless", "broken")
    assert post(house, "hopeless", "start?wait=false").status_code == 202
    wait_for(lambda: status(house, "hopeless")["state"] == "failed")
    assert "weights are missing" in status(house, "hopeless")["reason"]
    failed = post(house, "hopeless", "start")
    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "model_load_failed")


@pytest.mark.parametrize("path", ["start", "stop", "restart"])
def test_a_preset_there_is_none_of(house: Running, path: str) -> None:
    for reply in (
        post(house, "nobody", path),
        *(house.client.get(f"/api/servers/nobody/{one}") for one in ("status", "health")),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    wrong = post(house, "lone", f"{path}?now=true")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "now")
    switch = "wait" if path == "start" else "force"
    assert post(house, "lone", f"{path}?{switch}=maybe").json()["error"]["param"] == switch


@pytest.mark.parametrize("action", ["stop", "restart"])
def test_a_shared_process_is_not_taken_from_others(house: Running, action: str) -> None:
    stream = Reader(house, "second", max_tokens=150)
    assert status(house, "first")["shared_with"] == ["second"]
    refused = post(house, "first", action)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert "1 requests" in refused.json()["detail"]
    assert stream.last() == "[DONE]"
    reply = post(house, "first", action)
    assert (reply.status_code, reply.json()["shared_with"]) == (200, ["second"])
    post(house, "first", "stop")


def test_ones_own_requests_end_first_and_force_waits_for_others_too(house: Running) -> None:
    own = Reader(house, "first", max_tokens=60)
    assert post(house, "first", "stop").status_code == 200
    assert own.last() == "[DONE]"
    others = [Reader(house, name, max_tokens=60) for name in ("second", "slow")]
    assert post(house, "first", "stop?force=true").json()["state"] == "available"
    assert [stream.last() for stream in others] == ["[DONE]"] * 2


def test_a_process_that_does_not_answer_is_not_healthy(house: Running) -> None:
    put(house, "hung", "hanging")
    with house.client.stream("POST", "/v1/chat/completions", json={
        "model": "hung", "messages": [{"role": "user", "content": "Hi"}], "stream": True,
    }) as stream:  # fmt: skip
        next(stream.iter_lines())
        health = house.client.get("/api/servers/hung/health")
        assert (health.status_code, health.json()["healthy"], health.json()["state"]) == (503, False, "ready")
    os.kill(health.json()["pid"], signal.SIGKILL)


def test_all_of_them(house: Running) -> None:
    put(house, "gone", "failing")
    servers = {one["preset"]: one for one in house.client.get("/api/servers").json()["servers"]}
    assert {"first", "second", "lone", "gone"} <= servers.keys()
    assert servers["first"]["model"] == "slow"
    house.client.delete("/api/profiles/gone")
    assert house.client.get("/api/servers/gone/status").status_code == 404
    folder = house.folder / "models" / "silent"
    put(house, "lost", "silent")
    (folder / "fake.json").unlink()
    folder.rmdir()
    assert status(house, "lost")["state"] == "missing"
    assert "'silent'" in status(house, "lost")["reason"]
    assert post(house, "lost", "start").json()["error"]["code"] == "model_not_found"
