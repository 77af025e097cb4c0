"""The server's own benchmark: one at a time, on the server rather than in whoever looks, and what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlx_panel.dashboard.remote import Remote
from mlx_panel.errors import Conflict, InvalidParameter, ModelNotFound, NotFound
from mlx_panel.job import Order, level, stored

from .recorded import result
from .server import Running, running, scripted
from .test_doors import wait_for

QUICK: dict[str, Any] = {"model": "quick", "prompt_tokens": 8, "output_tokens": 8}
LONG: dict[str, Any] = {"model": "slow", "prompt_tokens": 8, "output_tokens": 400}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("benchmarks")
    scripted(folder, "quick", text="one two three four", repeat=8, step_seconds=0.01)
    with running(folder) as one:
        yield one


@pytest.fixture
def remote(server: Running) -> Iterator[Remote]:
    yield Remote(server.url)
    wait_for(lambda: job(server) is None or job(server)["state"] != "running")


def job(server: Running) -> Any:
    return server.client.get("/v1/admin/benchmarks/current").json()["current"]


def load_processes(server: Running) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if "mlx_panel.bench.url_process" in " ".join(child.cmdline())]


def test_an_order_is_a_sweep_over_concurrency() -> None:
    order = Order(model="m", concurrency=(16, 1, 4, 4), shared_prefix=0.5, temperature=0.7, top_p=0.9)
    assert [workload.label for workload in order.workloads] == [
        f"{n} × 128→64 t=0.7 p=0.9 50% shared" for n in (1, 4, 16)
    ]
    line = order.command("http://127.0.0.1:10242")
    assert line.startswith("mlx-benchmark sweep --url http://127.0.0.1:10242 --model m --concurrency 1,4,16 ")
    assert line.endswith("--sampling 0.7:0.9 --shared-prefix 0.5")


def test_a_result_in_one_line() -> None:
    line = stored(result("name", 100.0), "file")
    assert (line.id, line.best_at, line.requests, line.failed) == ("file", 16, 48, 0)
    assert line.best == max(level(run).tokens_per_second for run in result("name", 100.0).runs)
    assert line.versions == {"mlx-panel": "0.2.0", "mlx": "0.32.4"}


async def test_a_sweep_from_start_to_end(server: Running, remote: Remote) -> None:
    begun = await remote.start_benchmark(Order(**QUICK, concurrency=(1, 4)))
    assert (begun.state, begun.steps, begun.fraction) == ("running", 2, 0.0)
    with pytest.raises(Conflict):
        await remote.start_benchmark(Order(**QUICK))
    shares = []
    while (now := await remote.benchmark_job()) is not None and now.state == "running":
        shares.append(now.fraction)
    assert now is not None
    assert (now.state, now.error, now.fraction, len(now.levels)) == ("done", "", 1.0, 2)
    assert shares == sorted(shares)
    assert 0 < max(shares) <= 1
    found = await remote.benchmarks()
    assert [one.id for one in found.benchmarks] == [now.result]
    assert found.benchmarks[0].models == ("quick",)
    whole = await remote.benchmark(now.result)
    assert whole.complete
    assert [len(run.rows) for run in whole.runs] == [8, 8]
    assert {row.status for run in whole.runs for row in run.rows} == {"success"}
    assert whole.targets[0].url == f"{server.url}/v1"
    rows = server.client.get("/v1/admin/audit-logs", params={"model": "quick", "limit": 1000}).json()
    assert rows["total"] >= 16
    await remote.delete_benchmark(now.result)
    assert (await remote.benchmarks()).benchmarks == []
    with pytest.raises(NotFound):
        await remote.benchmark(now.result)


async def test_a_cancelled_sweep_keeps_its_levels_and_leaves_no_process(
    server: Running, remote: Remote
) -> None:
    with pytest.raises(NotFound):
        await remote.cancel_benchmark()
    await remote.start_benchmark(Order(**QUICK, concurrency=(1, 64), requests=500))
    wait_for(lambda: load_processes(server))
    ended = await remote.cancel_benchmark()
    assert (ended.state, ended.result, ended.levels) == ("cancelled", "", ())
    await remote.start_benchmark(Order(**QUICK | {"output_tokens": 1}, concurrency=(1, 2), requests=200))
    wait_for(lambda: job(server)["step"] == 1, 30)
    ended = await remote.cancel_benchmark()
    assert (ended.state, len(ended.levels)) == ("cancelled", 1)
    kept = await remote.benchmark(ended.result)
    assert (kept.complete, len(kept.runs)) == (False, 1)
    await remote.delete_benchmark(ended.result)
    wait_for(lambda: not load_processes(server))


@pytest.mark.parametrize(
    ("order", "error"),
    [
        ({"model": "nobody"}, ModelNotFound),
        ({"model": "quick", "concurrency": []}, InvalidParameter),
        ({"model": "quick", "concurrency": [0]}, InvalidParameter),
        ({"model": "quick", "cancel": 1.5}, InvalidParameter),
        ({"concurrency": [1]}, InvalidParameter),
    ],
)
def test_an_order_that_cannot_be(server: Running, order: dict[str, Any], error: type) -> None:
    reply = server.client.post("/v1/admin/benchmarks", json=order)
    assert reply.json()["error"]["code"] == error.code  # type: ignore[attr-defined]
    assert server.client.post("/v1/admin/benchmarks", json={**QUICK, "frobnicate": 1}).status_code == 400
    assert not load_processes(server)


async def test_a_model_that_cannot_be_loaded_is_said(server: Running, remote: Remote) -> None:
    await remote.start_benchmark(Order(model="broken"))
    wait_for(lambda: job(server)["state"] != "running")
    ended = job(server)
    assert (ended["state"], ended["result"]) == ("failed", "")
    assert "its weights are missing" in ended["error"]


def test_only_results_in_the_folder_are_found(server: Running) -> None:
    folder = server.folder / "benchmarks"
    folder.mkdir(exist_ok=True)
    (server.folder / "secret.json").write_text("{}")
    (folder / "strange.json").write_text(json.dumps({"id": 7}))
    listed = server.client.get("/v1/admin/benchmarks").json()
    assert "strange.json is not a benchmark's result" in listed["skipped"][0]
    for id in ("..%2Fsecret", "%2E%2E%2Fsecret", "*", "secret"):
        assert server.client.get(f"/v1/admin/benchmarks/{id}").status_code == 404
        assert server.client.delete(f"/v1/admin/benchmarks/{id}").status_code == 404
    assert (server.folder / "secret.json").exists()
    assert server.client.delete("/v1/admin/benchmarks/strange").status_code == 200
    assert not (folder / "strange.json").exists()


def test_a_server_that_stops_ends_its_benchmark(tmp_path: Path) -> None:
    with running(tmp_path) as server:
        assert (
            server.client.post("/v1/admin/benchmarks", json={**LONG, "concurrency": [4]}).status_code == 202
        )
        wait_for(lambda: load_processes(server))
        wait_for(lambda: server.client.get("/health").json()["requests"])
        left = load_processes(server)
        assert server.stop() == 0
    assert not any(process.is_running() for process in left)
