"""The page of the models on a real server with a fake hub: found, fetched, checked, converted, deleted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from .browser import Visit, browser
from .fake_hub import HubProcess, fake_hub, serving
from .models import tiny_model
from .server import Running
from .test_doors import wait_for

README = "# Tiny\n\n<script>window.pwned = 1</script> <img src=x onerror='window.pwned = 2'> is **small**.\n"
SLOW = 60_000.0  # bytes per second; the model has some 300 kB


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    tiny = tiny_model(folder / "stranger" / "tiny")
    (tiny / "README.md").write_text(README, encoding="utf-8")
    with fake_hub("crowd/other-4bit:2000000", folder=folder) as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, hub: HubProcess) -> Iterator[Running]:
    with serving(hub, tmp_path_factory.mktemp("page")) as one:
        yield one


@pytest.fixture
def visit(server: Running, chromium: Browser) -> Iterator[Visit]:
    one = visitor(server, chromium)
    yield one
    assert one.page.evaluate("window.pwned ?? null") is None
    one.close()
    assert one.errors == []
    assert one.foreign == []


def visitor(server: Running, chromium: Browser) -> Visit:
    one = Visit(chromium, f"{server.url}/models", viewport={"width": 1440, "height": 1400})
    one.url = server.url
    expect(one.page.get_by_role("tab", name=re.compile("On this machine"))).to_be_visible(timeout=20_000)
    expect(row(one.page, "plain")).to_be_visible(timeout=60_000)
    one.foreign.clear()
    return one


def row(page: Page, name: str, view: str = "local") -> Locator:
    return page.locator(f".{view} tbody tr").filter(has=page.get_by_role("button", name=name, exact=True))


def menu(page: Page, model: str, item: str) -> None:
    page.get_by_role("button", name=f"More about {model}", exact=True).click()
    page.get_by_role("menuitem", name=item).click()


def test_a_model_is_found_fetched_checked_converted_and_deleted(
    server: Running, hub: HubProcess, visit: Visit, chromium: Browser
) -> None:
    page = visit.page
    expect(page).to_have_title("Models – mlx-panel")
    page.get_by_role("tab", name="On the hub").click()
    page.get_by_label("Search the hub").fill("tiny")
    page.get_by_label("Search the hub").press("Enter")
    expect(page.locator(".hub tbody tr")).to_have_count(1, timeout=15_000)
    page.get_by_role("button", name="stranger/tiny", exact=True).click()
    readme = page.locator(".readme")
    expect(readme).to_contain_text("<script>window.pwned = 1</script>", timeout=15_000)
    assert readme.locator("script, img").count() == 0
    page.keyboard.press("Escape")

    # It is fetched slowly, halted, and goes on with the page closed.
    hub.set(bytes_per_second=SLOW)
    page.get_by_role("button", name="Download stranger/tiny").click()
    box = page.get_by_role("dialog", name="Download stranger/tiny?")
    expect(box).to_contain_text(re.compile(r"kB in \d+ files\."), timeout=15_000)
    box.get_by_role("button", name="Download").click()
    job = page.locator(".download", has_text="stranger/tiny")
    expect(job).to_contain_text("Downloading", timeout=15_000)
    job.get_by_role("button", name="Pause").click()
    expect(job).to_contain_text("Paused", timeout=15_000)
    expect(row(page, "stranger/tiny", "hub").locator(".fetch .under")).to_contain_text("Paused")
    other = visitor(server, chromium)
    expect(other.page.locator(".download")).to_contain_text("Paused", timeout=15_000)
    other.page.locator(".download").get_by_role("button", name="Resume").click()
    expect(job).to_contain_text("Downloading", timeout=15_000)
    other.close()
    assert other.errors == []
    hub.set(bytes_per_second=0)
    expect(row(page, "stranger/tiny", "hub")).to_contain_text("On this machine", timeout=40_000)

    # It is checked, and another is made of it.
    page.get_by_role("tab", name=re.compile("On this machine")).click()
    expect(row(page, "stranger/tiny")).to_contain_text("Available", timeout=15_000)
    menu(page, "stranger/tiny", "Verify")
    check = page.locator(".task", has_text="Verify stranger/tiny")
    expect(check).to_contain_text("Verified", timeout=30_000)
    page.get_by_role("button", name="stranger/tiny", exact=True).click()
    expect(page.get_by_role("dialog", name="stranger/tiny")).to_contain_text("just now", timeout=15_000)
    page.keyboard.press("Escape")
    menu(page, "stranger/tiny", "Convert…")
    page.get_by_label("Quantise to").select_option("bits:8")
    page.get_by_label("Group size").select_option("32")
    page.get_by_label("Name").fill("tiny-8")
    page.get_by_role("button", name="Convert", exact=True).click()
    expect(page.locator(".task", has_text="Convert stranger/tiny")).to_contain_text(
        "There is a new model: tiny-8", timeout=90_000
    )
    expect(row(page, "tiny-8")).to_contain_text("8-bit (group 32)", timeout=15_000)

    # In memory it cannot be deleted; unloaded it can, and its files are gone.
    row(page, "tiny-8").get_by_role("button", name="Load").click()
    expect(row(page, "tiny-8")).to_contain_text("In memory", timeout=60_000)
    menu(page, "tiny-8", "Delete…")
    expect(page.get_by_role("dialog")).to_contain_text("It is in memory. Unload it first.")
    page.keyboard.press("Escape")
    row(page, "tiny-8").get_by_role("button", name="Unload").click()
    expect(row(page, "tiny-8")).to_contain_text("Available", timeout=30_000)
    for name in ("tiny-8", "stranger/tiny"):
        menu(page, name, "Delete…")
        page.get_by_role("button", name=re.compile("^Delete [0-9]")).click()
        expect(page.get_by_text(f"{name} was deleted:")).to_be_visible(timeout=15_000)
        expect(row(page, name)).to_have_count(0)
    assert not (server.folder / "models" / "tiny-8").exists()
    wait_for(lambda: not list((server.folder / "hub").glob("models--stranger--tiny/snapshots/*")))


def test_what_the_hub_refuses_is_said_and_offline_shows_what_is_here(
    server: Running, hub: HubProcess, visit: Visit
) -> None:
    page = visit.page
    page.get_by_role("tab", name="On the hub").click()
    expect(row(page, "crowd/other-4bit", "hub")).to_be_visible(timeout=15_000)
    card = page.get_by_role("region", name="Hugging Face")
    card.get_by_label("Access token").fill("hf_wrong")
    card.get_by_role("button", name="Save").click()
    card.get_by_role("button", name="Test").click()
    expect(card.get_by_role("alert")).to_be_visible(timeout=15_000)
    assert "hf_wrong" not in page.content()
    card.get_by_role("button", name="Forget").click()
    expect(card).to_contain_text("No token", timeout=15_000)
    card.get_by_label("Offline").check()
    expect(page.locator(".banner")).to_contain_text("offline", timeout=15_000)
    expect(row(page, "crowd/other-4bit", "hub")).to_have_count(0)
    card.get_by_label("Offline").uncheck()
    expect(row(page, "crowd/other-4bit", "hub")).to_be_visible(timeout=15_000)


def test_a_gguf_file_that_is_none_is_refused_in_the_form(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    (tmp_path / "no.gguf").write_bytes(b"nothing")
    page.get_by_role("button", name="Import GGUF…").click()
    page.get_by_label("File on the server's machine").fill(str(tmp_path / "no.gguf"))
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text(
        "cannot be imported", timeout=15_000
    )
