"""The pool through its real doors: HTTP in front, worker processes behind."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from mlx_panel.settings import Settings

from .models import tiny_model
from .server import WORDS, Running, running, scripted

GB = 10**9


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """A function that starts a server over some scripted models."""
    opened = []

    def begin(models: dict[str, dict[str, Any]] | None = None, **values: Any) -> Running:
        for name, spec in (models or {}).items():
            scripted(tmp_path / "data", name, **spec)
        context = running(tmp_path / "data", **values)
        opened.append(context)
        return context.__enter__()

    yield begin
    while opened:
        opened.pop().__exit__(None, None, None)


def models(server: Running) -> dict[str, dict[str, Any]]:
    found = server.client.get("/v1/admin/models/status").raise_for_status().json()["models"]
    return {one["id"]: one for one in found}


def pool(server: Running) -> dict[str, Any]:
    return server.client.get("/v1/admin/models/status").raise_for_status().json()["pool"]


def ready(server: Running) -> set[str]:
    return {id for id, one in models(server).items() if one["state"] == "ready"}


def change(server: Running, **values: Any) -> None:
    server.client.put("/api/settings/pool", json=values).raise_for_status()


def until(true: Callable[[], Any], seconds: float = 15) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


def say(server: Running, model: str, **more: Any) -> str:
    reply = server.chat(model, **more)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


class Busy:
    """A stream that keeps a model in use until it is closed."""

    def __init__(self, server: Running, model: str):
        body = {"model": model, "messages": [{"role": "user", "content": "go"}], "stream": True}
        self.client = httpx.Client(timeout=30)
        request = self.client.build_request("POST", f"{server.url}/v1/chat/completions", json=body)
        self.reply = self.client.send(request, stream=True)
        self.pieces = self.reply.iter_raw()  # kept: the stream ends with its iterator
        next(self.pieces)

    def close(self) -> None:
        self.reply.close()
        self.client.close()


# --- limits ------------------------------------------------------------------------------------------------


def test_no_more_models_than_allowed_and_the_least_recently_used_leaves(start: Any) -> None:
    server = start({"a": {}, "b": {}, "c": {}}, max_models=2)
    for name in ("a", "b"):
        say(server, name)
    say(server, "a")
    say(server, "c")
    assert ready(server) == {"a", "c"}
    assert say(server, "b") == WORDS  # one that was evicted loads again
    assert ready(server) == {"b", "c"}
    change(server, max_models=0)
    say(server, "a")
    assert ready(server) == {"a", "b", "c"}
    assert pool(server)["evictions"] == 2


def test_the_policy_decides_who_leaves(start: Any) -> None:
    server = start({"a": {}, "b": {}, "c": {}}, max_models=2, eviction="lfu")
    for name in ("a", "a", "a", "b"):
        say(server, name)
    say(server, "c")
    assert ready(server) == {"a", "c"}
    change(server, eviction="lru")
    say(server, "b")
    assert ready(server) == {"b", "c"}
    change(server, eviction="ttl", model_ttls={"b": 500, "c": 100})
    say(server, "a")
    assert ready(server) == {"a", "b"}


def test_memory_is_a_limit_for_models_together_and_for_each(start: Any) -> None:
    spec = {"weights_bytes": 400_000_000}
    server = start({"a": spec, "b": spec, "huge": {"weights_bytes": 9 * GB}}, memory_limit="700MB")
    say(server, "a")
    say(server, "b")
    assert ready(server) == {"b"}  # each takes its weights and what a process takes
    refused = server.chat("huge")
    assert refused.status_code == 503
    error = refused.json()
    assert error["error"]["code"] == "insufficient_memory"
    assert error["needed_bytes"] > 9 * GB
    assert error["available_bytes"] == 700_000_000
    assert models(server)["huge"]["verdict"] == "too_large"
    change(server, memory_limit="3GB")
    say(server, "a")
    assert ready(server) == {"a", "b"}
    figures = pool(server)
    assert figures["used"] <= figures["reserved"] <= figures["budget"] == 3 * GB


def test_a_bad_limit_is_refused_and_changes_nothing(start: Any) -> None:
    server = start()
    for value in ("lots", "-1GB", "0%", "101%", "", 5, "GB"):
        refused = server.client.put("/api/settings/pool", json={"memory_limit": value})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "memory_limit")
    assert server.client.put("/api/settings/pool", json={"pins": "a"}).status_code == 400
    assert server.client.put("/api/settings/pool", json={"model_ttls": {"a": -1}}).status_code == 400
    options = {one["name"]: one for one in server.client.get("/api/settings/pool").json()["options"]}
    assert options["memory_limit"]["value"] == "auto"
    assert options["memory_limit"]["source"] == "default"


def test_a_pinned_model_stays_and_what_does_not_fit_beside_it_is_told(start: Any) -> None:
    server = start({"a": {}, "b": {}}, max_models=1, idle_ttl_seconds=1)
    server.client.post("/v1/admin/models/pin/a", json={"pinned": True}).raise_for_status()
    say(server, "a")
    refused = server.chat("b")
    assert refused.json()["error"]["code"] == "insufficient_memory"
    time.sleep(2.5)
    assert models(server)["a"]["state"] == "ready"  # idle for longer than its time
    assert models(server)["a"]["pinned"]
    server.client.post("/v1/admin/models/pin/a", json={"pinned": False}).raise_for_status()
    say(server, "b")
    assert ready(server) == {"b"}
    assert server.client.post("/v1/admin/models/pin/nobody", json={"pinned": True}).status_code == 404


def test_idle_models_are_unloaded_each_after_its_time(start: Any) -> None:
    server = start({"a": {}, "b": {}}, idle_ttl_seconds=1, model_ttls='{"b": 0}')
    say(server, "a")
    say(server, "b")
    until(lambda: ready(server) == {"b"})
    change(server, model_ttls={})
    until(lambda: ready(server) == set())


def test_idle_begins_with_the_last_token(start: Any) -> None:
    server = start({"a": {"repeat": 40, "step_seconds": 0.01}}, idle_ttl_seconds=1)
    assert server.chat("a").json()["usage"]["completion_tokens"] > 300  # takes longer than its time
    assert ready(server) == {"a"}


def test_a_request_waits_for_memory_in_use_as_long_as_it_may(start: Any) -> None:
    server = start({"b": {}}, max_models=1, load_wait_seconds=0.3)
    busy = Busy(server, "slow")
    refused = server.chat("b")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "insufficient_memory")
    change(server, load_wait_seconds=30)
    with ThreadPoolExecutor(1) as other:
        later = other.submit(say, server, "b")
        until(lambda: models(server)["b"]["waiting"] == 1)
        assert models(server)["b"]["loading"]["stage"] == "waiting"
        busy.close()
        assert later.result(20) == WORDS
    assert ready(server) == {"b"}


def test_a_model_that_is_always_in_use_gives_way_in_the_end(start: Any) -> None:
    server = start({"a": {"repeat": 8, "step_seconds": 0.01}, "b": {}}, max_models=1)
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            server.chat("a")

    with ThreadPoolExecutor(4) as others:
        for _ in range(3):
            others.submit(keep_busy)
        until(lambda: ready(server) == {"a"})
        try:
            assert say(server, "b") == WORDS
        finally:
            stop.set()


# --- what is kept, preloaded, predicted -------------------------------------------------------------------------


def test_settings_are_kept_over_a_restart(tmp_path: Path) -> None:
    scripted(tmp_path, "a")
    with running(tmp_path, pins="x") as server:
        change(server, max_models=3, pins=["a"], eviction="lfu", models=["a"])
        until(lambda: ready(server) == {"a"})  # the preload list holds at once
    with running(tmp_path) as server:
        options = {one["name"]: one for one in server.client.get("/api/settings/pool").json()["options"]}
        assert [options[name]["value"] for name in ("max_models", "pins", "eviction")] == [3, ["a"], "lfu"]
        assert options["max_models"]["source"] == "live"
        until(lambda: ready(server) == {"a"})
        server.client.delete("/api/settings/pool").raise_for_status()
    assert Settings(tmp_path).max_models == 0


def test_what_a_load_needs_room_for_follows_the_settings(start: Any, tmp_path: Path) -> None:
    tiny_model(tmp_path / "data/models/tiny", context=4096)
    server = start(plan_context=1000, plan_batch=1)

    def kv() -> int:
        return models(server)["tiny"]["size"]["kv"]

    first = kv()
    assert first > 0
    change(server, plan_batch=3)
    until(lambda: kv() == 3 * first)
    change(server, plan_context=2000, plan_batch=1)
    until(lambda: kv() == 2 * first)


def test_prediction_and_measurement_are_kept_and_shown(tmp_path: Path) -> None:
    tiny_model(tmp_path / "models/tiny")
    with running(tmp_path) as server:
        before = models(server)["tiny"]
        assert before["measured"] is None
        assert before["expected"] == sum(before["size"].values())
        server.client.post("/v1/admin/models/load/tiny").raise_for_status()
        after = models(server)["tiny"]
        assert after["measured"]["loaded"] == pytest.approx(after["memory"], rel=0.2)
        assert after["measured"]["predicted"] == before["expected"]
    with running(tmp_path) as server:
        assert models(server)["tiny"]["measured"]["loaded"] == after["measured"]["loaded"]


# --- loading ---------------------------------------------------------------------------------------------------


def follow(server: Running, model: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of a load, up to its end."""
    with server.client.stream("GET", f"/v1/admin/models/{model}/loading-progress") as stream:
        text = "".join(stream.iter_text())
    pairs = [part.split("\n") for part in text.split("\n\n") if part.startswith("event")]
    return [(one[0].removeprefix("event: "), json.loads(one[1].removeprefix("data: "))) for one in pairs]


def test_a_load_tells_how_far_it_is(start: Any) -> None:
    server = start({"tiny": {"load_seconds": 2.0, "weights_bytes": 1_000_000}})
    with ThreadPoolExecutor(2) as others:
        first, second = (others.submit(follow, server, "tiny") for _ in range(2))
        time.sleep(0.3)
        server.client.post("/v1/admin/models/load/tiny").raise_for_status()
        told = first.result(20)
        assert second.result(20)[-1][0] == "ready"
    stages = [name for name, _ in told]
    assert stages[0] in ("waiting", "starting")
    assert stages[-1] == "ready"
    weights = [event for name, event in told if name == "weights"]
    assert weights
    assert weights[-1]["done"] == weights[-1]["total"] > 0
    assert [event["done"] for event in weights] == sorted(event["done"] for event in weights)
    assert follow(server, "tiny")[-1][0] == "ready"  # one that comes late
    assert server.client.get("/v1/admin/models/nobody/loading-progress").status_code == 404


def test_all_who_wait_share_one_load_and_its_failure(start: Any) -> None:
    server = start({"bad": {"load_seconds": 0.7, "fail_load": "a bad shard"}})
    with ThreadPoolExecutor(5) as others:
        events = others.submit(follow, server, "bad")
        replies = list(others.map(lambda _: server.chat("bad"), range(4)))
    assert {reply.status_code for reply in replies} == {503}
    assert {reply.json()["error"]["code"] for reply in replies} == {"model_load_failed"}
    assert all("a bad shard" in reply.json()["detail"] for reply in replies)
    assert events.result()[-1][0] == "failed"
    assert (server.folder / "logs/worker.log").read_text().count("could not be loaded") == 1


def test_unloading_ends_a_load_at_once(start: Any) -> None:
    server = start({"long": {"load_seconds": 60}})
    with ThreadPoolExecutor(1) as other:
        reply = other.submit(server.chat, "long")
        until(lambda: models(server)["long"]["state"] == "loading" and server.workers())
        server.client.post("/v1/admin/models/unload/long").raise_for_status()
        assert reply.result(10).json()["error"]["code"] == "model_stopped"
    assert models(server)["long"]["state"] == "available"
    assert server.workers() == []


def test_a_load_that_takes_too_long_is_ended(start: Any) -> None:
    server = start({"long": {"load_seconds": 20}}, load_timeout_seconds=60)
    change(server, load_timeout_seconds=1)
    reply = server.chat("long")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_load_failed")
    assert "longer than 1 s" in reply.json()["detail"]
    assert server.workers() == []


def test_a_spare_process_takes_the_next_load(start: Any, tmp_path: Path) -> None:
    tiny_model(tmp_path / "data/models/tiny")
    server = start(warm_spare="true")
    spare = until(lambda: pool(server)["spare"] if pool(server)["spare_memory"] else 0, 40)
    server.client.post("/v1/admin/models/load/tiny").raise_for_status()
    assert models(server)["tiny"]["pid"] == spare
    assert len(say(server, "tiny", max_tokens=4, temperature=0)) >= 0
    other = until(lambda: pool(server)["spare"], 40)  # and the next one gets ready
    assert other != spare
    change(server, warm_spare=False)
    until(lambda: not psutil.pid_exists(other))
    assert pool(server)["spare"] is None


def test_a_spare_leaves_when_memory_is_needed(start: Any, tmp_path: Path) -> None:
    tiny_model(tmp_path / "data/models/tiny")
    server = start(warm_spare="true", memory_limit="2GB")
    spare = until(lambda: pool(server)["spare"], 40)
    change(server, memory_limit="1MB")
    until(lambda: not psutil.pid_exists(spare))


# --- supervision -----------------------------------------------------------------------------------------------


def test_processes_are_looked_at_from_outside_as_often_as_set(start: Any) -> None:
    server = start({"a": {}}, health_interval_seconds=3600, heartbeat_seconds=1)
    say(server, "a")
    time.sleep(1.5)
    assert models(server)["a"]["cpu"] is None
    change(server, health_interval_seconds=0.2)
    until(lambda: models(server)["a"]["cpu"] is not None)


def test_a_worker_without_a_pulse_is_shown(start: Any) -> None:
    server = start({"a": {}}, heartbeat_seconds=2)
    say(server, "a")
    assert models(server)["a"]["responsive"]
    os.kill(models(server)["a"]["pid"], signal.SIGSTOP)
    until(lambda: not models(server)["a"]["responsive"])
    os.kill(models(server)["a"]["pid"], signal.SIGCONT)
    until(lambda: models(server)["a"]["responsive"])


def test_a_worker_that_beats_and_gets_nowhere_is_restarted(start: Any) -> None:
    server = start(watchdog_seconds=0)
    with ThreadPoolExecutor(1) as other:
        reply = other.submit(server.chat, "stalled")
        until(lambda: models(server)["stalled"]["running"])
        pid = models(server)["stalled"]["pid"]
        time.sleep(1.5)
        assert models(server)["stalled"]["pid"] == pid
        change(server, watchdog_seconds=1)
        assert reply.result(20).json()["error"]["code"] == "worker_died"
    state = until(
        lambda: (one := models(server)["stalled"])["state"] == "ready" and one["pid"] != pid and one
    )
    assert state["restarts"] == 1


def test_a_model_that_dies_again_and_again_is_given_up_with_its_last_words(start: Any) -> None:
    server = start({"mortal": {"die_after": 0, "die_by": "abort"}})
    codes = []
    for _ in range(12):
        codes.append(server.chat("mortal").json()["error"]["code"])
        if codes[-1] == "crash_loop":
            break
    assert codes[-1] == "crash_loop"
    assert codes.count("worker_died") == 4  # the first, and three restarts
    state = models(server)["mortal"]
    assert state["state"] == "failed"
    assert "SIGABRT" in state["reason"]
    assert any("Aborted" in line or "mortal" in line or line for line in state["log"]) or state["log"] == []
    server.client.post("/v1/admin/models/load/mortal").raise_for_status()  # a person starts it again
    assert models(server)["mortal"]["state"] == "ready"


def test_unloading_gives_the_memory_back(start: Any, tmp_path: Path) -> None:
    tiny_model(tmp_path / "data/models/tiny")
    server = start()
    family = psutil.Process(server.process.pid)
    server.client.post("/v1/admin/models/load/tiny").raise_for_status()
    held = sum(one.memory_info().rss for one in family.children(recursive=True))
    assert held > 50 << 20
    server.client.post("/v1/admin/models/unload/tiny").raise_for_status()
    left = sum(one.memory_info().rss for one in family.children(recursive=True))
    assert left <= 0.05 * held


def test_a_worker_that_takes_ever_more_memory_makes_idle_ones_leave(start: Any, tmp_path: Path) -> None:
    """A scripted fault in a real engine: it takes 280 MB more than anybody expected."""
    for name in ("greedy", "other"):
        tiny_model(tmp_path / "data/models" / name)
    fault = json.dumps({"greedy": {"do": "allocate", "after_tokens": 4, "bytes": 280_000_000}})
    server = start(memory_limit="400MB", faults=fault)
    say(server, "other", max_tokens=2)
    server.chat("greedy", max_tokens=200, ignore_eos=True)
    until(lambda: ready(server) == {"greedy"})
    until(lambda: pool(server)["used"] <= 400_000_000)
