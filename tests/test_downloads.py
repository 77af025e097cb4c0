"""Downloads as jobs of a server, from a hub that fails in all the ways hubs fail; through HTTP, on a real server."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download

from . import models
from .checks.verify_download import download, sha256
from .fake_hub import HubProcess, fake_hub
from .server import Running, running

MB = 1_000_000
MADE = (
    "watched",
    "halted",
    "cancelled",
    "spoilt",
    "ruined",
    "trouble",
    "moved",
    "full",
    "known",
    "locked",
    "stalled",
    "terms",
    "far",
    "again",
)
SOME = 3 * MB


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("repositories")
    models.tiny_model(folder / "real" / "tiny")
    for name in (
        "modeling.py",
        "pytorch_model.bin",
        "onnx/model.onnx",
        "original/consolidated.safetensors",
        "picture.png",
    ):
        (folder / "real" / "tiny" / name).parent.mkdir(exist_ok=True)
        (folder / "real" / "tiny" / name).write_bytes(b"x" * 100)
    (folder / "real" / "torch").mkdir()
    (folder / "real" / "torch" / "config.json").write_text("{}")
    (folder / "real" / "torch" / "pytorch_model.bin").write_bytes(b"x")
    (folder / "real" / "huge").mkdir()
    (folder / "real" / "huge" / "config.json").write_text("{}")
    told = [
        {"rfilename": name, "size": 10**15, "blobId": 40 * "a"}
        for name in ("config.json", "model.safetensors")
    ]
    (folder / "real" / "huge" / "hub.json").write_text(json.dumps({"siblings": told}))
    with fake_hub(*(f"made/{name}:{SOME}:2" for name in MADE), folder=folder) as one:
        yield one


@pytest.fixture(scope="module")
def server(process: HubProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", process.url)
        with running(tmp_path_factory.mktemp("downloads"), sse_keepalive_seconds=0.3) as one:
            yield one


@pytest.fixture
def hub(process: HubProcess) -> Iterator[HubProcess]:
    process.forget()
    yield process
    process.set(reset=True)


def begin(server: Running, model: str, **more: Any) -> dict[str, Any]:
    reply = server.client.post("/api/models/download", json={"model": model, **more})
    assert reply.status_code == 202, reply.text
    return reply.json()


def act(server: Running, task: str, action: str) -> dict[str, Any]:
    return server.client.post(f"/api/models/download/{task}/{action}").raise_for_status().json()


def status(server: Running, task: str) -> dict[str, Any]:
    return server.client.get(f"/api/models/download/{task}/status").raise_for_status().json()


def until(
    server: Running, task: str, done: Callable[[dict[str, Any]], Any], seconds: float = 30
) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while not done(now := status(server, task)):
        assert time.monotonic() < end, now
        time.sleep(0.02)
    return now


def watched(server: Running, task: str) -> list[dict[str, Any]]:
    """All that an observer is told, until the stream ends."""
    with server.client.stream("GET", f"/api/models/download/{task}/progress") as reply:
        return [
            json.loads(line.removeprefix("data: "))
            for line in reply.iter_lines()
            if line.startswith("data: ")
        ]


def ended(server: Running, task: str, state: str = "completed") -> dict[str, Any]:
    last = watched(server, task)[-1]
    assert (last["state"], bool(last["error"])) == (state, state == "failed"), last
    return last


def folder(server: Running, model: str) -> Path:
    return server.folder / "hub" / f"models--{model.replace('/', '--')}"


def partials(server: Running, model: str) -> list[str]:
    return sorted(file.name for file in folder(server, model).glob("blobs/*.incomplete"))


def twice(hub: HubProcess, path: str) -> int:
    """Bytes of a file that left more than once."""
    ranges = hub.served(path)
    return sum(stop - start for start, stop in ranges) - max(stop for _, stop in ranges)


def intact(server: Running, model: str) -> bool:
    files = list(folder(server, model).glob("snapshots/*/*.safetensors"))
    return len(files) == 2 and all(sha256(file) == file.resolve().name for file in files)


# --- from the hub to an answer ---------------------------------------------------------------------------------


def test_a_model_is_fetched_listed_and_answers(hub: HubProcess, server: Running) -> None:
    begun = begin(server, "real/tiny")
    assert begun["state"] in ("queued", "downloading")
    last = ended(server, begun["task"])
    assert (last["done"], last["files_done"], last["seconds_left"]) == (last["total"], last["files"], None)
    names = {file.name for file in folder(server, "real/tiny").glob("snapshots/*/*")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"modeling.py", "pytorch_model.bin", "onnx", "original", "picture.png"}
    assert server.chat("real/tiny", max_tokens=2).status_code == 200
    # Other tools take it for their own.
    place = snapshot_download("real/tiny", cache_dir=server.folder / "hub", local_files_only=True)
    assert place == str(next(folder(server, "real/tiny").glob("snapshots/*")))
    scanned = scan_cache_dir(server.folder / "hub")
    assert not scanned.warnings
    one = next(repo for repo in scanned.repos if repo.repo_id == "real/tiny")
    assert [*one.refs] == ["main"]
    again = begin(server, "real/tiny")
    assert again["task"] != begun["task"]
    assert ended(server, again["task"])["fetched"] == 0


def test_one_transfer_however_many_ask_and_look(hub: HubProcess, server: Running) -> None:
    hub.set(bytes_per_second=1.5 * MB)
    with ThreadPoolExecutor(8) as pool:
        tasks = {begun["task"] for begun in pool.map(lambda _: begin(server, "made/watched"), range(4))}
        assert len(tasks) == 1
        task = tasks.pop()
        early = [pool.submit(watched, server, task) for _ in range(3)]
        now = until(server, task, lambda now: now["done"] > MB and now["rate"] > 0)
        assert now["seconds_left"] == pytest.approx((now["total"] - now["done"]) / now["rate"])
        assert now["file"].endswith(".safetensors")
        late = watched(server, task)
        assert MB < late[0]["done"] < late[-1]["done"] == late[-1]["total"]
        for one in early:
            assert one.result()[-1] == late[-1]
            assert [step["done"] for step in one.result()] == sorted(step["done"] for step in one.result())
    assert late[-1]["state"] == "completed"
    assert watched(server, task) == late[-1:]
    assert hub.log()["total"] < 1.05 * SOME
    listed = server.client.get("/api/models/downloads").json()["downloads"]
    assert late[-1] in listed
    assert server.client.delete(f"/api/models/download/{task}").status_code == 200
    assert server.client.get(f"/api/models/download/{task}/status").status_code == 404


# --- what a person does ------------------------------------------------------------------------------------------


def test_pause_keeps_what_has_come(hub: HubProcess, server: Running) -> None:
    hub.set(bytes_per_second=MB)
    task = begin(server, "made/halted")["task"]
    until(server, task, lambda now: now["done"] > 500_000)
    paused = act(server, task, "pause")
    assert (paused["state"], paused["rate"]) == ("paused", 0)
    time.sleep(0.5)
    assert status(server, task)["done"] == paused["done"]
    assert partials(server, "made/halted")
    assert not list(folder(server, "made/halted").glob("snapshots/*"))
    with server.client.stream("GET", f"/api/models/download/{task}/progress") as reply:
        lines = (line for line in reply.iter_lines() if line)
        assert json.loads(next(lines).removeprefix("data: ")) == paused
        assert [next(lines) for _ in range(2)] == [": keep-alive"] * 2
    assert "made/halted" not in server.client.get("/v1/models").text
    assert server.client.post(f"/api/models/download/{task}/pause").status_code == 409
    assert server.client.post(f"/api/models/download/{task}/retry").status_code == 409
    assert server.client.delete(f"/api/models/download/{task}").status_code == 409
    hub.set(bytes_per_second=0)
    assert begin(server, "made/halted")["task"] == task  # asking again goes on, too
    last = ended(server, task)
    assert last["fetched"] < 1.3 * SOME
    assert intact(server, "made/halted")
    assert server.client.post(f"/api/models/download/{task}/resume").status_code == 409


def test_pause_and_resume_at_once(hub: HubProcess, server: Running) -> None:
    hub.set(bytes_per_second=MB)
    task = begin(server, "made/again")["task"]
    for _ in range(4):
        act(server, task, "pause")
        act(server, task, "resume")
    hub.set(bytes_per_second=0)
    ended(server, task)
    assert intact(server, "made/again")


def test_a_connection_that_says_nothing_can_be_halted(hub: HubProcess, server: Running) -> None:
    hub.set(stall_at=100_000)
    task = begin(server, "made/stalled")["task"]
    until(server, task, lambda now: now["done"] >= 200_000)
    assert act(server, task, "pause")["state"] == "paused"
    hub.set(stall_at=0)
    act(server, task, "resume")
    ended(server, task)
    assert intact(server, "made/stalled")


def test_cancel_leaves_nothing_and_retry_begins_again(hub: HubProcess, server: Running) -> None:
    hub.set(bytes_per_second=MB)
    task = begin(server, "made/cancelled")["task"]
    until(server, task, lambda now: now["done"] > 300_000)
    assert act(server, task, "cancel")["state"] == "cancelled"
    assert not folder(server, "made/cancelled").exists()
    assert watched(server, task)[-1]["state"] == "cancelled"
    hub.set(bytes_per_second=0)
    assert act(server, task, "retry")["state"] in ("queued", "downloading")
    ended(server, task)
    assert intact(server, "made/cancelled")
    assert server.client.post(f"/api/models/download/{task}/cancel").status_code == 409
    assert intact(server, "made/cancelled")


# --- what the network does ---------------------------------------------------------------------------------------


def test_drops_and_kills_cost_no_byte_but_the_torn_block(tmp_path: Path, hub: HubProcess) -> None:
    """The figure of the issue in small: 20 MB, a drop every 2 MB, killed twice."""
    outcome = download(tmp_path / "server", 20 * MB, 2 * MB, rate=6 * MB)
    assert outcome.good, outcome
    assert max(outcome.torn, default=0) < MB  # little is on its way at this rate
    assert outcome.requests >= 10


def test_damage_is_fetched_once_more(hub: HubProcess, server: Running) -> None:
    hub.set(corrupt={"path": "1-of-00002.safetensors", "start": 1000, "stop": 1010, "times": 1})
    last = ended(server, begin(server, "made/spoilt")["task"])
    assert last["retries"] == 1
    assert (twice(hub, "1-of-00002.safetensors"), twice(hub, "2-of-00002.safetensors")) == (1_500_000, 0)
    assert intact(server, "made/spoilt")


def test_damage_that_stays_is_said(hub: HubProcess, server: Running) -> None:
    hub.set(corrupt={"path": "1-of-00002.safetensors", "start": 1000, "stop": 1010, "times": 100})
    task = begin(server, "made/ruined")["task"]
    assert "wrong checksum twice" in ended(server, task, "failed")["error"]
    assert "made/ruined" not in server.client.get("/v1/models").text
    hub.set(corrupt=None)
    act(server, task, "retry")
    ended(server, task)
    assert intact(server, "made/ruined")


def test_odd_answers_are_asked_again(hub: HubProcess, server: Running) -> None:
    hub.set(
        refuse={"status": 503, "times": 3, "path": "resolve"},
        wrong_length=-1000,
        wrong_length_times=2,
        drop_every=MB,
        ignore_range=1,
    )
    last = ended(server, begin(server, "made/trouble")["task"])
    assert last["retries"] >= 5
    assert intact(server, "made/trouble")


def test_no_token_leaves_for_another_host(hub: HubProcess, server: Running) -> None:
    url = "/api/settings/huggingface"
    server.client.put(url, json={"token": "hf_fake"}).raise_for_status()
    hub.set(cdn=True, drop_every=MB)
    last = ended(server, begin(server, "made/far")["task"])
    server.client.delete(url).raise_for_status()
    assert last["retries"] == 2
    requests = hub.log()["requests"]
    mirrored = [one for one in requests if one["path"].startswith("/_cdn")]
    assert {one["host"].partition(":")[0] for one in mirrored} == {"localhost"}
    assert not any(one["authorized"] for one in mirrored)
    assert all(one["authorized"] for one in requests if one not in mirrored)
    assert sorted(one["range"] for one in mirrored) == ["", "", "bytes=1000000-", "bytes=1000000-"]
    assert [one["if_range"][:5] for one in mirrored if one["range"]] == ['"cdn-', '"cdn-']
    assert intact(server, "made/far")


# --- what the hub says -------------------------------------------------------------------------------------------


def test_a_gated_model_takes_a_token_and_its_terms(hub: HubProcess, server: Running) -> None:
    hub.set(repository={"id": "made/terms", "gated": "manual"})
    body = {"model": "made/terms"}
    refused = server.client.post("/api/models/download", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "hub_refused")
    assert "accept them at" in refused.json()["detail"]
    assert "made/terms" not in server.client.get("/api/models/downloads").text
    server.client.put("/api/settings/huggingface", json={"token": "hf_fake"}).raise_for_status()
    assert server.client.post("/api/models/download", json=body).status_code == 403
    hub.set(repository={"id": "made/terms", "accepted": True})
    ended(server, begin(server, "made/terms")["task"])
    server.client.delete("/api/settings/huggingface").raise_for_status()


@pytest.mark.parametrize(
    ("body", "code", "word"),
    [
        ({"model": "made/nothing"}, 404, "no model made/nothing"),
        ({"model": "made/watched", "revision": "elsewhere"}, 404, "no such revision"),
        ({"model": "real/torch"}, 400, "mlx-lm loads nothing else"),
        ({"model": "real/huge"}, 409, "GB of disk"),
        ({"model": "../../etc"}, 400, "owner/name"),
        ({"model": "made/watched", "revision": "../main"}, 400, "revision"),
        ({"model": "made/watched", "color": "red"}, 400, "color"),
        ({"model": 5}, 400, "model"),
    ],
)
def test_what_cannot_be_fetched(
    hub: HubProcess, server: Running, body: dict[str, Any], code: int, word: str
) -> None:
    reply = server.client.post("/api/models/download", json=body)
    assert reply.status_code == code, reply.text
    assert word in reply.json()["detail"]


@pytest.mark.parametrize("action", ["pause", "resume", "cancel", "retry"])
def test_a_download_nobody_knows(server: Running, action: str) -> None:
    assert server.client.post(f"/api/models/download/none/{action}").status_code == 404
    assert server.client.get("/api/models/download/none/progress").status_code == 404


def test_a_model_that_moves_on_while_it_is_paused(hub: HubProcess, server: Running) -> None:
    hub.set(bytes_per_second=MB)
    begun = begin(server, "made/moved")
    task = begun["task"]
    until(server, task, lambda now: now["done"] > 500_000)
    act(server, task, "pause")
    hub.forget()
    hub.set(
        bytes_per_second=0, repository={"id": "made/moved", "move": {"model-00002-of-00002.safetensors": MB}}
    )
    act(server, task, "resume")
    last = ended(server, task)
    assert last["commit"] != begun["commit"]
    assert [place.name for place in folder(server, "made/moved").glob("snapshots/*")] == [last["commit"]]
    assert (folder(server, "made/moved") / "refs" / "main").read_text() == last["commit"]
    assert hub.served("1-of-00002.safetensors")[0][0] > 0  # of the same file in both
    assert not partials(server, "made/moved")
    assert intact(server, "made/moved")


# --- the disk, and who else works on it ------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process's files")
def test_a_disk_that_takes_no_more_loses_nothing(hub: HubProcess, server: Running) -> None:
    one = psutil.Process(server.process.pid)
    before = one.rlimit(psutil.RLIMIT_FSIZE)
    one.rlimit(psutil.RLIMIT_FSIZE, (MB, before[1]))
    try:
        task = begin(server, "made/full")["task"]
        assert "The disk does not take the data" in ended(server, task, "failed")["error"]
    finally:
        one.rlimit(psutil.RLIMIT_FSIZE, before)
    assert partials(server, "made/full")
    hub.forget()
    act(server, task, "retry")
    ended(server, task)
    assert max(start for start, _ in hub.served("safetensors")) == MB // 65536 * 65536
    assert intact(server, "made/full")


def test_what_others_have_fetched_is_not_fetched_again(hub: HubProcess, server: Running) -> None:
    cache, name = server.folder / "hub", "model-0000{}-of-00002.safetensors"
    hf_hub_download("made/known", name.format(1), endpoint=hub.url, cache_dir=cache)
    # A tool that was killed leaves a part of a file, as huggingface_hub names it.
    whole = hub.client.get(f"/made/known/resolve/main/{name.format(2)}")
    part = (
        folder(server, "made/known") / "blobs" / f"{whole.headers['etag'].strip(chr(34))}.0123abcd.incomplete"
    )
    part.write_bytes(whole.content[:MB])
    hub.forget()
    ended(server, begin(server, "made/known")["task"])
    assert hub.served(name.format(1)) == []
    assert [start for start, _ in hub.served(name.format(2))] == [MB // 65536 * 65536]
    assert intact(server, "made/known")
    assert not partials(server, "made/known")


def test_a_file_that_another_program_fetches_is_waited_for(hub: HubProcess, server: Running) -> None:
    etag = (
        hub.client.head("/made/locked/resolve/main/model-00001-of-00002.safetensors")
        .headers["etag"]
        .strip('"')
    )
    lock = server.folder / "hub" / ".locks" / "models--made--locked" / f"{etag}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        task = begin(server, "made/locked")["task"]
        now = until(server, task, lambda now: now["files_done"] == now["files"] - 1)
        assert now["note"] == "Waiting for another program that fetches this file"
        assert hub.served("1-of-00002.safetensors") == []
    ended(server, task)
    assert intact(server, "made/locked")


# --- the server's life -------------------------------------------------------------------------------------------


def test_what_was_paused_stays_so_and_offline_nothing_is_fetched(
    hub: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.set(bytes_per_second=MB)
    with running(tmp_path / "server") as server:
        paused, going = (begin(server, f"made/{name}")["task"] for name in ("halted", "moved"))
        until(server, paused, lambda now: now["done"] > 200_000)
        act(server, paused, "pause")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with running(tmp_path / "server") as server:
        assert status(server, paused)["state"] == "paused"
        halted = until(server, going, lambda now: now["state"] == "paused")
        assert "offline" in halted["error"]
        reply = server.client.post("/api/models/download", json={"model": "made/again"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "hub_unavailable")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    hub.set(bytes_per_second=0)
    books = tmp_path / "server" / "downloads.json"
    with running(tmp_path / "server") as server:
        act(server, paused, "resume")
        act(server, going, "resume")
        ended(server, paused)
        ended(server, going)
        assert len(json.loads(books.read_text())) == 2
    books.write_text("[{")
    with running(tmp_path / "server") as server:
        assert server.client.get("/api/models/downloads").json() == {"downloads": []}
        assert "begins anew" in server.output()
        assert books.with_suffix(".damaged").exists()


def test_a_server_that_stops_ends_its_downloads_in_order(
    hub: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.set(stall_at=100_000)
    with running(tmp_path / "server") as server:
        task = begin(server, "made/halted")["task"]
        until(server, task, lambda now: now["done"] >= 200_000)
        assert server.stop(signal.SIGTERM) == 0
    hub.set(stall_at=0)
    with running(tmp_path / "server") as server:
        ended(server, task)
        assert os.listdir(folder(server, "made/halted") / "refs") == ["main"]
