"""`Remote` against a real server: the same answers as on the server's own loop, and the same errors."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from mlx_panel import Server
from mlx_panel.analytics import AuditFilter
from mlx_panel.dashboard.audit import AuditTable
from mlx_panel.dashboard.models import Models
from mlx_panel.dashboard.overview import Overview
from mlx_panel.dashboard.remote import Remote, refusal
from mlx_panel.errors import (
    InvalidParameter,
    MlxPanelError,
    ModelLoadFailed,
    ModelNotFound,
    ServerUnreachable,
    Timeout,
)
from mlx_panel.http import problem
from mlx_panel.snapshot import Sample, Snapshot

from .server import free_port, scripted

SLASHED = "some org/a fake"


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def feeds() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "mlx-panel-feed"]


class Watcher:
    """What a component hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Snapshot, list[Sample] | None]] = []

    def see(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        self.heard.append((snapshot, history))

    @property
    def states(self) -> dict[str, str]:
        return {model.id: model.state for model in self.heard[-1][0].models} if self.heard else {}


class Clumsy(Watcher):
    def see(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        super().see(snapshot, history)
        raise RuntimeError("this panel cannot be drawn")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("remote")
    scripted(folder, "fake", text="Hello there from a fake model.")
    scripted(folder, "broken", fail_load="its weights are missing")
    cached = folder / "hub" / f"models--{SLASHED.replace('/', '--')}" / "snapshots" / "0"
    cached.mkdir(parents=True)
    (cached / "fake.json").write_text(json.dumps({"text": "Hello"}), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        with Server(data_dir=folder) as running:
            yield running


@pytest.fixture
def remote(server: Server) -> Iterator[Remote]:
    yield Remote(server.url)
    wait_for(lambda: not feeds())


def ask(server: Server, text: str = "Hello") -> str:
    body = {"model": "fake", "messages": [{"role": "user", "content": text}]}
    answer = httpx.post(f"{server.base_url}/chat/completions", json=body, timeout=20).raise_for_status()
    return answer.json()["choices"][0]["message"]["content"]


def test_the_feed_starts_with_the_history_and_goes_on(remote: Remote) -> None:
    watcher = Watcher()
    stop = remote.subscribe(watcher.see)
    wait_for(lambda: len(watcher.heard) >= 3)
    stop()
    histories = [history for _, history in watcher.heard]
    assert histories[0]
    assert isinstance(histories[0][0], Sample)
    assert histories[1:] == [None] * (len(histories) - 1)
    times = [snapshot.time for snapshot, _ in watcher.heard]
    assert times == sorted(times)
    assert {"fake", "broken", SLASHED} == set(watcher.states)


def test_all_watchers_share_one_thread_and_a_later_one_is_told_at_once(remote: Remote) -> None:
    first, second = Watcher(), Watcher()
    stops = [remote.subscribe(first.see)]
    wait_for(lambda: first.heard)
    stops.append(remote.subscribe(second.see))
    assert second.heard[0][1]
    assert len(feeds()) == 1
    stops[0]()
    before = len(first.heard)
    wait_for(lambda: len(second.heard) > 2)
    assert len(first.heard) <= before + 1
    stops[1]()


def test_a_watcher_that_is_gone_ends_the_feed(remote: Remote) -> None:
    watcher = Watcher()
    remote.subscribe(watcher.see)
    heard = watcher.heard
    wait_for(lambda: heard)
    del watcher
    gc.collect()
    wait_for(lambda: not feeds())


def test_a_watcher_that_fails_leaves_the_others_alone(
    remote: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    clumsy, watcher = Clumsy(), Watcher()
    stops = [remote.subscribe(one.see) for one in (clumsy, watcher)]
    wait_for(lambda: len(watcher.heard) >= 3)
    assert len(clumsy.heard) == 1
    assert "a watcher failed" in caplog.text
    for stop in stops:
        stop()


@pytest.mark.parametrize("model", ["fake", SLASHED])
async def test_load_and_unload(remote: Remote, model: str) -> None:
    watcher = Watcher()
    stop = remote.subscribe(watcher.see)
    await remote.load(model)
    await asyncio.to_thread(wait_for, lambda: watcher.states.get(model) == "ready")
    await remote.unload(model)
    await asyncio.to_thread(wait_for, lambda: watcher.states.get(model) == "available")
    stop()


async def test_errors_arrive_as_their_classes_with_the_servers_words(remote: Remote) -> None:
    with pytest.raises(ModelNotFound, match="fake"):
        await remote.load("no such/model")
    with pytest.raises(ModelLoadFailed, match="its weights are missing"):
        await remote.load("broken")
    with pytest.raises(InvalidParameter) as caught:
        await remote.set_timeouts({"timeout_chat_seconds": -1})
    assert caught.value.field == "timeout_chat_seconds"
    await remote.unload("broken")


@pytest.mark.parametrize(
    "error", [Timeout("Too long.", timeout_seconds=5), ModelNotFound("None.", field="model")]
)
def test_a_problem_document_becomes_the_error_it_was_made_from(error: MlxPanelError) -> None:
    found = refusal(problem.encode(error, request_id="req_1"))
    assert type(found) is type(error)
    assert (str(found), found.field, found.numbers) == (str(error), error.field, error.numbers)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "no"}', b'{"error": {"code": 5}}'])
def test_what_is_no_problem_document_is_none(body: bytes) -> None:
    assert refusal(body) is None


async def test_timeouts_there_and_back(remote: Remote) -> None:
    before = await remote.timeouts()
    changed = {limit.name: limit for limit in await remote.set_timeouts({"timeout_chat_seconds": 42.5})}
    assert (changed["timeout_chat_seconds"].value, changed["timeout_chat_seconds"].source) == (42.5, "live")
    assert await remote.timeouts() == list(changed.values())
    assert await remote.reset_timeouts() == before


async def test_the_audit_log_page_by_page(server: Server, remote: Remote) -> None:
    for _ in range(3):
        assert await asyncio.to_thread(ask, server) == "Hello there from a fake model."
    page = await remote.audit_rows(AuditFilter(status=("success",), text="fake"), 2, count=True)
    rows = [row.record for row in page.rows]
    assert (len(rows), page.total is not None and page.total >= 3) == (2, True)
    assert rows[0].timestamp >= rows[1].timestamp
    assert {row.model_used for row in rows} == {"fake"}
    rest = await remote.audit_rows(AuditFilter(text="fake"), 2, page.next)
    assert rest.rows
    assert rows[1].request_id not in {row.record.request_id for row in rest.rows}
    assert (await remote.audit_rows(AuditFilter(scope="all"), count=True)).total > page.total


async def test_system(remote: Remote) -> None:
    assert "panel" in (await remote.system())["versions"]


async def test_components_look_through_a_remote(server: Server, remote: Remote) -> None:
    overview, models, audit = Overview(remote), Models(remote), AuditTable(remote)
    for component in (overview, models, audit):
        component.refresh()
    await asyncio.to_thread(wait_for, lambda: overview.snapshot and models.snapshot)
    async with asyncio.timeout(10):
        while not audit.view.page:
            await asyncio.sleep(0.02)
    assert {model["id"] for model in json.loads(models.view.snapshot)["models"]} == {
        "fake",
        "broken",
        SLASHED,
    }
    assert not overview.watching


def test_the_key_goes_along_as_a_bearer_token(server: Server) -> None:
    with httpx.Client(**Remote(server.url, key="secret")._options) as client:
        assert client.build_request("GET", "/").headers["Authorization"] == "Bearer secret"


async def test_nobody_there() -> None:
    remote = Remote(f"http://127.0.0.1:{free_port()}")
    watcher = Watcher()
    stop = remote.subscribe(watcher.see)
    with pytest.raises(ServerUnreachable, match=remote.url):
        remote.check()
    for work in (remote.load("fake"), remote.timeouts(), remote.audit_rows(AuditFilter()), remote.system()):
        with pytest.raises(ServerUnreachable, match="Is the server running"):
            await work
    stop()
    assert not watcher.heard
    await asyncio.to_thread(wait_for, lambda: not feeds())


def test_a_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    scripted(tmp_path, "fake", text="Hello")
    server = Server(data_dir=tmp_path).start()
    watcher, newcomer = Watcher(), Watcher()
    stops = [server.source.subscribe(watcher.see)]
    wait_for(lambda: watcher.heard)
    server.stop()
    heard = len(watcher.heard)
    stops.append(server.source.subscribe(newcomer.see))
    time.sleep(1.5)
    assert len(watcher.heard) == heard, "nothing is told of a server that is away"
    assert not newcomer.heard
    with pytest.raises(ServerUnreachable):
        asyncio.run(server.source.timeouts())
    with server:
        wait_for(lambda: len(watcher.heard) > heard and newcomer.heard)
        assert watcher.heard[heard][1], "it resumes with the history"
        assert newcomer.heard[0][1]
    for stop in stops:
        stop()
    wait_for(lambda: not feeds())
