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

from mlx_panel.analytics import AuditFilter
from mlx_panel.dashboard import pages, resources
from mlx_panel.dashboard.aliases import Aliases
from mlx_panel.dashboard.analytics import Analytics
from mlx_panel.dashboard.audit import AuditTable
from mlx_panel.dashboard.benchmarks import Benchmarks
from mlx_panel.dashboard.cache import PrefixCache
from mlx_panel.dashboard.downloads import Downloads
from mlx_panel.dashboard.engine import EngineForm
from mlx_panel.dashboard.library import Library
from mlx_panel.dashboard.live import Live
from mlx_panel.dashboard.models import Models
from mlx_panel.dashboard.overview import Overview
from mlx_panel.dashboard.pool import Pool
from mlx_panel.dashboard.pool_settings import PoolForm
from mlx_panel.dashboard.presets import Presets
from mlx_panel.dashboard.status import Status
from mlx_panel.dashboard.system import SystemCard
from mlx_panel.dashboard.timeouts import Timeouts
from mlx_panel.dashboard.watching import Watching
from mlx_panel.errors import ModelLoadFailed, Unavailable
from mlx_panel.job import Job, Order

from .recorded import MODELS, NOW, record, recorded, result, snapshot

LIVE: tuple[type[Watching], ...] = (
    Overview, Models, Pool, Live, Status, AuditTable, Benchmarks, EngineForm, PrefixCache, PoolForm, Presets, Aliases,
    Downloads, Library, Analytics,
)  # fmt: skip
COMPONENTS: tuple[type[Watching], ...] = (*LIVE, Timeouts, SystemCard)


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
    assert table.page["total"] == 60
    assert [row["request_id"][4:12] for row in table.page["rows"]][:2] == ["00000059", "00000058"]
    for _ in range(2):
        tell(table, "ask", query={"limit": 25, "before": table.page["next"]})
        await turn()
    assert len(table.page["rows"]) == 10
    assert table.page["next"] == ""
    assert table.page["total"] == 60


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
        found[name] = table.page["total"]
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
    "query", [None, 3, {"limit": "many"}, {"limit": 10**9, "before": "x" * 300, "scope": "x", "status": "y"}]
)
async def test_audit_asks_only_what_can_be_asked(query: Any) -> None:
    source = recorded(rows=3)
    table = AuditTable(source)
    tell(table, "ask", query=query)
    await turn()
    assert all(call == ("audit", "rows", AuditFilter(), 25, "", True) for call in source.calls)


@pytest.mark.parametrize(
    "kind",
    [
        AuditTable,
        Analytics,
        Timeouts,
        SystemCard,
        Benchmarks,
        EngineForm,
        PrefixCache,
        PoolForm,
        Presets,
        Aliases,
    ],
)
async def test_unreachable_server_is_said(kind: type[Watching]) -> None:
    source = recorded()
    what = ("audit", "timeouts", "system", "engine", "cache", "benchmarks", "pool", "presets", "aliases")
    source.faults = {name: Unavailable("No server there.") for name in what}
    component = kind(source)  # type: ignore[call-arg]
    component.refresh()
    await turn()
    assert component.view.notice["text"] == "No server there."


async def test_system() -> None:
    card = SystemCard(recorded())
    card.refresh()
    await turn()
    assert card.view.system["blas"]["fix"] == "apt install libopenblas0"


# --- benchmarks --------------------------------------------------------------------------------------------


async def test_benchmark_is_started_followed_and_shown() -> None:
    source = recorded(results=[result("old", 50.0)])
    benchmarks = Benchmarks(source)
    benchmarks.refresh()
    await turn()
    assert [one["id"] for one in benchmarks.view.stored] == benchmarks.view.chosen == ["old"]
    order = {"model": "org/big", "concurrency": [1, 4], "prompt_tokens": 16}
    tell(benchmarks, "start", order=order)
    await turn()
    assert benchmarks.view.job["state"] == "running"
    assert source.calls[-1] == ("benchmarks", Order(model="org/big", concurrency=(1, 4), prompt_tokens=16))
    tell(benchmarks, "start", order=order)
    await turn()
    assert "A benchmark is running" in benchmarks.view.notice["text"]
    done = Job(order=Order(model="org/big"), started=NOW, state="done", result="new")
    source.bench(done, result("new", created=NOW.replace(year=2027)))
    tell(benchmarks, "ask")
    await turn()
    assert [one["id"] for one in benchmarks.view.stored] == ["new", "old"]
    assert benchmarks.view.chosen == ["new"]
    assert not benchmarks.view.notice
    assert not benchmarks.view.busy


@pytest.mark.parametrize(
    "order", [None, 3, {}, {"model": "m", "concurrency": []}, {"model": "m", "top_p": 7}]
)
async def test_benchmark_that_cannot_be_is_said(order: Any) -> None:
    source = recorded()
    benchmarks = Benchmarks(source)
    tell(benchmarks, "start", order=order)
    await turn()
    assert "cannot be run" in benchmarks.view.notice["text"]
    assert source.job is None


async def test_two_results_are_compared_and_plotted() -> None:
    source = recorded(results=[result("slow", 50.0), result("fast", 100.0, concurrency=(1, 16))])
    benchmarks = Benchmarks(source)
    tell(benchmarks, "choose", ids=["fast", "slow", "third"])
    await turn()
    shown = benchmarks.view.shown
    assert [one["letter"] for one in shown["results"]] == ["A", "B"]
    assert [row["workload"] for row in shown["ratios"]] == ["1 × 128→64 greedy", "16 × 128→64 greedy"]
    speed = shown["ratios"][0]["cells"][0]
    assert (speed["metric"], speed["median"], speed["better"]) == ("tokens/s", 2.0, "higher")
    assert benchmarks.results.shown is shown
    figures = [pane.object for pane in benchmarks.plots]
    assert [figure.title.text.partition(" ")[0] for figure in figures] == ["Throughput", "First", "Between"]
    lines = figures[0].renderers[0].data_source.data
    assert (lines["xs"], lines["ys"][0][0]) == ([[1, 16], [1, 4, 16]], 100.0)
    tell(benchmarks, "delete", id="slow")
    await turn()
    assert benchmarks.view.chosen == ["fast"]
    tell(benchmarks, "download", id="fast")
    await turn()
    assert benchmarks.view.file["name"] == "fast.json"
    assert json.loads(benchmarks.view.file["text"])["id"] == "fast"
    tell(benchmarks, "delete", id="fast")
    await turn()
    assert (benchmarks.view.chosen, benchmarks.view.shown["results"], benchmarks.view.stored) == ([], [], [])
    assert [type(pane) for pane in benchmarks.plots] == [pn.Spacer]


# --- the engine and its cache ------------------------------------------------------------------------------


def value(form: EngineForm, name: str) -> tuple[Any, str, bool]:
    option = next(one for one in form.view.options if one["name"] == name)
    return option["value"], option["source"], option["own"]


async def test_engine_is_set_for_all_and_for_one() -> None:
    source = recorded()
    form = EngineForm(source)
    form.refresh()
    await turn()
    assert value(form, "max_batch") == (32, "default", False)
    tell(form, "save", values={"max_batch": 8})
    await turn()
    assert value(form, "max_batch") == (8, "live", False)
    assert form.view.saved["text"] == "Saved. It holds at once."
    tell(form, "show", model="org/small")
    tell(form, "save", values={"kv_bits": 8})
    await turn()
    assert value(form, "kv_bits") == (8, "live", True)
    assert "next load" in form.view.saved["text"]
    assert form.view.own == ["org/small"]
    tell(form, "show", model="")
    await turn()
    assert value(form, "kv_bits") == (0, "default", False)
    tell(form, "save", values={"max_batch": 0})
    await turn()
    assert form.view.notice["field"] == "max_batch"
    tell(form, "reset")
    await turn()
    assert value(form, "max_batch") == (32, "default", False)


async def test_engine_reloads_a_model_that_waits() -> None:
    source = recorded()
    form = EngineForm(source)
    tell(form, "reload", model="org/big")
    await asyncio.sleep(0)
    assert form.view.reloading == ["org/big"]
    await turn()
    assert [call for call in source.calls if call[0] != "engine"] == [
        ("unload", "org/big"),
        ("load", "org/big"),
    ]
    assert form.view.reloading == []


async def test_cache_shows_figures_requests_and_rules() -> None:
    source = recorded()
    cache = PrefixCache(source)
    cache.refresh()
    await turn()
    assert [model["id"] for model in json.loads(cache.view.figures)] == ["org/big"]
    assert [one["request_id"] for one in cache.view.records] == ["req-2", "req-1", "req-0"]
    assert list(cache.view.records[1]["helpful"]) == ["clock"]
    assert [rule["name"] for rule in cache.view.rules if rule["enabled"]] == ["claude-code-header"]
    tell(cache, "rule", name="clock", on=True)
    await turn()
    assert [rule["name"] for rule in cache.view.rules if rule["enabled"]] == ["claude-code-header", "clock"]
    tell(cache, "rule", name="claude-code-header", on=False)
    await turn()
    assert [rule["name"] for rule in cache.view.rules if rule["enabled"]] == ["clock"]
    tell(cache, "clear", model="org/big")
    await turn()
    assert ("cache", "org/big") in source.calls
    assert cache.view.busy == []


# --- the page ----------------------------------------------------------------------------------------------


def test_every_page_builds() -> None:
    for path in pages.PAGES:
        document = pages.build(recorded(), path).server_doc(Document())
        assert document.roots[0].class_name == "Page"
    titles = [pages.title(path) for path in pages.PAGES]
    assert titles[0] == "mlx-panel"
    assert {"Models – mlx-panel", "Presets – mlx-panel", "Audit – mlx-panel", "Benchmarks – mlx-panel"} < set(
        titles
    )


def test_one_address_may_serve_every_page() -> None:
    asked = {"benchmarks": "/benchmarks", "nothing": "/", "../x": "/", "": "/"}
    assert {name: pages.asked({"page": [name.encode()]}) for name in asked} == asked
    assert pages.asked({}) == "/"


def test_a_tab_is_made_when_it_is_opened() -> None:
    source = recorded()
    tabs = pages.build(source).main[1]
    assert [isinstance(tab, pn.Spacer) for tab in tabs[1:]] == [True] * (len(pages.TABS) - 1)
    tabs.active = 2
    tabs.active = 0
    tabs.active = 2
    assert [place for place, tab in enumerate(tabs) if not isinstance(tab, pn.Spacer)] == [0, 2]
    assert len(tabs) == len(pages.TABS)


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
