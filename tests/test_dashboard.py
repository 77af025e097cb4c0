"""Components without a browser: build one, say what a browser would say, look at what it would draw."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from types import SimpleNamespace
from typing import Any

import panel as pn
import panel.io.server
import pytest
from bokeh.document import Document
from panel.io.resources import Resources
from panel.io.state import set_curdoc

from mlx_panel.dashboard import pages, resources
from mlx_panel.dashboard.audit import AuditTable
from mlx_panel.dashboard.live import Live
from mlx_panel.dashboard.models import Models
from mlx_panel.dashboard.overview import Overview
from mlx_panel.dashboard.status import Status
from mlx_panel.dashboard.system import SystemCard
from mlx_panel.dashboard.timeouts import Timeouts
from mlx_panel.dashboard.watching import Watching
from mlx_panel.errors import ModelLoadFailed, Unavailable

from .recorded import MODELS, record, recorded, snapshot

COMPONENTS: tuple[type[Watching], ...] = (Overview, Models, Live, Status, AuditTable, Timeouts, SystemCard)
LIVE: tuple[type[Watching], ...] = (Overview, Models, Live, Status, AuditTable)


def tell(component: Watching, do: str, **message: Any) -> None:
    """What the browser's half sends."""
    component.view._process_event(pn.models.esm.DataEvent(component.view, data={"do": do, **message}))


async def turn(times: int = 10) -> None:
    """Let the loop run what is ready."""
    for _ in range(times):
        await asyncio.sleep(0)


# --- following a source ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COMPONENTS)
async def test_builds_alone_and_refreshes(kind: type[Watching]) -> None:
    source = recorded()
    component = kind(source)  # type: ignore[call-arg]
    assert pn.panel(component).get_root() is not None
    component.refresh()
    await turn()
    assert not component.watching
    assert source.watchers == 0
    assert not component.view.notice


@pytest.mark.parametrize("kind", LIVE)
async def test_watches_while_an_eye_is_open(kind: type[Watching]) -> None:
    source = recorded()
    component = kind(source)  # type: ignore[call-arg]
    assert source.watchers == 0
    tell(component, "look", eye="a")
    tell(component, "look", eye="b")
    assert source.watchers == 1
    tell(component, "leave", eye="a")
    assert source.watchers == 1
    tell(component, "leave", eye="b")
    assert source.watchers == 0
    assert repr(component) == f"<{kind.__name__} idle, 0 on screen>"


async def test_hidden_page_gets_nothing_and_everything_when_shown_again() -> None:
    source = recorded()
    live = Live(source)
    tell(live, "look", eye="a")
    tell(live, "leave", eye="a")
    source.put(snapshot(requests=7))
    assert json.loads(live.view.snapshot)["requests"] == 2
    tell(live, "look", eye="a")
    assert json.loads(live.view.snapshot)["requests"] == 7
    assert len(json.loads(live.view.history)) == len(source.history)


async def test_session_that_ends_stops_watching() -> None:
    source = recorded()
    live = Live(source)
    document = Document()
    session = SimpleNamespace(id="s", destroyed=False)
    document._session_context = lambda: session  # type: ignore[assignment]
    with set_curdoc(document):
        pn.state._loaded[document] = True
        tell(live, "look", eye="a")
    assert source.watchers == 1
    for callback in document.callbacks.session_destroyed_callbacks:
        callback(session)
    assert source.watchers == 0
    assert "idle" in repr(live)


async def test_dropped_component_is_collected() -> None:
    source = recorded()
    live = Live(source)
    tell(live, "look", eye="a")
    gone = weakref.ref(live)
    del live
    gc.collect()
    assert gone() is None
    assert source.watchers == 0


# --- live --------------------------------------------------------------------------------------------------


async def test_snapshot_reaches_the_view() -> None:
    source = recorded()
    overview = Overview(source)
    overview.refresh()
    shown = json.loads(overview.view.snapshot)
    assert shown["tokens_per_second"] == 170.4
    assert [model["id"] for model in shown["models"]] == ["org/big", "org/small"]
    assert overview.view.parts == ["cards", "memory"]
    assert Models(source).view.parts == ["models"]


async def test_load_and_unload() -> None:
    source = recorded()
    models = Models(source)
    tell(models, "look", eye="a")
    tell(models, "load", model="org/small")
    await asyncio.sleep(0)
    assert models.view.busy == ["org/small"]
    await turn()
    assert models.view.busy == []
    assert {model.id: model.state for model in source.snapshot.models} == {
        "org/big": "ready",
        "org/small": "ready",
    }
    tell(models, "unload", model="org/big")
    await turn()
    assert source.calls == [("load", "org/small"), ("unload", "org/big")]
    assert json.loads(models.view.snapshot)["models"][0]["state"] == "available"


async def test_failed_load_is_said_and_button_is_free_again() -> None:
    source = recorded()
    source.faults["org/small"] = ModelLoadFailed("It needs 75 GB.")
    models = Models(source)
    tell(models, "load", model="org/small")
    await turn()
    assert models.view.notice["text"] == "It needs 75 GB."
    assert models.view.busy == []
    assert source.snapshot.models[1].reason == "It needs 75 GB."


@pytest.mark.parametrize("message", [{"do": "load"}, {"do": "load", "model": 7}, {"do": "rm", "model": "x"}])
async def test_strange_message_does_nothing(message: dict[str, Any]) -> None:
    source = recorded()
    tell(Models(source), **message)
    await turn()
    assert source.calls == []


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "ready"),
        ({"models": ()}, "idle"),
        ({"draining": True}, "draining"),
        ({"models": MODELS[1:]}, "idle"),
    ],
)
async def test_status(changes: dict[str, Any], state: str) -> None:
    source = recorded()
    source.put(snapshot(**changes))
    status = Status(source)
    status.refresh()
    assert status.view.state == state


# --- timeouts ----------------------------------------------------------------------------------------------


async def test_timeouts_save_and_reset() -> None:
    source = recorded()
    timeouts = Timeouts(source)
    timeouts.refresh()
    await turn()
    assert [limit["value"] for limit in timeouts.view.limits] == [900.0, 600.0]
    tell(timeouts, "save", values={"timeout_chat_seconds": 30})
    await turn()
    assert [(limit["value"], limit["source"]) for limit in timeouts.view.limits] == [
        (30, "live"),
        (600.0, "file"),
    ]
    assert timeouts.view.saved["count"] == 1
    tell(timeouts, "reset")
    await turn()
    assert timeouts.view.limits[0]["value"] == 900.0
    assert timeouts.view.saved["count"] == 2


async def test_timeouts_refused_value_names_its_field() -> None:
    source = recorded()
    timeouts = Timeouts(source)
    tell(timeouts, "save", values={"timeout_chat_seconds": 0})
    await turn()
    assert timeouts.view.notice["field"] == "timeout_chat_seconds"
    assert not timeouts.view.busy
    assert not timeouts.view.saved
    assert source.limits[0].value == 900.0


# --- audit -------------------------------------------------------------------------------------------------


async def test_audit_pages_newest_first() -> None:
    table = AuditTable(recorded(rows=60), limit=25)
    table.refresh()
    await turn()
    assert table.view.page["total"] == 60
    assert [row["request_id"][4:12] for row in table.view.page["rows"]][:2] == ["00000059", "00000058"]
    tell(table, "ask", query={"limit": 25, "offset": 50})
    await turn()
    assert len(table.view.page["rows"]) == 10
    assert table.view.page["query"]["offset"] == 50


async def test_audit_filters() -> None:
    source = recorded(rows=3)
    source.record(
        record(4, status="error", http_status=500, model_used="org/small", model_requested="org/small")
    )
    source.record(record(5, endpoint="/api/system", dialect="admin", model_used=None, model_requested=None))
    table = AuditTable(source)
    found = {}
    for name, query in {
        "model": {"model": "org/small"},
        "part": {"model": "SMA"},
        "status": {"status": "error"},
        "all": {"scope": "all"},
    }.items():
        tell(table, "ask", query=query)
        await turn()
        found[name] = table.view.page["total"]
    assert found == {"model": 1, "part": 1, "status": 1, "all": 5}


async def test_audit_tells_the_view_of_new_rows() -> None:
    source = recorded(rows=3)
    table = AuditTable(source)
    tell(table, "look", eye="a")
    await turn()
    source.record(record(9))
    assert table.view.written == 4
    assert table.view.models == ["org/big", "org/small"]


@pytest.mark.parametrize(
    "query", [None, 3, {"limit": "many"}, {"limit": 10**9, "offset": -5, "scope": "x", "status": "y"}]
)
async def test_audit_asks_only_what_can_be_asked(query: Any) -> None:
    source = recorded(rows=3)
    table = AuditTable(source)
    tell(table, "ask", query=query)
    await turn()
    assert all(call == ("audit", 25, 0, None, None, "model") for call in source.calls)


@pytest.mark.parametrize("kind", [AuditTable, Timeouts, SystemCard])
async def test_unreachable_server_is_said(kind: type[Watching]) -> None:
    source = recorded()
    source.faults = {name: Unavailable("No server there.") for name in ("audit", "timeouts", "system")}
    component = kind(source)  # type: ignore[call-arg]
    component.refresh()
    await turn()
    assert component.view.notice["text"] == "No server there."


async def test_system() -> None:
    card = SystemCard(recorded())
    card.refresh()
    await turn()
    assert card.view.system["blas"]["fix"] == "apt install libopenblas0"


# --- the page ----------------------------------------------------------------------------------------------


def test_every_page_builds() -> None:
    for path, (title, _) in pages.PAGES.items():
        document = pages.build(recorded(), path).server_doc(Document())
        assert title == "mlx-panel"
        assert document.roots[0].class_name == "Page"


def test_remembered_resources_are_the_same() -> None:
    document = pages.build(recorded()).server_doc(Document())
    asked = Resources(mode="server", root_url="/")
    original = panel.io.server.bundle_resources
    undo = resources.remember()
    try:
        memo = panel.io.server.bundle_resources
        texts = [find(document.roots, asked) for find in (original, memo, memo)]
        assert len({(bundle._render_js(), bundle._render_css()) for bundle in texts}) == 1
        texts[1].js_raw.append("alert(1)")
        assert memo(document.roots, asked).js_raw == texts[0].js_raw
    finally:
        undo()
    assert panel.io.server.bundle_resources is original


def test_resources_are_not_touched_in_an_untried_version(monkeypatch: pytest.MonkeyPatch) -> None:
    original = panel.io.server.bundle_resources
    monkeypatch.setattr(pn, "__version__", "2.0.0")
    resources.remember()()
    assert panel.io.server.bundle_resources is original
