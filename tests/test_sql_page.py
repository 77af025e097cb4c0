"""The SQL page in a browser: written, run, seen as a table and as a chart, kept, shared, cancelled."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from .browser import Visit, browser
from .server import Running, running

BY_STATUS = (
    "SELECT status, count(*) AS n, 1.5 AS x FROM audit WHERE dialect = 'openai' GROUP BY ALL ORDER BY n"
)


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("sql-page")) as one:
        for _ in range(3):
            one.chat()
        one.chat("failing")
        yield one


@pytest.fixture(scope="module")
def visit(server: Running, chrome: Browser) -> Iterator[Visit]:
    one = Visit(chrome, f"{server.url}/sql", viewport={"width": 1440, "height": 1200})
    one.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield one
    one.close()
    assert one.errors == []
    assert [url for url in one.foreign if not url.startswith(server.url)] == []


@pytest.fixture
def page(visit: Visit) -> Page:
    return visit.page


def write(page: Page, sql: str, *, run: bool = True) -> None:
    field = page.get_by_role("textbox", name="SQL")
    field.fill(sql)
    if run:
        field.press("Control+Enter")


def cells(page: Page) -> list[list[str]]:
    rows = page.get_by_role("region", name="Result", exact=True).locator("tbody tr")
    return [row.locator("td").all_inner_texts() for row in rows.all()]


def test_an_example_is_one_click_away(page: Page) -> None:
    card = page.locator(".card", has_text="What came last")
    expect(card).to_be_visible(timeout=20_000)
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_disabled()
    card.click()
    expect(page.get_by_text(re.compile(r"^4 rows, "))).to_be_visible(timeout=20_000)
    expect(page.get_by_role("textbox", name="SQL")).to_have_value(re.compile("^SELECT timestamp"))


def test_a_query_is_run_by_keys_and_stands_in_the_address(
    page: Page, server: Running, chrome: Browser
) -> None:
    write(page, BY_STATUS)
    expect(page.get_by_text(re.compile(r"^2 rows, .* as of "))).to_be_visible()
    assert cells(page) == [["error", "1", "1.5"], ["success", "3", "1.5"]]
    assert parse_qs(urlsplit(page.url).query)["q"] == [BY_STATUS]
    other = Visit(chrome, page.url)
    field = other.page.get_by_role("textbox", name="SQL")
    expect(field).to_have_value(BY_STATUS, timeout=20_000)
    expect(other.page.get_by_text("press Run to ask it")).to_be_visible()  # a link asks nothing by itself
    other.close()


def test_a_table_is_sorted_and_taken_along(page: Page) -> None:
    page.get_by_role("columnheader", name="n bigint").get_by_role("button").click()
    assert [row[0] for row in cells(page)] == ["success", "error"]
    expect(page.get_by_role("columnheader", name="n bigint")).to_have_attribute("aria-sort", "descending")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    assert download.value.path().read_text().splitlines() == ["status,n,x", "success,3,1.5", "error,1,1.5"]
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "status\tn\tx\nsuccess\t3\t1.5\nerror\t1\t1.5"


def test_a_result_is_drawn_and_told_by_keys(page: Page) -> None:
    page.get_by_role("tab", name="Chart").click()
    picture = page.get_by_role("img", name=re.compile("^n by status, 2 points"))
    expect(picture).to_be_visible()
    assert page.locator(".picture rect").count() == 2
    picture.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".tip")).to_have_text("errorn: 1")
    page.get_by_label("Up", exact=True).select_option(label="x")
    expect(page.get_by_role("img", name=re.compile("^x by status"))).to_be_visible()
    page.get_by_label("Chart", exact=True).select_option("line")
    expect(page.get_by_text("Text across goes with bars.")).to_be_visible()
    page.get_by_role("tab", name="Table").click()


def test_a_mistake_is_shown_where_it_is(page: Page) -> None:
    write(page, "SELECT status,\n  modelused FROM audit")
    expect(page.get_by_role("alert").get_by_text("Candidate bindings")).to_be_visible()
    mark = page.locator(".wrong")
    expect(mark).to_be_visible()
    page.get_by_role("button", name="line 2, column 3").click()
    place = page.get_by_role("textbox", name="SQL").evaluate("node => node.selectionStart")
    assert place == len("SELECT status,\n  ")
    page.keyboard.type("x")
    expect(mark).to_be_hidden()
    write(page, "DELETE FROM audit")
    expect(page.get_by_role("alert").get_by_text("One SELECT")).to_be_visible()


def test_names_are_completed_and_put_in_by_a_click(page: Page) -> None:
    field = page.get_by_role("textbox", name="SQL")
    write(page, "", run=False)
    field.press_sequentially("SELECT model_us")
    expect(page.get_by_role("option", name="model_used")).to_be_visible()
    field.press("Tab")
    expect(field).to_have_value("SELECT model_used")
    field.press("Enter")
    field.press("Tab")
    page.get_by_role("searchbox", name="Find a column").fill("ttft")
    page.get_by_role("button", name=re.compile("^Insert ttft_ms")).first.click()
    expect(field).to_have_value("SELECT model_used\n  ttft_ms")
    page.get_by_role("searchbox", name="Find a column").fill("")
    expect(page.locator(".sql-editor pre .keyword")).to_have_text(["SELECT"])


def test_a_query_is_kept_renamed_deleted_and_had_back(page: Page, server: Running) -> None:
    write(page, "SELECT 42 AS answer", run=False)
    page.get_by_role("button", name="Save…").click()
    page.get_by_role("textbox", name="Name of the query").fill("the answer")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Saved as the answer.")).to_be_visible()
    kept = page.get_by_role("region", name="Kept queries")
    kept.get_by_role("button", name="Rename the answer").click()
    page.get_by_role("textbox", name="Name of the query").fill("answer")
    page.keyboard.press("Enter")
    kept.get_by_role("button", name="Delete answer").click()
    expect(kept.get_by_text("Deleted answer.")).to_be_visible()
    assert "SELECT 42" not in (server.folder / "queries.toml").read_text()
    kept.get_by_role("button", name="Undo").click()
    expect(kept.get_by_role("button", name="Rename answer")).to_be_visible()
    write(page, "", run=False)
    kept.get_by_role("button", name="answer", exact=True).click()
    expect(page.get_by_role("textbox", name="SQL")).to_have_value("SELECT 42 AS answer")


def test_no_answer_is_held_back(page: Page) -> None:
    for number in range(12):
        write(page, f"SELECT {number} + 100 AS answer")
        expect(
            page.locator(".result tbody td, .scroll tbody td").filter(has_text=str(number + 100))
        ).to_be_visible()


def test_a_query_that_runs_is_cancelled(page: Page) -> None:
    write(page, "SELECT pg_sleep(600)")
    expect(page.get_by_text(re.compile("^Running for 0.[3-9] s"))).to_be_visible()
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_text("Cancelled after")).to_be_visible()
    page.get_by_text("Past queries of this tab").click()
    past = page.locator(".past li")
    expect(past.first).to_contain_text("cancelled")
    past.filter(has_text="count(*)").first.click()
    expect(page.get_by_role("textbox", name="SQL")).to_have_value(BY_STATUS)


def test_it_fits_a_narrow_screen(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 900})
    write(page, "SELECT * FROM audit LIMIT 3")
    expect(page.get_by_text(re.compile(r"^3 rows, "))).to_be_visible()
    wide, room = json.loads(
        page.evaluate("JSON.stringify([document.documentElement.scrollWidth, innerWidth])")
    )
    assert wide <= room
