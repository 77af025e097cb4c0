"""The pool on a page: what is in memory, what would fit, and every control's effect on a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from .browser import Visit, browser
from .recorded import GB
from .server import Running, running, scripted
from .test_doors import wait_for

HELD = 300_000_000


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Room for two of three models, and one that is larger than all the room."""
    folder = tmp_path_factory.mktemp("pool")
    for letter in "abc":
        scripted(folder, f"org-{letter}", weights_bytes=HELD, load_seconds=1.2, step_seconds=0.05, repeat=20)
    scripted(folder, "org-huge", weights_bytes=5 * GB)
    scripted(folder, "org-broken", fail_load="its weights are missing")
    with running(folder, memory_limit="900MB") as one:
        yield one


@pytest.fixture
def page(server: Running, chrome: Browser) -> Iterator[Page]:
    one = Visit(chrome, f"{server.url}/", viewport={"width": 1440, "height": 1400})
    show = one.page.get_by_role("button", name="Show all")
    expect(show).to_be_visible(timeout=20_000)
    show.click()
    yield one.page
    one.close()
    assert one.errors == []
    assert one.foreign == []
    server.client.delete("/api/settings/pool").raise_for_status()
    for model in ("org-a", "org-b", "org-c"):
        server.client.post(f"/v1/admin/models/unload/{model}").raise_for_status()


def state(server: Running, model: str) -> dict[str, Any]:
    found = server.client.get("/v1/admin/models/status").raise_for_status().json()["models"]
    return next(one for one in found if one["id"] == model)


def option(server: Running, name: str) -> Any:
    found = server.client.get("/api/settings/pool").raise_for_status().json()["options"]
    return next(one["value"] for one in found if one["name"] == name)


def row(page: Page, model: str) -> Locator:
    return page.locator(".models tbody", has=page.locator(".id", has_text=re.compile(f"^{model}$")))


def load(server: Running, *models: str) -> None:
    for model in models:
        server.client.post(f"/v1/admin/models/load/{model}").raise_for_status()


def test_a_load_shows_how_far_it_is_and_then_its_share_of_the_memory(server: Running, page: Page) -> None:
    one = row(page, "org-a")
    expect(one).to_contain_text("fits")
    expect(one).to_contain_text("would take")
    one.get_by_role("button", name="Load org-a").click()
    expect(page.get_by_role("progressbar", name="Loading org-a")).to_be_visible()
    expect(one.locator(".chip")).to_have_text("Ready", timeout=15_000)
    expect(page.get_by_role("progressbar", name="Loading org-a")).to_have_count(0)
    expect(one).to_contain_text("unloads in")
    assert state(server, "org-a")["state"] == "ready"
    segment = page.locator(".seg[data-kind='model']")
    expect(segment).to_have_count(1)
    segment.focus()
    box = page.locator(".detail")
    expect(box).to_contain_text("Weights")
    expect(box).to_contain_text("300 MB")
    expect(box).to_contain_text("It counts for")
    segment.press("Escape")
    expect(box).to_be_hidden()
    one.get_by_role("button", name="Unload org-a").click()
    expect(segment).to_have_count(0, timeout=15_000)
    assert state(server, "org-a")["memory"] == 0


def test_a_load_that_makes_others_leave_is_announced_and_asked_for(server: Running, page: Page) -> None:
    load(server, "org-a", "org-b")
    one = row(page, "org-c")
    expect(one).to_contain_text("fits after unloading org-a", timeout=10_000)
    one.get_by_role("button", name="Load org-c").press("Enter")
    expect(one.locator(".banner")).to_contain_text("Loading it unloads org-a")
    one.get_by_role("button", name="Cancel").click()
    expect(one.locator(".banner")).to_have_count(0)
    assert state(server, "org-c")["state"] == "available"
    one.get_by_role("button", name="Load org-c").click()
    one.get_by_role("button", name="Unload and load").press("Enter")
    expect(one.locator(".chip")).to_have_text("Ready", timeout=20_000)
    assert [state(server, model)["state"] for model in ("org-a", "org-b")] == ["available", "ready"]
    huge = row(page, "org-huge")
    expect(huge).to_contain_text("too large: needs 5.1 GB of 900 MB")
    expect(huge.get_by_role("button", name="Load org-huge")).to_be_disabled()


def test_a_load_is_cancelled(server: Running, page: Page) -> None:
    one = row(page, "org-a")
    one.get_by_role("button", name="Load org-a").click()
    page.get_by_role("button", name="Cancel loading org-a").click()
    expect(one.locator(".chip")).to_have_text("Available", timeout=15_000)
    expect(one.get_by_role("button", name="Load org-a")).to_be_enabled()
    expect(page.get_by_role("alert")).to_have_count(0)
    assert state(server, "org-a")["memory"] == 0


def test_a_preset_that_makes_others_leave_asks_first(server: Running, page: Page) -> None:
    server.client.post("/api/profiles", json={"name": "third", "model": "org-c"}).raise_for_status()
    load(server, "org-a", "org-b")
    page.goto(f"{server.url}/presets")
    card = page.get_by_role("article", name="third")
    card.get_by_role("button", name="Start third").click(timeout=20_000)
    expect(card.locator(".banner")).to_contain_text("Starting it unloads org-a.")
    card.get_by_role("button", name="Unload and start").press("Enter")
    expect(card.locator(".chip")).to_have_text("Running", timeout=20_000)
    assert state(server, "org-a")["state"] == "available"
    server.client.delete("/api/profiles/third").raise_for_status()


def test_a_pin_keeps_a_model_and_is_taken_back(server: Running, page: Page) -> None:
    load(server, "org-a", "org-b")
    pin = row(page, "org-a").get_by_role("button", name="Pin org-a")
    expect(pin).to_have_attribute("aria-pressed", "false")
    pin.focus()
    pin.press("Enter")
    expect(pin).to_have_attribute("aria-pressed", "true", timeout=5_000)
    assert option(server, "pins") == ["org-a"]
    expect(row(page, "org-c")).to_contain_text("fits after unloading org-b", timeout=5_000)
    load(server, "org-c")
    assert [state(server, model)["state"] for model in ("org-a", "org-b")] == ["ready", "available"]
    pin.click()
    expect(pin).to_have_attribute("aria-pressed", "false", timeout=5_000)
    assert option(server, "pins") == []


def test_a_failed_load_shows_why(server: Running, page: Page) -> None:
    one = row(page, "org-broken")
    one.get_by_role("button", name="Load org-broken").click()
    expect(one.locator(".reason")).to_contain_text("its weights are missing", timeout=15_000)
    expect(page.get_by_role("alert")).to_contain_text("its weights are missing")
    expect(one.get_by_role("button", name="Try again org-broken")).to_be_enabled()


def settings(page: Page) -> Locator:
    page.get_by_role("tab", name="Pool").click()
    form = page.locator(".pool-settings")
    expect(form.get_by_label("Memory for all models", exact=True)).to_be_visible(timeout=10_000)
    return form


def test_every_setting_of_the_pool_is_set_on_the_page(server: Running, page: Page) -> None:
    form = settings(page)
    form.get_by_label("Memory for all models", exact=True).select_option("GB")
    form.get_by_label("How much").fill("1.5")
    numbers = {
        "Models at once": ("max_models", 2), "Context to have room for": ("plan_context", 2048),
        "Answers to have room for": ("plan_batch", 3), "Unload when idle for": ("idle_ttl_seconds", 120),
        "Longest time a load may take": ("load_timeout_seconds", 90), "Wait for memory that others use": ("load_wait_seconds", 7),
        "Look at processes every": ("health_interval_seconds", 12.5), "Not responding after": ("heartbeat_seconds", 9),
        "Restart without progress after": ("watchdog_seconds", 77),
    }  # fmt: skip
    for label, (_, value) in numbers.items():
        form.get_by_role("spinbutton", name=label, exact=True).fill(str(value))
    form.get_by_label("Who leaves first", exact=True).select_option(label="least often used (lfu)")
    spare = form.get_by_role("switch", name="Spare process")
    before = option(server, "warm_spare")
    spare.click()
    for label, name in (("Pinned models", "org-b"), ("Loaded at start", "org-c")):
        field = form.get_by_role("combobox", name=label, exact=True)
        field.fill(name)
        field.press("Enter")
    own = form.locator(".field", has_text="model_ttls")
    own.get_by_role("combobox").fill("org-a")
    own.get_by_role("button", name="Add to").click()
    own.get_by_label("Seconds until org-a is unloaded").fill("45")
    form.get_by_role("button", name="Save").click()
    expect(form.get_by_text("Saved. It holds at once.")).to_be_visible()
    for name, value in numbers.values():
        assert option(server, name) == value
    assert option(server, "memory_limit") == "1.5GB"
    assert option(server, "eviction") == "lfu"
    assert option(server, "warm_spare") is not before
    assert option(server, "pins") == ["org-b"]
    assert option(server, "models") == ["org-c"]
    assert option(server, "model_ttls") == {"org-a": 45}
    expect(form).to_contain_text("Models may take 1.5 GB together now", timeout=5_000)
    form.get_by_role("button", name="Remove org-b from Pinned models").click()
    form.get_by_role("button", name="Save").click()
    wait_for(lambda: option(server, "pins") == [])
    form.get_by_role("button", name="Reset Models at once").click()
    wait_for(lambda: option(server, "max_models") == 0)
    form.get_by_role("button", name="Reset to configured").click()
    wait_for(lambda: option(server, "memory_limit") == "900MB")
    expect(form.get_by_label("How much")).to_have_value("900")
    expect(form.get_by_role("button", name="Save")).to_be_disabled()


def test_a_wrong_setting_is_said_at_its_field(server: Running, page: Page) -> None:
    form = settings(page)
    form.get_by_label("Memory for all models", exact=True).select_option("%")
    form.get_by_label("How much").fill("130")
    expect(form.locator(".field", has_text="memory_limit")).to_contain_text("At most 100 %.")
    expect(form.get_by_role("button", name="Save")).to_be_disabled()
    form.get_by_label("How much").fill("60")
    form.get_by_role("spinbutton", name="Models at once").fill("-1")
    expect(form.locator(".field", has_text="max_models")).to_contain_text("From 0 to 1,000.")
    form.get_by_role("button", name="Discard changes").click()
    expect(form.get_by_label("Memory for all models", exact=True)).to_have_value("MB")
    assert option(server, "memory_limit") == "900MB"


def test_a_phone_shows_all_of_it(server: Running, chrome: Browser) -> None:
    load(server, "org-a")
    one = Visit(chrome, f"{server.url}/", viewport={"width": 380, "height": 900}, color_scheme="dark")
    expect(row(one.page, "org-a").locator(".chip")).to_have_text("Ready", timeout=20_000)
    one.page.locator(".seg[data-kind='model']").first.click()
    box = one.page.locator(".detail")
    expect(box).to_contain_text("Weights")
    edges = box.evaluate("node => [node.getBoundingClientRect().left, node.getBoundingClientRect().right]")
    assert 0 <= edges[0] <= edges[1] <= 380
    one.page.get_by_role("tab", name="Pool").click()
    expect(one.page.get_by_label("Memory for all models", exact=True)).to_be_visible(timeout=10_000)
    assert one.page.evaluate("document.documentElement.scrollWidth") <= 380
    one.close()
    assert one.errors == []
