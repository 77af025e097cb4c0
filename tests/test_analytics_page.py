"""The page Audit on a real server in a real browser: filter by click, drag and keys, share it, undo it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from mlx_panel.audit.generate import generate

from .browser import Visit, browser
from .server import Running, running

ROWS, DAYS = 12_000, 5


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("audit")
    generate(folder / "audit.duckdb", ROWS, days=DAYS)
    with running(folder) as one:
        assert one.chat().status_code == 200
        yield one


@pytest.fixture
def visit(server: Running, chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Visit]:
    query = getattr(request, "param", "?range=7d")
    one = Visit(
        chromium, f"{server.url}/audit{query}", viewport={"width": 1440, "height": 1400}, color_scheme="dark"
    )
    one.url = server.url
    drawn(one.page)
    one.foreign = [place for place in one.foreign if not place.startswith(server.url)]
    yield one
    one.close()
    assert one.errors == []
    assert one.foreign == []


def card(page: Page, name: str) -> Locator:
    return page.locator(f".card[data-chart={name}]")


def drawn(page: Page) -> None:
    """Wait until the answers to the filter are there."""
    for name in ("requests", "latency", "tokens"):
        expect(card(page, name)).not_to_have_attribute("aria-busy", "true", timeout=20_000)


def asked(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def total(page: Page) -> str:
    return page.locator(".tile", has_text="Requests").locator("strong").inner_text()


def at(plot: Locator, x: float, y: float) -> tuple[float, float]:
    box = plot.bounding_box()
    assert box
    return box["x"] + box["width"] * x, box["y"] + box["height"] * y


def test_what_is_clicked_and_dragged_filters_everything_and_can_be_undone(
    server: Running, visit: Visit
) -> None:
    page, plot = visit.page, card(visit.page, "requests").locator(".plot")
    expect(page).to_have_title("Audit – mlx-panel")
    expect(plot.locator("canvas").first).to_be_visible()
    whole = total(page)
    rows = page.locator(".audit .place")
    expect(rows).to_contain_text(f"of {whole}")
    page.mouse.click(*at(plot, 0.5, 0.82))  # the lowest part of a stack is the model with most requests
    drawn(page)
    model = asked(page)["model"]
    assert len(model) == 1
    expect(page.get_by_role("button", name=f"Remove Model: {model[0]}")).to_be_visible()
    expect(page.locator(".audit .place")).not_to_contain_text(f"of {whole}")
    expect(page.locator(".audit tbody tr").first).to_contain_text(model[0])
    page.mouse.move(*at(plot, 0.3, 0.5))
    page.mouse.down()
    page.mouse.move(*at(plot, 0.6, 0.5), steps=4)
    expect(plot.locator(".band")).to_be_visible()
    page.mouse.up()
    drawn(page)
    narrowed = asked(page)
    assert narrowed["model"] == model
    assert narrowed["since"] < narrowed["until"]
    expect(page.get_by_text("Fixed time")).to_be_visible()
    smaller = total(page)
    # Whoever is given this address sees the same.
    other = Visit(page.context.browser, page.url, viewport={"width": 1440, "height": 1400})  # type: ignore[arg-type]
    drawn(other.page)
    expect(other.page.locator(".tile", has_text="Requests").locator("strong")).to_have_text(smaller)
    expect(other.page.locator(".filter-chip")).to_have_count(2)
    other.close()
    page.go_back()
    expect(page.locator(".filter-chip")).to_have_count(1)
    page.go_back()
    expect(page.locator(".filter-chip")).to_have_count(0)
    expect(page.locator(".tile", has_text="Requests").locator("strong")).to_have_text(whole)
    page.go_forward()
    page.get_by_role("button", name="Clear all").click()
    expect(page.locator(".filter-chip")).to_have_count(0)
    assert asked(page) == {"range": ["7d"]}


@pytest.mark.parametrize(
    "visit",
    ["?status=bogus&status=success&modle=x&latency.metric=itl&since=yesterday&requests.by=z"],
    indirect=True,
)
def test_a_wrong_address_is_said_and_the_keyboard_reads_and_filters(server: Running, visit: Visit) -> None:
    page = visit.page
    notice = page.get_by_role("alert").filter(has_text="left out")
    expect(notice).to_contain_text("There is no filter 'modle'")
    expect(notice).to_contain_text("since is a moment")
    expect(notice).to_contain_text("no choice by=z in a chart requests")
    expect(page.locator(".filter-chip")).to_have_text([re.compile("Status: success")])
    assert asked(page) == {"status": ["success"], "latency.metric": ["itl"]}
    expect(card(page, "latency").get_by_role("combobox", name="Time")).to_have_value("itl")
    plot, voice = card(page, "requests").locator(".plot"), card(page, "requests").locator(".hush")
    plot.focus()
    page.keyboard.press("End")
    expect(voice).to_contain_text(": ")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowUp"):
        page.keyboard.press(key)
    chosen = voice.inner_text().split(": ")[1].rsplit(" ", 1)[0]
    page.keyboard.press("Enter")
    drawn(page)
    assert asked(page)["model"] == [chosen]
    table = card(page, "requests").get_by_role("button", name="Table")
    table.click()
    expect(card(page, "requests").locator("tbody tr").first).to_contain_text(chosen)
    with page.expect_download() as download:
        card(page, "requests").locator("summary").click()
        card(page, "requests").get_by_role("button", name="CSV").click()
    assert Path(download.value.path()).read_text().startswith("time,group,requests")
    page.get_by_label("Which requests").select_option("all")
    page.locator(".fields summary", has_text="Error").click()
    page.get_by_role("checkbox", name="queue_full").check()
    expect(
        page.get_by_text("No requests yet").or_(page.get_by_text("No request in this time.")).first
    ).to_be_visible()
    expect(page.get_by_text("No request matches this filter.")).to_be_visible()


def test_rows_are_followed_and_the_theme_is_too(server: Running, visit: Visit) -> None:
    page = visit.page
    before = int(total(page).replace(",", ""))
    plot = card(page, "requests").locator(".plot canvas").first
    node = plot.element_handle()
    answer = server.chat("plain")
    row = page.locator(".audit tbody tr").first
    expect(row).to_contain_text(answer.headers["x-request-id"][:8], timeout=10_000)
    expect(page.locator(".tile", has_text="Requests").locator("strong")).to_have_text(
        f"{before + 1:,}",
        timeout=60_000,  # a busy machine looks less often
    )
    assert row.locator("a").get_attribute("href", timeout=1000)
    assert urlsplit(row.locator("a").evaluate("link => link.href")).path == "/request"
    assert plot.evaluate("(now, before) => now === before", node)  # drawn anew, not made anew
    page.get_by_role("button", name="Live").click()
    expect(page.get_by_role("button", name="Paused")).to_be_visible()
    dark = page.locator(".card h3").first.evaluate("node => getComputedStyle(node).color")
    page.get_by_role("button", name=re.compile("theme|dark|light", re.I)).first.click()
    expect(page.locator(".card h3").first).not_to_have_css("color", dark)
    row.locator("button.pick", has_text="plain").click()
    expect(page.locator(".filter-chip")).to_have_text([re.compile("Model: plain")])
    page.set_viewport_size({"width": 390, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
