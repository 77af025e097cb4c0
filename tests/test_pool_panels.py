"""The components of pool and presets without a browser, and their sources over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mlx_panel.dashboard.aliases import Aliases
from mlx_panel.dashboard.pool import Pool
from mlx_panel.dashboard.pool_settings import PoolForm
from mlx_panel.dashboard.presets import Presets
from mlx_panel.dashboard.remote import Remote
from mlx_panel.errors import Conflict, NotFound
from mlx_panel.preset import Alias, Preset, SamplingDefaults
from mlx_panel.preset_text import Stored
from mlx_panel.snapshot import LoadProgress, ModelState, PoolFigures

from .recorded import GB, recorded, snapshot
from .server import Running, running, scripted
from .test_dashboard import tell, turn


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("panels")
    scripted(folder, "org-a")
    with running(folder) as one:
        yield one


# --- without a browser -------------------------------------------------------------------------------------


async def test_the_same_over_http(server: Running) -> None:
    remote = Remote(server.url)
    await remote.pin("org-a", True)
    found = {one.name: one for one in await remote.pool_options()}
    assert (found["pins"].value, found["pins"].source) == (["org-a"], "live")
    found = {
        one.name: one for one in await remote.set_pool_options({"model_ttls": {"org-a": 5.0}, "pins": None})
    }
    assert (found["model_ttls"].value, found["pins"].value) == ({"org-a": 5.0}, [])
    found = {one.name: one for one in await remote.reset_pool_options()}
    assert found["model_ttls"].source == "default"


async def test_the_component_passes_on_what_is_pressed() -> None:
    source = recorded()
    pool = Pool(source)
    assert pool.view.parts == ["memory", "models"]
    tell(pool, "pin", model="org/small", pinned=True)
    tell(pool, "pin", model="org/small", pinned="yes")
    await turn()
    assert source.calls == [("pin", "org/small", True)]
    assert [one.pinned for one in source.snapshot.models] == [False, True]


async def test_a_pin_that_a_preset_holds_is_not_let_go_in_silence() -> None:
    source = recorded(stored=Stored((Preset(name="coder", model="org/big", pinned=True),)))
    pool = Pool(source)
    tell(pool, "pin", model="org/big", pinned=False)
    await turn()
    assert "for the preset coder" in pool.view.notice["text"]


async def test_jobs_do_not_travel_with_the_models() -> None:
    source = recorded()
    pool = Pool(source)
    loading = ModelState(id="m", state="loading", loading=LoadProgress("weights", 1, 2, 0.5), evicts=("n",))
    source.put(snapshot(models=(loading,), pool=PoolFigures(budget=GB)))
    pool.refresh()
    assert '"tasks":[]' in pool.view.snapshot
    assert '"stage":"weights"' in pool.view.snapshot
    assert '"evicts":["n"]' in pool.view.snapshot


async def test_the_settings_are_saved_and_taken_back() -> None:
    source = recorded()
    form = PoolForm(source)
    tell(form, "save", values={"max_models": -1})
    await turn()
    assert form.view.notice["field"] == "max_models"
    tell(form, "save", values={"max_models": 3})
    await turn()
    values = {one["name"]: (one["value"], one["source"]) for one in form.view.options}
    assert values["max_models"] == (3, "live")
    tell(form, "reset")
    await turn()
    values = {one["name"]: (one["value"], one["source"]) for one in form.view.options}
    assert values["max_models"] == (0, "default")


# --- presets and aliases -----------------------------------------------------------------------------------


def stored() -> Stored:
    presets = (
        Preset(name="coder", model="org/big", sampling=SamplingDefaults(seed=2**62 + 1, temperature=0.2)),
        Preset(name="fast", model="org/small", template={"effort": "high", "depth": 3}),
    )
    return Stored(presets, (Alias(pattern="gpt-", kind="prefix", target="coder", priority="low"),))


async def test_a_preset_travels_to_the_browser_and_back_unchanged() -> None:
    source = recorded(stored=stored())
    presets = Presets(source)
    presets.refresh()
    await turn()
    shown = json.loads(presets.view.presets)
    assert shown[0]["sampling"] == {"temperature": 0.2, "seed": str(2**62 + 1)}
    assert shown[1]["template"] == {"effort": '"high"', "depth": "3"}
    for one in shown:
        tell(presets, "save", name=one["name"], preset=one)
        await turn()
    assert not presets.view.notice
    assert source.stored == stored()


async def test_bounds_choices_and_defaults_are_those_of_the_server() -> None:
    presets = Presets(recorded())
    presets.refresh()
    await turn()
    known = presets.view.spec
    assert (known["sampling.temperature"]["maximum"], known["sampling.temperature"]["default"]) == (2, 1.0)
    assert known["sampling.top_p"]["above"] == 0
    assert known["timeouts.chat"]["default"] == 900.0
    assert "hermes_json" in known["tools"]["choices"]
    assert "think" in known["reasoning"]["choices"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sampling": {"temperature": 3}}, "sampling.temperature"),
        ({"sampling": {"seed": "1e5"}}, "sampling.seed"),
        ({"tools": "nothing"}, "tools"),
        ({"name": "fast"}, "name"),
        ({"timeouts": {"chat": 0}}, "timeouts.chat"),
        ({"template": {"a b": "1"}}, "template"),
    ],
)
async def test_a_preset_that_cannot_be_names_its_field(change: dict[str, Any], field: str) -> None:
    source = recorded(stored=stored())
    presets = Presets(source)
    tell(presets, "save", name="", preset={"name": "new", "model": "org/big", **change})
    await turn()
    assert presets.view.notice["field"] == field
    assert source.stored == stored()
    assert not presets.view.busy


async def test_what_was_deleted_can_be_had_back_once() -> None:
    source = recorded(stored=stored())
    presets = Presets(source)
    presets.refresh()
    await turn()
    tell(presets, "delete", name="coder")
    await turn()
    assert (presets.view.deleted, len(source.stored.presets)) == ("coder", 1)
    for _ in range(2):
        tell(presets, "undo")
        await turn()
    assert source.stored == stored()
    assert presets.view.deleted == ""


async def test_a_model_that_others_use_is_stopped_only_if_that_is_insisted_on() -> None:
    source = recorded(stored=stored())
    presets = Presets(source)
    tell(presets, "stop", name="coder")
    await turn()
    assert presets.view.blocked["what"] == "stop"
    assert source.snapshot.models[0].state == "ready"
    tell(presets, "stop", name="coder", force=True)
    await turn()
    assert source.snapshot.models[0].state == "available"
    assert (presets.view.blocked, presets.view.starting) == ({}, [])


async def test_a_preset_asks_for_what_is_known_of_its_model() -> None:
    presets = Presets(recorded())
    tell(presets, "about", model="nobody")
    await turn()
    assert presets.view.about == {"model": "nobody"}


async def test_rules_are_kept_in_order_and_tried() -> None:
    source = recorded(stored=stored())
    aliases = Aliases(source)
    aliases.refresh()
    await turn()
    assert [one["pattern"] for one in json.loads(aliases.view.aliases)] == ["gpt-"]
    assert aliases.view.targets == ["coder", "fast", "org/big", "org/small"]
    tell(aliases, "test", name="gpt-5")
    await turn()
    found = aliases.view.found
    assert (found["model"], found["preset"], found["priority"]) == ("org/big", "coder", "low")
    rules = [{"pattern": "gpt-5", "target": "fast"}, {"pattern": "gpt-", "kind": "prefix", "target": "coder"}]
    tell(aliases, "save", aliases=rules)
    await turn()
    assert [one.pattern for one in source.stored.aliases] == ["gpt-5", "gpt-"]
    tell(aliases, "test", name="gpt-5")
    await turn()
    assert aliases.view.found["model"] == "org/small"
    tell(aliases, "save", aliases=[*rules, {"pattern": "", "target": "x"}])
    await turn()
    assert aliases.view.notice["field"] == "aliases[2].pattern"
    assert len(source.stored.aliases) == 2


async def test_presets_over_http(server: Running) -> None:
    remote = Remote(server.url)
    made = Preset(name="a/b c", model="org-a", sampling=SamplingDefaults(temperature=0.0, stop=("x",)))
    assert await remote.create_preset(made) == made
    assert await remote.presets() == [made]
    with pytest.raises(Conflict) as refused:
        await remote.create_preset(made)
    assert refused.value.field == "name"
    changed = msgspec.structs.replace(made, description="More.")
    assert await remote.replace_preset("a/b c", changed) == changed
    copy = await remote.duplicate_preset("a/b c", "copy")
    assert copy.description == "More."
    text = await remote.export_presets("copy")
    await remote.delete_preset("copy")
    assert await remote.import_presets(text) == ["copy"]
    assert "a/b c" in await remote.export_presets()
    rule = Alias(pattern="x", target="copy", priority="low")
    assert await remote.set_aliases([rule]) == await remote.aliases() == [rule]
    found = await remote.test_alias("x")
    assert (found.model, found.preset, found.alias, found.priority) == ("org-a", "copy", rule, "low")
    await remote.start_preset("a/b c")
    states = {one.preset: one.state for one in await remote.servers()}
    assert states == {"a/b c": "ready", "copy": "ready"}
    await remote.restart_preset("copy")
    await remote.stop_preset("copy", force=True)
    assert {one.state for one in await remote.servers()} == {"available"}
    with pytest.raises(NotFound):
        await remote.delete_preset("nobody")


async def test_components_look_through_http(server: Running) -> None:
    remote = Remote(server.url)
    presets = Presets(remote)
    await presets._ask()
    assert presets.view.url == server.url
    assert [one["name"] for one in json.loads(presets.view.presets)] == ["a/b c", "copy"]
