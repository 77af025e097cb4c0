"""The library and the downloads without a browser: what they ask of a source, and the same questions over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mlx_panel.dashboard.downloads import Downloads
from mlx_panel.dashboard.library import BROKEN, Library
from mlx_panel.dashboard.library_recorded import Stock
from mlx_panel.dashboard.recorded import Recorded
from mlx_panel.dashboard.remote import Remote
from mlx_panel.errors import Conflict, HubModelNotFound, HubRefused, InvalidParameter, NotFound
from mlx_panel.library import ConvertOrder, Download, HubModel, HubQuery, ImportOrder, LibraryModel

from .fake_hub import HubProcess, fake_hub, serving
from .models import tiny_model
from .server import Running
from .test_dashboard import tell, turn

Answer = TypeVar("Answer")


@pytest.fixture
def source() -> Recorded:
    local = LibraryModel(id="a", path="/a", source="folder", bytes=10)
    return Recorded(stock=Stock([local], [HubModel(id="org/b", bytes=4)]))


async def reply(library: Library, do: str, **message: Any) -> dict[str, Any]:
    """What the browser is told about something it asked."""
    tell(library, do, ticket="t", **message)
    await turn(30)
    return library.view.replies[-1]


async def test_a_question_is_answered_by_its_ticket(source: Recorded) -> None:
    library = Library(source)
    assert await reply(library, "search", query={"text": "b"}) == {
        "ticket": "t",
        "error": "",
        "field": "",
        "value": {},
    }
    found = json.loads(library.view.found)
    assert (found["ticket"], [one["id"] for one in found["models"]]) == ("t", ["org/b"])
    await reply(library, "show", what="a")
    assert json.loads(library.view.shown)["model"]["path"] == "/a"
    assert (await reply(library, "delete", what="a", force=False))["value"] == {"freed": 10}
    assert json.loads(library.view.local) == []
    assert (await reply(library, "show", what="a"))["error"] == "There is no model 'a'."


@pytest.mark.parametrize(
    ("do", "message"),
    [
        ("search", {"query": {"bits": "many"}}),
        ("search", {"query": [1]}),
        ("convert", {"order": {"model": "a", "bits": 7}}),
        ("import", {"order": {"file": ""}}),
    ],
)
async def test_a_question_that_makes_no_sense_is_refused(
    source: Recorded, do: str, message: dict[str, Any]
) -> None:
    answer = await reply(Library(source), do, **message)
    assert answer["error"].startswith("This cannot be done")
    assert [call for call in source.calls if call[0] == "hub" or "convert" in call or "import" in call] == []


async def test_nobody_waits_for_an_answer_that_a_defect_took(
    source: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    source.faults["hub"] = ZeroDivisionError()
    lost: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: lost.append(context))
    assert (await reply(Library(source), "search", query={}))["error"] == BROKEN


async def test_unknown_messages_do_nothing(source: Recorded) -> None:
    library, downloads = Library(source), Downloads(source)
    for message in ({"do": "format"}, {"do": "delete", "what": 5}, {"do": "load"}):
        tell(library, message.pop("do"), ticket="t", **message)
    tell(downloads, "explode", task="d1")
    await turn()
    assert source.calls == []
    assert library.view.replies == []


async def test_what_moves_is_told_each_second_and_what_does_not_is_not(source: Recorded) -> None:
    library, downloads = Library(source), Downloads(source)
    tell(library, "look", eye="a")
    tell(downloads, "look", eye="a")
    before = library.view.news
    source.download(Download(task="d", model="org/b", state="downloading", done=1, total=4))
    assert json.loads(library.view.downloads) == {"org/b": {"state": "downloading", "share": 25}}
    assert json.loads(downloads.view.live)[0]["done"] == 1
    assert library.view.news != before
    changes: list[Any] = []
    library.view.param.watch(changes.append, ["states", "tasks", "downloads", "news"])
    downloads.view.param.watch(changes.append, ["live", "news"])
    source.put(source.snapshot)
    assert changes == []


# --- over HTTP --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    tiny_model(folder / "org" / "tiny")
    with fake_hub("org/large-4bit:400000", folder=folder) as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, hub: HubProcess) -> Iterator[Running]:
    with serving(hub, tmp_path_factory.mktemp("library")) as one:
        yield one


@pytest.fixture
def remote(server: Running) -> Remote:
    return Remote(server.url)


async def until(
    ask: Callable[[], Awaitable[list[Answer]]], good: Callable[[Answer], bool], seconds: float = 60
) -> Answer:
    """The first of what is asked for that is as wanted."""
    async with asyncio.timeout(seconds):
        while True:
            for one in await ask():
                if good(one):
                    return one
            await asyncio.sleep(0.1)


async def test_a_remote_library_finds_fetches_checks_and_deletes(remote: Remote, hub: HubProcess) -> None:
    page = await remote.hub_search(HubQuery(text="org", sort="name", limit=1, fits=True))
    assert [model.id for model in page.models] == ["org/large-4bit"]
    page = await remote.hub_search(HubQuery(text="org", sort="name", limit=1, fits=True, cursor=page.cursor))
    assert [model.id for model in page.models] == ["org/tiny"]
    details = await remote.hub_details("org/tiny")
    assert {file.path for file in details.files} >= {"config.json", "model.safetensors"}
    hub.set(bytes_per_second=20_000)
    task = (await remote.start_download("org/tiny")).task
    assert (await remote.start_download("org/tiny")).task == task
    await until(remote.downloads, lambda one: one.done > 0)
    await remote.pause_download(task)
    assert [one.state for one in await remote.downloads()] == ["paused"]
    with pytest.raises(Conflict):
        await remote.retry_download(task)
    hub.set(bytes_per_second=0)
    await remote.resume_download(task)
    await until(remote.downloads, lambda one: one.state == "completed")
    await remote.forget_download(task)
    assert await remote.downloads() == []
    assert (await remote.show_model("org/tiny")).source == "hub cache"
    assert (await remote.capabilities("org/tiny")).architecture == "llama"
    check = await remote.verify_model("org/tiny")
    done = await until(remote.tasks, lambda one: one.id == check.id and one.ended is not None)
    assert done.state == "done"
    await remote.forget_task(check.id)
    assert await remote.tasks() == []
    probe = await remote.probe_model("org/tiny")
    await remote.cancel_task(probe.id)
    assert [(one.kind, one.state) for one in await remote.tasks()] == [("probe", "cancelled")]
    await remote.convert_model(ConvertOrder(model="org/tiny", name="tiny-8", bits=8, group_size=32))
    made = await until(remote.tasks, lambda one: one.kind == "convert" and one.ended is not None)
    assert (made.state, made.result) == ("done", "tiny-8")
    assert await remote.delete_model("tiny-8") > 10_000
    assert await remote.delete_model("org/tiny", force=True) > 10_000
    assert "org/tiny" not in [model.id for model in await remote.local_models()]


async def test_components_far_away_look_and_ask(remote: Remote) -> None:
    library, downloads = Library(remote), Downloads(remote)
    for component in (library, downloads):
        tell(component, "look", eye="a")
    tell(library, "search", ticket="t", query={"text": "large"})
    async with asyncio.timeout(20):
        while not (
            library.view.local
            and library.view.replies
            and downloads.view.known
            and library.view.states != "{}"
        ):
            await asyncio.sleep(0.05)
    assert "plain" in [one["id"] for one in json.loads(library.view.local)]
    assert [one["id"] for one in json.loads(library.view.found)["models"]] == ["org/large-4bit"]
    assert json.loads(library.view.states)["models"]["plain"]["state"] == "available"
    assert library.view.hub["endpoint"].startswith("http://127.0.0.1")
    for component in (library, downloads):
        tell(component, "leave", eye="a")


async def test_a_remote_library_says_what_cannot_be(remote: Remote, tmp_path: Path) -> None:
    with pytest.raises(HubModelNotFound):
        await remote.hub_details("org/nothing")
    with pytest.raises(NotFound):
        await remote.cancel_task("nothing")
    with pytest.raises(NotFound):
        await remote.cancel_download("nothing")
    with pytest.raises(InvalidParameter):
        await remote.import_gguf(ImportOrder(file=str(tmp_path / "none.gguf")))
    with pytest.raises(InvalidParameter):
        await remote.convert_model(ConvertOrder(model="plain"))  # a scripted one


async def test_a_remote_library_has_a_token_and_is_offline_when_told(remote: Remote) -> None:
    assert not (await remote.hub_state()).token
    assert (await remote.set_hub_token("hf_wrong")).token
    with pytest.raises(HubRefused):
        await remote.test_hub_token()
    assert not (await remote.forget_hub_token()).token
    assert (await remote.set_hub_offline(True)).offline
    assert (await remote.hub_search(HubQuery())).offline
    assert not (await remote.set_hub_offline(False)).offline
