"""What a request's model name stands for: models, presets, and rules for names that nobody has."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_panel.aliases import LONGEST_NAME, MOST_WAYS, Rule, header, rules, ways
from mlx_panel.errors import InvalidParameter, ModelNotFound
from mlx_panel.pool.names import Names
from mlx_panel.preset import Alias, Preset

from .server import Running, running
from .test_presets import Catalog, store

# --- rules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "pattern", "yes", "no"),
    [
        ("exact", "gpt-4o", ["gpt-4o"], ["gpt-4o-mini", "GPT-4o"]),
        ("prefix", "claude-haiku", ["claude-haiku", "claude-haiku-4-5"], ["my-claude-haiku"]),
        ("regex", r".*haiku.*", ["haiku", "a-haiku-b"], ["hai-ku", "haiku" + "x" * LONGEST_NAME]),
        ("regex", r"(?:gpt|o\d)-[^x]{2,4}(-mini)?", ["gpt-4o", "o3-full-mini"], ["gpt-4", "gpt-4ox-mini-"]),
    ],
)
def test_a_rule_matches_the_whole_name(kind: Any, pattern: str, yes: list[str], no: list[str]) -> None:
    rule = Rule(Alias(pattern=pattern, target="m", kind=kind))
    assert all(map(rule.matches, yes))
    assert not any(map(rule.matches, no))


@pytest.mark.parametrize(
    "pattern",
    [
        "(a*)*", "(a|b)+", "(a)\\1", "(?=a)", "(?i)a", "(?:a", "a)", "a**", "*a", "[a", "[[a]", "a{2", "\\",
        ".*.*.*.*", "(?:.*|.*)?.*.*.*", "x" * 3 + "(?:a|a)?" * 24, "a{5,3}", "\x00",
    ],
)  # fmt: skip
def test_an_expression_that_could_take_for_ever_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        Rule(Alias(pattern=pattern, target="m", kind="regex"))
    assert refused.value.field == "pattern"


def test_rules_are_bounded_together() -> None:
    slow = Alias(pattern=".*a.*b.*", target="m", kind="regex")
    assert ways(slow.pattern) <= MOST_WAYS < 2 * ways(slow.pattern)
    assert len(rules([slow])) == 1
    with pytest.raises(InvalidParameter, match="together"):
        rules([slow, slow])
    with pytest.raises(InvalidParameter, match="256"):
        rules([Alias(pattern="a", target="m")] * 257)
    with pytest.raises(InvalidParameter, match=r"aliases\[1\]"):
        rules([slow, Alias(pattern="(", target="m", kind="regex")])


pieces = st.sampled_from(
    ["a", ".", "[ab]", r"\w", "a*", ".+", "b?", "a{1,3}", "(a|b)", "(?:ab|a)?", "|", "()"]
)


@settings(deadline=None)
@given(st.lists(pieces, max_size=12).map("".join), st.text("abc", max_size=12))
def test_what_is_taken_means_what_re_says(pattern: str, name: str) -> None:
    """And the ways to match it are counted and few."""
    try:
        rule = Rule(Alias(pattern=pattern or "a", target="m", kind="regex"))
    except InvalidParameter:
        return
    assert rule.matches(name) == (re.fullmatch(pattern or "a", name) is not None)
    assert 1 <= rule.ways <= MOST_WAYS


@pytest.mark.parametrize("pattern", ["(?:a|a|a|a)" * 10 + "b", "a?" * 21 + "b", ".*.*.*b"])
def test_the_slowest_expressions_end(pattern: str) -> None:
    """Without the bound the first of these, only twice as long, would run for hours."""
    assert not Rule(Alias(pattern=pattern, target="m", kind="regex")).matches("a" * LONGEST_NAME)
    with pytest.raises(InvalidParameter):
        ways(pattern * 2)


def test_a_pattern_in_a_header_is_one_line_of_ascii() -> None:
    assert header(Alias(pattern="größe.*", target="m")) == "gr%C3%B6%C3%9Fe.*"


# --- finding -------------------------------------------------------------------------------------------------------


async def test_a_model_comes_first_then_a_preset_then_rules(tmp_path: Path) -> None:
    held = store(tmp_path, "m", "n")
    names = Names(Catalog("m", "n", "late"), held)
    await held.create(Preset(name="p", model="m", priority="low"))
    await held.create(Preset(name="late", model="m"))
    await held.set_aliases(
        [
            Alias(pattern="m", target="n"),
            Alias(pattern="x", target="gone"),
            Alias(pattern="x", target="n", enabled=False),
            Alias(pattern="x", target="p", kind="prefix"),
            Alias(pattern="x", target="n", kind="prefix"),
            Alias(pattern="back", target="n", priority="low"),
        ]
    )

    async def found(name: str) -> tuple[str, str | None, bool, bool]:
        named = await names.find(name)
        return named.model.id, named.preset and named.preset.name, named.alias is not None, named.low

    assert await found("m") == ("m", None, False, False)
    assert await found("late") == ("late", None, False, False)  # a model of that name came later
    assert await found("p") == ("m", "p", False, True)
    assert await found("x") == await found("xyz") == ("m", "p", True, True)
    assert await found("back") == ("n", None, True, True)
    assert [preset.name for preset, _ in await names.there()] == ["p"]
    assert await names.dangling() == ["gone"]


async def test_the_servers_own_names_give_way_to_others(tmp_path: Path) -> None:
    names = Names(Catalog("m"), store(tmp_path, "m"))
    names.background["proof"] = "m"
    found = await names.find("proof")
    assert (found.model.id, found.low, (await names.find("m")).low) == ("m", True, False)
    del names.background["proof"]
    with pytest.raises(ModelNotFound):
        await names.find("proof")


async def test_a_name_that_nobody_has_says_what_points_to_nothing(tmp_path: Path) -> None:
    held = store(tmp_path, "m", "n")
    await held.create(Preset(name="p", model="n"))
    await held.set_aliases(
        [Alias(pattern="x", target="p", kind="prefix"), Alias(pattern="y", target="m", kind="prefix")]
    )
    names = Names(Catalog("m"), held)
    with pytest.raises(ModelNotFound, match=r"Presets: p\. The prefix rule 'x' .* target 'p' is not here"):
        await names.find("xyz")
    with pytest.raises(ModelNotFound, match="'n' of the preset 'p'"):
        await names.find("p")
    with pytest.raises(ModelNotFound) as nothing:
        await names.find("z")
    assert "rule" not in str(nothing.value)
    assert await names.missing() == ["p"]


# --- over HTTP -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with running(tmp_path_factory.mktemp("names"), max_models=1, load_wait_seconds=1) as server:
        server.client.post(
            "/api/profiles", json={"name": "quick", "model": "plain", "sampling": {"max_tokens": 2}}
        )
        yield server


def lay(server: Running, *aliases: dict[str, Any]) -> dict[str, Any]:
    return server.client.put("/api/aliases", json={"aliases": list(aliases)}).raise_for_status().json()


def test_a_rule_answers_for_an_unknown_name(house: Running) -> None:
    said = lay(
        house,
        {"kind": "prefix", "pattern": "claude-haiku", "target": "quick"},
        {"kind": "exact", "pattern": "gpt-4o", "target": "plain"},
        {"kind": "exact", "pattern": "lost", "target": "nowhere"},
    )
    assert said["missing"] == ["nowhere"]
    assert house.client.get("/api/aliases").json() == said
    reply = house.chat("claude-haiku-4-5")
    assert (reply.json()["model"], reply.json()["usage"]["completion_tokens"]) == ("claude-haiku-4-5", 2)
    assert (reply.headers["x-alias"], reply.headers["x-preset"]) == ("claude-haiku", "quick")
    row = house.row(reply.headers["x-request-id"])
    assert (row["model_requested"], row["model_used"]) == ("unknown", "plain")
    exact = house.chat("gpt-4o")
    assert house.row(exact.headers["x-request-id"])["model_requested"] == "gpt-4o"
    assert house.client.get("/v1/models/claude-haiku-1").json()["owned_by"] == "alias"
    lost = house.chat("lost")
    assert (lost.status_code, lost.json()["error"]["code"]) == (404, "model_not_found")
    assert "'nowhere' is not here" in lost.json()["detail"]
    lay(house)
    assert house.chat("gpt-4o").status_code == 404  # at the very next request


def test_a_name_can_be_tried(house: Running) -> None:
    lay(house, {"kind": "regex", "pattern": ".*mini", "target": "quick", "priority": "low"})
    found = house.client.post("/api/aliases/test", json={"name": "gpt-mini"}).json()
    assert (found["model"], found["preset"], found["priority"]) == ("plain", "quick", "low")
    assert found["alias"]["pattern"] == ".*mini"
    assert house.client.post("/api/aliases/test", json={"name": "plain"}).json()["alias"] is None
    assert house.client.post("/api/aliases/test", json={"name": "gpt"}).status_code == 404


@pytest.mark.parametrize(
    ("alias", "field"),
    [
        ({"kind": "regex", "pattern": "(", "target": "m"}, "aliases[0].pattern"),
        ({"kind": "regex", "pattern": "(a+)+", "target": "m"}, "aliases[0].pattern"),
        ({"kind": "glob", "pattern": "a", "target": "m"}, "aliases[0].kind"),
        ({"kind": "exact", "pattern": "a" * 257, "target": "m"}, "aliases[0].pattern"),
        ({"kind": "exact", "pattern": "a", "target": "m", "weight": 1}, "aliases[0]"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(house: Running, alias: dict[str, Any], field: str) -> None:
    before = house.client.get("/api/aliases").json()
    reply = house.client.put("/api/aliases", json={"aliases": [alias]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, field)
    assert house.client.get("/api/aliases").json() == before


def test_a_low_request_makes_no_model_leave(house: Running) -> None:
    lay(
        house,
        {"kind": "exact", "pattern": "small-job", "target": "failing", "priority": "low"},
        {"kind": "exact", "pattern": "job", "target": "failing"},
    )
    house.chat("plain").raise_for_status()
    refused = house.chat("small-job")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "insufficient_memory")
    states = {one["id"]: one["state"] for one in house.client.get("/v1/admin/models/status").json()["models"]}
    assert (states["plain"], states["failing"]) == ("ready", "available")
    assert house.chat("job").json()["error"]["code"] == "generation_failed"  # it was loaded, and ran
    assert house.chat("small-job").json()["error"]["code"] == "generation_failed"  # what is there is used


def test_nothing_of_a_tried_name_is_kept(house: Running) -> None:
    canary = f"zq8name{time.monotonic_ns()}"
    lay(house, {"kind": "prefix", "pattern": "zq8", "target": "plain"})
    house.chat(canary).raise_for_status()
    house.client.post("/api/aliases/test", json={"name": canary})
    house.client.post("/api/profiles", json={"name": canary, "model": canary})
    house.rows("none")
    assert [
        file for file in house.folder.rglob("*") if file.is_file() and canary.encode() in file.read_bytes()
    ] == []
