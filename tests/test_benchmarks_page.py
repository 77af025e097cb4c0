"""The benchmarks page on a real server in a real browser: one sweep, seen from two tabs, compared with another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from mlx_panel.bench import save

from .browser import Visit, browser
from .recorded import result
from .server import Running, running, scripted


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("page")
    scripted(folder, "quick", text="one two three four", repeat=400, step_seconds=0.02)
    with running(folder) as one:
        yield one


@pytest.fixture
def visit(server: Running, chromium: Browser) -> Iterator[Visit]:
    shutil.rmtree(server.folder / "benchmarks", ignore_errors=True)
    one = visitor(server, chromium)
    yield one
    one.close()
    assert one.errors == []
    assert one.foreign == []


def visitor(server: Running, chromium: Browser) -> Visit:
    one = Visit(chromium, f"{server.url}/benchmarks", viewport={"width": 1440, "height": 1400})
    one.url = server.url
    expect(one.page.get_by_role("button", name="Start", exact=True)).to_be_visible(timeout=20_000)
    one.foreign.clear()
    return one


def order(page: Page, *levels: str, tokens: str = "16") -> None:
    page.get_by_label("Model", exact=True).select_option("quick")
    for level in ("1", "4", "16", *levels):
        page.get_by_role("button", name=level, exact=True).click()
    page.get_by_label("Answer tokens").fill(tokens)
    page.get_by_role("button", name="Start", exact=True).click()


def drawn(page: Page) -> int:
    """How many figures have a canvas with something on it."""
    script = "all => all.filter(one => one.getBoundingClientRect().height > 200).length"
    return page.locator(".bk-Figure").evaluate_all(script)


def test_a_sweep_is_seen_from_two_tabs_and_ends_in_curves(
    server: Running, visit: Visit, chromium: Browser
) -> None:
    page = visit.page
    expect(page).to_have_title("Benchmarks – mlx-panel")
    order(page, "1", "2")
    expect(page.get_by_text("Level 1 of 2: 1 × 128→16 greedy")).to_be_visible(timeout=20_000)
    other = visitor(server, chromium)
    expect(other.page.locator(".job")).to_contain_text("Level", timeout=20_000)
    expect(other.page.get_by_role("button", name="Start", exact=True)).to_be_disabled()
    done = "2 of 2 levels measured, and stored below."
    expect(other.page.get_by_text(done)).to_be_visible(timeout=40_000)
    other.close()
    assert other.errors == []
    expect(page.get_by_text(done)).to_be_visible()
    row = page.locator(".stored tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("128→16 greedy 1, 2 callers")
    expect(page.locator(".bk-Figure")).to_have_count(3)
    assert drawn(page) == 3
    expect(page.locator(".results tbody tr")).to_have_count(2)
    with page.expect_download() as download:
        row.get_by_role("button", name="Download").click()
    kept = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert [len(run["rows"]) for run in kept["runs"]] == [8, 8]


def test_a_sweep_goes_on_without_its_page_and_is_cancelled_from_another(
    server: Running, visit: Visit, chromium: Browser
) -> None:
    first = visitor(server, chromium)
    order(first.page, "8", tokens="1000")
    expect(first.page.get_by_text("Level 1 of 1")).to_be_visible(timeout=20_000)
    first.close()
    job = visit.page.locator(".job")
    expect(job).to_contain_text("8 × 128→1000 greedy", timeout=20_000)
    job.get_by_role("button", name="Cancel").click()
    expect(job).to_contain_text("0 of 1 levels measured; nothing was stored.", timeout=20_000)
    expect(visit.page.get_by_role("button", name="Start one now")).to_be_enabled()


def test_two_results_are_compared_and_one_is_deleted(server: Running, visit: Visit) -> None:
    page, folder = visit.page, server.folder / "benchmarks"
    for name, speed in (("20261120T120000Z-slow", 50.0), ("20261121T120000Z-fast", 100.0)):
        save(result(name, speed), folder)
    page.reload()
    rows = page.locator(".stored tbody tr")
    expect(rows).to_have_count(2, timeout=20_000)
    expect(rows.locator(".pick[aria-pressed=true]")).to_have_count(1)
    chosen = rows.locator(".pick[aria-pressed=true]")
    rows.locator(".pick[aria-pressed=false]").press("Enter")
    expect(chosen).to_have_count(2)
    expect(page.get_by_role("heading", name="A compared with B")).to_be_visible()
    before = page.locator(".ratios tbody tr").first.inner_text()
    page.get_by_role("button", name="Swap A and B").click()
    expect(page.locator(".ratios tbody tr").first).not_to_have_text(before)
    assert {word for word in ("2.00 ×", "0.50 ×") if word in before} != set()
    expect(page.locator(".bk-Figure")).to_have_count(3)
    assert drawn(page) == 3
    rows.first.get_by_role("button", name="Delete").click()
    rows.first.get_by_role("button", name="Really delete").click()
    expect(rows).to_have_count(1)
    assert len(list(folder.iterdir())) == 1
    expect(page.get_by_role("heading", name="Curves")).to_be_visible()
