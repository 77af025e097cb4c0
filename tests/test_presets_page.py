"""Presets and aliases in a browser on a real server: what is pressed there holds for the API's next request."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, expect

from .browser import Visit, browser
from .server import Running, running, scripted
from .test_doors import wait_for


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("presets")
    for letter in "ab":
        scripted(folder, f"org-{letter}", text="one two three four five six seven")
    with running(folder) as one:
        yield one


@pytest.fixture
def page(server: Running, chrome: Browser) -> Iterator[Page]:
    make(server, "writer", "org-a", description="Writes.", sampling={"max_tokens": 2})
    visit = Visit(chrome, f"{server.url}/presets", viewport={"width": 1440, "height": 1300})
    visit.url = f"{server.url}/"
    expect(visit.page.get_by_role("article", name="writer")).to_be_visible(timeout=20_000)
    visit.errors.clear()
    yield visit.page
    visit.close()
    assert visit.errors == []
    assert [one for one in visit.foreign if not one.startswith(server.url)] == []
    server.client.put("/api/aliases", json={"aliases": []}).raise_for_status()
    for name in profiles(server):
        server.client.delete(f"/api/profiles/{name}").raise_for_status()


def make(server: Running, name: str, model: str, **more: Any) -> None:
    server.client.post("/api/profiles", json={"name": name, "model": model, **more}).raise_for_status()


def profiles(server: Running) -> dict[str, dict[str, Any]]:
    found = server.client.get("/api/profiles").raise_for_status().json()["profiles"]
    return {one["name"]: one for one in found}


def card(page: Page, name: str) -> Locator:
    return page.get_by_role("article", name=name, exact=True)


def more(page: Page, name: str, what: str) -> None:
    card(page, name).locator("summary", has_text="⋯").press("Enter")
    page.get_by_role("button", name=f"{what} {name}").press("Enter")


def field(page: Page, path: str) -> Locator:
    return page.locator(f"#preset-{path.replace('.', '-')}")


# --- the cards ---------------------------------------------------------------------------------------------


def test_a_card_says_what_is_special_and_runs_it(server: Running, page: Page) -> None:
    one = card(page, "writer")
    expect(one).to_contain_text("Writes.")
    expect(one.get_by_role("list")).to_have_text("longest answer 2")
    expect(one.locator(".chip")).to_have_text("Stopped")
    one.get_by_role("button", name="Start writer").press("Enter")
    expect(one.locator(".chip")).to_have_text("Running", timeout=20_000)
    before = server.workers()
    assert len(before) == 1
    one.get_by_role("button", name="Restart writer").click()
    wait_for(lambda: server.workers() != before and len(server.workers()) == 1, 15)
    expect(one.get_by_role("button", name="Stop writer")).to_be_enabled(timeout=15_000)
    one.get_by_role("button", name="Stop writer").click()
    expect(one.locator(".chip")).to_have_text("Stopped", timeout=15_000)
    assert server.workers() == []


def test_the_line_for_a_shell_asks_the_preset(server: Running, page: Page) -> None:
    one = card(page, "writer")
    one.get_by_text("Ask it with curl").click()
    words = shlex.split(one.locator(".line").inner_text())
    assert words[0] == "curl"
    name, _, value = words[3].partition(": ")
    answer = httpx.post(words[1], content=words[5], headers={name: value}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 2


def test_a_copy_is_made_and_what_is_deleted_comes_back(server: Running, page: Page) -> None:
    more(page, "writer", "Duplicate")
    expect(card(page, "writer copy")).to_be_visible()
    assert profiles(server)["writer copy"]["sampling"]["max_tokens"] == 2
    more(page, "writer copy", "Delete")
    banner = card(page, "writer copy").locator(".banner")
    banner.get_by_role("button", name="Cancel").click()
    assert "writer copy" in profiles(server)
    more(page, "writer copy", "Delete")
    banner.get_by_role("button", name="Delete", exact=True).click()
    expect(card(page, "writer copy")).to_have_count(0)
    assert list(profiles(server)) == ["writer"]
    page.get_by_role("button", name="Undo").click()
    expect(card(page, "writer copy")).to_be_visible()
    assert profiles(server)["writer copy"]["description"] == "Writes."


def test_presets_go_to_a_file_and_come_back(server: Running, page: Page, tmp_path: Path) -> None:
    with page.expect_download() as waiting:
        more(page, "writer", "Export")
    assert waiting.value.suggested_filename == "writer.toml"
    file = tmp_path / "writer.toml"
    waiting.value.save_as(file)
    assert tomllib.loads(file.read_text())["presets"]["writer"]["sampling"] == {"max_tokens": 2}
    file.write_text(file.read_text().replace("max_tokens = 2", "max_tokens = 4"))
    page.get_by_label("File to import").set_input_files(file)
    replace = page.get_by_role("button", name="Replace what is there")
    expect(replace).to_be_visible()
    assert profiles(server)["writer"]["sampling"]["max_tokens"] == 2
    replace.click()
    expect(card(page, "writer").get_by_role("list")).to_have_text("longest answer 4")
    assert server.chat("writer").json()["usage"]["completion_tokens"] == 4
    file.write_text("[presets.bad]\nmodel = 3\n")
    page.get_by_label("File to import").set_input_files(file)
    expect(page.get_by_role("alert").first).to_contain_text("cannot be read: line 2")


# --- the editor --------------------------------------------------------------------------------------------


def test_every_field_is_written(server: Running, page: Page) -> None:
    page.get_by_role("button", name="New preset").click()
    texts = {
        "name": "full", "model": "org-b", "description": "All of it.", "system_prompt": "Be brief.\nAlways.", "sampling.temperature": "0.3",
        "sampling.top_p": "0.9", "sampling.top_k": "40", "sampling.min_p": "0.05", "sampling.repetition_penalty": "1.1",
        "sampling.presence_penalty": "-0.5", "sampling.frequency_penalty": "0.25", "sampling.max_tokens": "300",
        "sampling.seed": "9007199254740993", "sampling.stop": "END\n\\n\\n", "context_length": "2048", "timeouts.chat": "33", "timeouts.completions": "44.5",
        "timeouts.embeddings": "55",
    }  # fmt: skip
    for path, text in texts.items():
        field(page, path).fill(text)
    expect(page.locator(".field", has=field(page, "system_prompt"))).to_contain_text("17 of 100,000")
    choices = {
        "thinking": "off", "tools": "hermes_json", "reasoning": "think", "kv_bits": "8 bits", "kv_group_size": "32", "priority": "low",
    }  # fmt: skip
    for path, choice in choices.items():
        field(page, path).select_option(label=choice)
    for path in ("auto_start", "pinned"):
        field(page, path).check()
    for name, value in (("depth", "7"), ("style", "dry"), ("exact", '"12"')):
        page.get_by_role("button", name="Add a variable").click()
        page.get_by_label("Variable", exact=True).last.fill(name)
        page.get_by_label("Value", exact=True).last.fill(value)
    page.get_by_role("button", name="Create").click()
    expect(card(page, "full")).to_be_visible()
    assert profiles(server)["full"] == {
        "name": "full", "model": "org-b", "description": "All of it.", "system_prompt": "Be brief.\nAlways.",
        "sampling": {
            "temperature": 0.3, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "presence_penalty": -0.5,
            "frequency_penalty": 0.25, "max_tokens": 300, "seed": 9007199254740993, "stop": ["END", "\n\n"],
        },
        "template": {"depth": 7, "style": "dry", "exact": "12"}, "thinking": False, "tools": "hermes_json", "reasoning": "think",
        "context_length": 2048, "kv_bits": 8, "kv_group_size": 32, "auto_start": True, "pinned": True, "priority": "low",
        "timeouts": {"chat": 33.0, "completions": 44.5, "embeddings": 55.0},
    }  # fmt: skip
    wait_for(lambda: len(server.workers()) >= 1, 30)  # loaded with the server, so now as well
    page.get_by_role("button", name="Edit full").click()
    field(page, "description").fill("")
    page.locator(".editor").get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved full.")).to_be_visible()
    changed = profiles(server)["full"]
    assert (changed["description"], changed["sampling"]["seed"], changed["template"]["exact"]) == (
        "",
        9007199254740993,
        "12",
    )


def test_an_edit_holds_for_the_next_request(server: Running, page: Page) -> None:
    assert server.chat("writer").json()["usage"]["completion_tokens"] == 2
    page.get_by_role("button", name="Edit writer").click()
    expect(page.locator(".editor").get_by_role("button", name="Save")).to_be_disabled()
    expect(field(page, "sampling.temperature")).to_have_attribute("placeholder", "1")
    expect(field(page, "timeouts.chat")).to_have_attribute("placeholder", "900")
    field(page, "sampling.max_tokens").fill("")
    field(page, "name").fill("author")
    page.keyboard.press("Control+Enter")
    expect(card(page, "author").get_by_role("list")).to_have_text("all as by default")
    assert server.chat("author").json()["usage"] == server.chat("org-a").json()["usage"]
    assert server.chat("writer").status_code == 404


def test_what_is_wrong_is_said_at_its_field(server: Running, page: Page) -> None:
    page.get_by_role("button", name="New preset").click()
    wrong = {"sampling.temperature": ("3", "From 0 to 2."), "sampling.top_p": ("0", "Above 0 to 1."), "sampling.top_k": ("1.5", "whole number"),
             "sampling.seed": ("x", "64 bits")}  # fmt: skip
    for path, (text, words) in wrong.items():
        box = field(page, path)
        if path == "sampling.seed":
            box.press_sequentially(text)
        else:
            box.fill(text)
        expect(page.locator(".field", has=box)).to_contain_text(words)
        expect(page.get_by_role("button", name="Create")).to_be_disabled()
        box.fill("")
    field(page, "name").fill("writer")
    field(page, "model").fill("org-b")
    page.get_by_role("button", name="Create").click()
    expect(page.locator(".field", has=field(page, "name"))).to_contain_text("There is a preset of the name")
    expect(field(page, "name")).to_be_focused()
    field(page, "name").fill("other")
    field(page, "model").fill("nobody")
    expect(page.locator(".field", has=field(page, "model"))).to_contain_text("not on this machine")
    page.get_by_role("button", name="Create").click()
    expect(page.locator(".field", has=field(page, "model"))).to_contain_text("There is no model of this name")
    assert list(profiles(server)) == ["writer"]


def test_unsaved_changes_are_not_lost_unasked(server: Running, page: Page) -> None:
    dialogs: list[str] = []

    def stay(dialog: Dialog) -> None:
        dialogs.append(dialog.type)
        dialog.dismiss()

    page.on("dialog", stay)
    page.get_by_role("button", name="Edit writer").click()
    field(page, "description").fill("Half written")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Keep editing").press("Enter")
    expect(field(page, "description")).to_have_value("Half written")
    page.get_by_role("link", name="Overview").click()
    wait_for(lambda: dialogs == ["beforeunload"])
    expect(field(page, "description")).to_have_value("Half written")
    server.client.put(
        "/api/profiles/writer", json={"model": "org-a", "description": "By others"}
    ).raise_for_status()
    expect(page.get_by_text("was changed elsewhere")).to_be_visible(timeout=10_000)
    field(page, "description").press("Escape")
    page.get_by_role("button", name="Discard", exact=True).click()
    expect(card(page, "writer")).to_contain_text("By others")
    assert profiles(server)["writer"]["description"] == "By others"


def test_a_link_of_another_page_begins_a_preset(server: Running, chrome: Browser) -> None:
    visit = Visit(chrome, f"{server.url}/presets?new=org-b", viewport={"width": 380, "height": 900})
    expect(field(visit.page, "model")).to_have_value("org-b", timeout=20_000)
    expect(visit.page.get_by_role("button", name="Create")).to_be_disabled()
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 380
    field(visit.page, "name").fill("made")
    visit.page.get_by_role("button", name="Create").click()
    expect(card(visit.page, "made")).to_be_visible()
    assert visit.page.url == f"{server.url}/presets"
    visit.close()
    assert visit.errors == []
    server.client.delete("/api/profiles/made").raise_for_status()


# --- aliases -----------------------------------------------------------------------------------------------


def rules(server: Running) -> list[tuple[str, str, str]]:
    found = server.client.get("/api/aliases").raise_for_status().json()["aliases"]
    return [(one["kind"], one["pattern"], one["target"]) for one in found]


def add(page: Page, kind: str, pattern: str, target: str) -> Locator:
    page.get_by_role("button", name="Add a rule").click()
    row = page.locator(".rule").last
    row.get_by_label("How it matches").select_option(kind)
    row.get_by_label("Name or part of it").fill(pattern)
    row.get_by_label("Model or preset that answers").fill(target)
    return row


def test_rules_are_written_moved_and_tried(server: Running, page: Page) -> None:
    save = page.locator(".aliases").get_by_role("button", name="Save")
    add(page, "prefix", "claude-", "org-b")
    add(page, "exact", "claude-3-haiku", "writer")
    add(page, "regex", "gpt-4o(-mini)?", "gone")
    expect(page.locator(".rule").last).to_contain_text("No model or preset has this name now.")
    save.click()
    expect(page.get_by_text("Saved. It holds for the next request.")).to_be_visible()
    assert [pattern for _, pattern, _ in rules(server)] == ["claude-", "claude-3-haiku", "gpt-4o(-mini)?"]
    page.get_by_label("Try a name").fill("claude-3-haiku")
    answer = page.locator(".answer")
    expect(answer).to_have_text("claude-3-haiku → rule 1 → model org-b")
    page.locator(".rule").nth(1).get_by_label("Name or part of it").press("Alt+ArrowUp")
    expect(page.locator(".rule").first.get_by_label("Name or part of it")).to_be_focused()
    page.locator(".rule").first.get_by_label("Priority").select_option("low")
    page.locator(".rule").nth(2).get_by_role("button", name="Move this rule up").click()
    page.locator(".rule").nth(1).get_by_role("button", name="Delete this rule").click()
    save.click()
    expect(answer).to_have_text("claude-3-haiku → rule 1 → preset writer → model org-a, low priority")
    expect(page.locator(".rule[data-hit]")).to_have_count(1)
    assert rules(server) == [("exact", "claude-3-haiku", "writer"), ("prefix", "claude-", "org-b")]
    assert server.chat("claude-3-haiku").json()["usage"]["completion_tokens"] == 2
    page.locator(".rule").first.get_by_role("switch", name="Rule is on").uncheck()
    save.click()
    expect(answer).to_have_text("claude-3-haiku → rule 2 → model org-b")
    page.get_by_label("Try a name").fill("nobody")
    expect(answer).to_contain_text("There is no model of this name")
    expect(answer).to_have_attribute("data-tone", "bad")


def test_a_rule_that_cannot_be_is_said_at_its_place(server: Running, page: Page) -> None:
    save = page.locator(".aliases").get_by_role("button", name="Save")
    add(page, "prefix", "good-", "org-a")
    add(page, "regex", "(a+)+", "org-a")
    save.click()
    expect(page.locator(".rule").nth(1)).to_contain_text("cannot be used")
    assert rules(server) == []
    page.locator(".rule").nth(1).get_by_label("Name or part of it").fill("")
    save.click()
    expect(page.locator(".rule").nth(1)).to_contain_text("Say which names it is for.")
    page.locator(".aliases").get_by_role("button", name="Discard changes").click()
    expect(page.get_by_text("There is no rule.")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(server: Running, chrome: Browser, scheme: Any) -> None:
    make(server, "a preset with rather a long name", "org-a", description="word " * 40)
    visit = Visit(
        chrome, f"{server.url}/presets", viewport={"width": 380, "height": 900}, color_scheme=scheme
    )
    expect(card(visit.page, "a preset with rather a long name")).to_be_visible(timeout=20_000)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 380
    colour = visit.page.locator(".preset").first.evaluate("node => getComputedStyle(node).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", colour)[:3])) < 60) is (scheme == "dark")
    visit.close()
    assert visit.errors == []
    server.client.delete("/api/profiles/a preset with rather a long name").raise_for_status()
