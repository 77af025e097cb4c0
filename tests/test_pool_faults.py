"""What goes wrong around the pool: files cleared away under it, clients and persons that act at the wrong moment."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlx_panel.app import _socket_folder
from mlx_panel.hub.disk import Shelf
from mlx_panel.pool.tail import Tail
from mlx_panel.sizing import parse_limit

from .models import tiny_model
from .server import Running, running, scripted
from .test_pool import Busy, change, models, pool, ready, say, start, until

__all__ = ["start"]  # the fixture
Start = Callable[..., Running]


def load(server: Running, model: str) -> int:
    return server.client.post(f"/v1/admin/models/load/{model}").status_code


def unload(server: Running, model: str) -> int:
    return server.client.post(f"/v1/admin/models/unload/{model}").status_code


# --- files that are cleared away ---------------------------------------------------------------------------


def test_a_death_is_noticed_without_the_log(start: Start) -> None:
    server = start()
    busy = Busy(server, "slow")
    (server.folder / "logs/worker.log").unlink()
    os.kill(models(server)["slow"]["pid"], signal.SIGKILL)
    assert b"worker_died" in b"".join(busy.pieces)
    busy.close()
    until(lambda: models(server)["slow"]["state"] == "ready")


def test_folders_that_were_cleared_away_are_made_again(start: Start) -> None:
    server = start()
    say(server, "plain")
    shutil.rmtree(_socket_folder(server.folder))
    shutil.rmtree(server.folder / "logs")
    assert load(server, "late") == 200
    assert ready(server) == {"plain", "late"}


def test_a_load_whose_socket_cannot_be_made_fails_for_all_who_wait(start: Start) -> None:
    server = start()
    shutil.rmtree(_socket_folder(server.folder))
    _socket_folder(server.folder).write_text("in the way")
    refused = server.chat("plain")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_load_failed")
    _socket_folder(server.folder).unlink()
    say(server, "plain")


def test_a_log_that_is_gone_has_no_lines(tmp_path: Path) -> None:
    file = tmp_path / "worker.log"
    tail = Tail(file)
    tail.mark()
    assert tail.lines(7) == ()
    file.write_text("before\n")
    tail.mark()
    file.write_text("before\n2026-11-20 10:00:00,0 ERROR mlx_panel[8] another's\nmine\n")
    assert tail.lines(7) == ("mine",)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text elsewhere")
def test_a_folder_whose_name_is_no_text_is_no_model(tmp_path: Path) -> None:
    scripted(tmp_path, "fine")
    odd = os.fsencode(tmp_path) + b"/models/\xff"
    os.mkdir(odd)
    Path(os.fsdecode(odd), "fake.json").write_text("{}")
    assert [model.id for model in Shelf(tmp_path / "models").scan()] == ["fine"]


# --- loads and unloads that meet ---------------------------------------------------------------------------


def test_unloading_at_any_moment_of_a_load_leaves_no_process(start: Start) -> None:
    server = start({"long": {"load_seconds": 60}})
    for delay in (0, 0.005, 0.02, 0.05):
        with ThreadPoolExecutor(1) as other:
            loading = other.submit(load, server, "long")
            until(lambda: models(server)["long"]["state"] == "loading")
            time.sleep(delay)
            assert unload(server, "long") == 200
            assert loading.result(10) in (200, 503)
    assert server.workers() == []


def test_unloading_many_times_at_once_is_one_unload(start: Start) -> None:
    server = start()
    busy = Busy(server, "slow")
    with ThreadPoolExecutor(4) as others:
        assert set(others.map(lambda _: unload(server, "slow"), range(4))) == {200}
    busy.close()
    assert models(server)["slow"]["state"] == "available"


# --- waiting for memory --------------------------------------------------------------------------------------


def test_one_who_may_not_wait_gets_what_idle_models_leave(start: Start) -> None:
    server = start(max_models=1, load_wait_seconds=0)
    say(server, "plain")
    say(server, "late")
    busy = Busy(server, "slow")
    assert server.chat("plain").json()["error"]["code"] == "insufficient_memory"
    busy.close()


def test_clients_that_leave_while_they_wait_leave_nothing_behind(start: Start) -> None:
    server = start(max_models=1)
    busy = Busy(server, "slow")
    for _ in range(3):
        with pytest.raises(httpx.ReadTimeout):
            server.client.post("/v1/admin/models/load/plain", timeout=0.2)
    until(lambda: pool(server)["waiting"] == 0)
    busy.close()
    say(server, "plain")
    assert models(server)["plain"]["leases"] == 0


def test_what_processes_may_take_leaves_the_spare_what_it_takes(start: Start, tmp_path: Path) -> None:
    tiny_model(tmp_path / "data/models/tiny", context=16384)
    server = start(warm_spare="true", memory_limit="2GB", plan_context=256)
    say(server, "tiny", max_tokens=2)
    spare = until(lambda: pool(server)["spare_memory"], 40)
    taken = models(server)["tiny"]["memory"]
    change(server, memory_limit=f"{(taken + 4 * spare) >> 20}MB")
    long = server.chat("tiny", text="word " * 2500, max_tokens=4)
    assert long.status_code == 413, long.text
    assert long.json()["available_bytes"] < 3.2 * spare
    change(server, memory_limit=f"{(taken + spare) >> 20}MB")  # too little for both
    until(lambda: not pool(server)["spare"])


# --- settings ------------------------------------------------------------------------------------------------


def test_what_an_unloaded_model_needs_room_for_follows_the_settings(start: Start, tmp_path: Path) -> None:
    tiny_model(tmp_path / "data/models/tiny", context=4096)
    server = start(plan_context=256, memory_limit="400MB")
    assert load(server, "tiny") == 200
    assert unload(server, "tiny") == 200
    change(server, plan_context=4096, plan_batch=1024)
    assert load(server, "tiny") == 503
    change(server, plan_batch=1)
    assert load(server, "tiny") == 200


def test_a_preloaded_model_comes_once_there_is_room_for_it(tmp_path: Path) -> None:
    scripted(tmp_path, "big", weights_bytes=500_000_000)
    with running(tmp_path, models="big", memory_limit="300MB") as server:
        until(lambda: models(server)["big"]["reason"])
        say(server, "plain")  # the others are served meanwhile
        change(server, memory_limit="2GB")
        until(lambda: models(server)["big"]["state"] == "ready")


def test_a_preloaded_model_comes_once_it_is_on_this_machine(tmp_path: Path) -> None:
    with running(tmp_path, models="later") as server:
        assert not server.client.get("/health").json()["ready"]
        scripted(tmp_path, "later")
        until(lambda: server.client.get("/health").json()["ready"])


def test_pins_set_at_the_same_time_are_all_kept(start: Start) -> None:
    names = [f"m{number}" for number in range(12)]
    server = start({name: {} for name in names})

    def pin(name: str) -> int:
        return server.client.post(f"/v1/admin/models/pin/{name}", json={"pinned": True}).status_code

    with ThreadPoolExecutor(12) as others:
        assert set(others.map(pin, names)) == {200}
    assert {id for id, one in models(server).items() if one["pinned"]} == set(names)


def test_limits_beyond_all_machines_are_refused(start: Start) -> None:
    server = start()
    for value in ("9" * 25 + "TB", "1" + "0" * 400 + "GB"):
        with pytest.raises(ValueError, match="must be"):
            parse_limit(value, 10**9)
        refused = server.client.put("/api/settings/pool", json={"memory_limit": value})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "memory_limit")
    many: dict[str, Any] = {
        "pins": [f"m{i}" for i in range(1001)],
        "model_ttls": {f"m{i}": 1 for i in range(1001)},
    }
    for name, value in many.items():
        assert server.client.put("/api/settings/pool", json={name: value}).status_code == 400
