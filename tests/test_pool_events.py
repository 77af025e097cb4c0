"""What becomes of models, in the audit log: real processes that come, go, die and are given up."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import duckdb
import psutil
import pytest

from mlx_panel.pool.events import Events, ended
from mlx_panel.record import PoolEvent

from .server import Running, running, scripted
from .test_pool import change, models, until

COLUMNS = ("timestamp", "model", "kind", "seconds", "bytes", "reason")
WEIGHTS = 300_000_000
LOAD = 0.4


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The rows of `pool_event` by model, after a server has lived through all that can become of one."""
    folder = tmp_path_factory.mktemp("events")
    scripted(folder, "first", load_seconds=LOAD, weights_bytes=WEIGHTS)
    scripted(folder, "second")
    scripted(folder, "brittle", die_after=0)
    scripted(folder, "dear", load_seconds=30)
    with running(folder, max_models=1) as server:
        live(server)
        assert set(models(server)) >= {"first", "second"}
    with duckdb.connect(str(folder / "audit.duckdb"), read_only=True) as log:
        rows = log.execute(f"SELECT {', '.join(COLUMNS)} FROM pool_event ORDER BY timestamp").fetchall()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row[1], []).append(dict(zip(COLUMNS, row, strict=True)))
    return found


def live(server: Running) -> None:
    """A load, an eviction, a death and what follows it, an unload, an idle time that is over, loads that fail."""
    assert server.chat("first").status_code == 200
    assert server.chat("second").status_code == 200  # only one has room: the first one leaves
    (worker,) = server.workers()
    worker.send_signal(signal.SIGKILL)
    psutil.wait_procs([worker], timeout=10)
    until(lambda: models(server)["second"]["state"] == "ready" and models(server)["second"]["restarts"] == 1)
    server.client.post("/v1/admin/models/unload/second").raise_for_status()
    change(server, model_ttls={"second": 0.5})
    assert server.chat("second").status_code == 200
    until(lambda: models(server)["second"]["state"] == "available")
    assert server.chat("broken").status_code >= 500
    interrupted(server)
    until(lambda: server.chat("brittle").json()["error"]["code"] == "crash_loop", 30)
    assert server.chat("plain").status_code == 200  # is there when the server ends


def interrupted(server: Running) -> None:
    """A load that somebody ends."""
    with ThreadPoolExecutor(1) as other:
        reply = other.submit(server.chat, "dear")
        until(lambda: models(server)["dear"]["state"] == "loading" and server.workers())
        server.client.post("/v1/admin/models/unload/dear").raise_for_status()
        assert reply.result(10).status_code == 503


def kinds(rows: list[dict[str, Any]]) -> list[str]:
    return [row["kind"] for row in rows]


def test_each_model_s_life_is_told_in_order(told: dict[str, list[dict[str, Any]]]) -> None:
    assert kinds(told["first"]) == ["loaded", "evicted"]
    assert kinds(told["second"]) == ["loaded", "died", "restarted", "unloaded", "loaded", "expired"]
    assert kinds(told["plain"]) == ["loaded", "unloaded"]
    assert told["plain"][-1]["reason"] == "draining"
    assert told["second"][3]["reason"] is None
    assert {row["model"] for rows in told.values() for row in rows} == set(told)


def test_loads_and_lives_have_their_seconds_and_bytes(told: dict[str, list[dict[str, Any]]]) -> None:
    loaded, evicted = told["first"]
    assert LOAD <= loaded["seconds"] < 30
    assert loaded["bytes"] > WEIGHTS
    assert evicted["bytes"] > WEIGHTS
    assert 0 <= evicted["seconds"] < 15
    first, died = told["second"][:2]
    lived = (died["timestamp"] - first["timestamp"]).total_seconds()
    assert died["seconds"] == pytest.approx(lived, abs=0.1)
    assert 0 < died["bytes"] < WEIGHTS
    assert isinstance(died["timestamp"], datetime)


def test_a_death_and_a_failed_load_say_why_in_a_word(told: dict[str, list[dict[str, Any]]]) -> None:
    assert told["second"][1]["reason"] == "signal_sigkill"
    assert [(row["kind"], row["reason"]) for row in told["broken"]] == [("load_failed", "model_load_failed")]
    assert [(row["kind"], row["reason"]) for row in told["dear"]] == [("load_failed", "model_stopped")]


def test_a_model_that_dies_again_and_again_is_given_up_once(told: dict[str, list[dict[str, Any]]]) -> None:
    life = kinds(told["brittle"])
    assert life[:2] == ["loaded", "died"]
    assert set(life[2:-2]) <= {"restarted", "died"}
    assert life[-2:] == ["died", "given_up"]
    assert told["brittle"][-1]["reason"] == "crash_loop"
    assert life.count("restarted") == 3  # max_failures


def test_what_was_never_in_memory_does_not_leave_it() -> None:
    heard: list[PoolEvent] = []
    events = Events(heard.append)
    events.begun("a")
    events.failed("a", "model_load_failed", given_up=True)
    events.left("a", "unloaded", time.monotonic(), 0)
    events.begun("a")
    events.loaded("a", 5)
    assert [(event.kind, event.bytes) for event in heard] == [
        ("load_failed", 0),
        ("given_up", 0),
        ("loaded", 5),
    ]
    assert "1 models" in repr(events)


def test_a_load_after_an_unload_is_no_restart() -> None:
    heard: list[PoolEvent] = []
    events = Events(heard.append)
    for again in (True, False):
        events.begun("a")
        events.loaded("a", 5)
        events.died("a", 5, "signal_sigkill", given_up=False)
        if not again:
            events.left("a", "unloaded", time.monotonic(), 0)
    events.begun("a")
    events.loaded("a", 5)
    assert [event.kind for event in heard] == ["loaded", "died", "restarted", "died", "loaded"]
    assert (heard[1].reason, ended(-9), ended(1)) == ("signal_sigkill", "signal SIGKILL", "exit code 1")
