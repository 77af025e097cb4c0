"""A request is sent and seen on the page: server, model, browser, all of them real."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from playwright.sync_api import Browser, expect

from .browser import Visit, browser
from .models import tiny_model
from .server import Running, free_port, running
from .test_doors import wait_for


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("page")
    tiny_model(folder / "models" / "tiny")
    with running(folder) as one:
        yield one


@pytest.fixture
def visit(server: Running, chromium: Browser) -> Iterator[Visit]:
    one = Visit(chromium, f"{server.url}/", viewport={"width": 1440, "height": 1200})
    yield one
    one.close()
    assert one.errors == []
    assert one.foreign == []


def test_a_request_appears_on_the_page(server: Running, visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="Show all").click(timeout=15_000)
    row = page.locator("tr", has_text="tiny").filter(has=page.locator("button"))
    expect(row.first).to_contain_text("Load", timeout=15_000)
    row.first.get_by_role("button", name=re.compile("Load")).click()
    expect(row.first).to_contain_text("Ready", timeout=30_000)
    assert len(server.workers()) == 1
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        reply: Any = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=5
        )
    request_id = reply._request_id
    audit = page.locator("tr", has_text=request_id[:8])
    expect(audit.first).to_contain_text("success", timeout=5_000)
    expect(audit.first).to_contain_text("/v1/chat/completions")
    row.first.get_by_role("button", name=re.compile("Unload")).click()
    expect(row.first).to_contain_text("Available", timeout=15_000, ignore_case=True)
    wait_for(lambda: server.workers() == [])


def test_a_timeout_set_on_the_page_holds_for_the_next_request(server: Running, visit: Visit) -> None:
    page = visit.page
    page.get_by_role("tab", name="Timeouts").click()
    field = page.get_by_label(re.compile("Chat completions")).first
    field.fill("1", timeout=15_000)
    page.get_by_role("button", name=re.compile("Save")).click()
    live = server.folder / "settings.live.json"
    wait_for(lambda: live.exists() and json.loads(live.read_text())["timeout_chat_seconds"] == 1)
    assert server.chat("slow").status_code == 408
    page.get_by_role("button", name=re.compile("Reset")).click()
    wait_for(lambda: json.loads(live.read_text()) == {})
    assert server.chat("slow", max_tokens=60).status_code == 200


def test_nothing_is_sent_to_a_hidden_page(server: Running, visit: Visit) -> None:
    page = visit.page
    expect(page.get_by_text("Serving").first).to_be_visible(timeout=15_000)
    frames: list[int] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda _: frames.append(1)))
    page.reload()
    expect(page.get_by_text("Serving").first).to_be_visible(timeout=15_000)
    page.evaluate(
        "Object.defineProperty(document, 'visibilityState', {value: 'hidden', configurable: true}); Object.defineProperty(document, 'hidden', {value: true, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.wait_for_timeout(1000)
    before = len(frames)
    page.wait_for_timeout(3000)
    assert len(frames) - before <= 1


def test_the_page_has_a_name_and_an_icon(server: Running, visit: Visit) -> None:
    expect(visit.page).to_have_title("mlx-panel", timeout=15_000)
    icons = visit.page.locator("link[rel~='icon'], link[rel='apple-touch-icon'], link[rel='manifest']")
    addresses = icons.evaluate_all("links => links.map(link => link.href)")
    assert addresses
    assert {server.client.get(address).status_code for address in [*addresses, "/favicon.ico"]} == {200}


HIDE = "value => { Object.defineProperty(document, 'hidden', {value, configurable: true}); document.dispatchEvent(new Event('visibilitychange')) }"
# What a browser, and Bokeh for a message just under way, say by themselves of a server that is not there.
AWAY = ("net::ERR_CONNECTION_", "not connected so cannot send")


@pytest.mark.parametrize("hidden", [False, True])
def test_a_page_comes_back_with_its_server(tmp_path: Path, chromium: Browser, hidden: bool) -> None:
    port = free_port()
    asked: list[str] = []
    with running(tmp_path, port=port) as server:
        visit = Visit(chromium, f"{server.url}/", viewport={"width": 1440, "height": 1200})
        page, chip = visit.page, visit.page.locator(".status .chip")
        served = page.locator(".card", has_text="Served")
        expect(chip).to_have_text("Idle", timeout=30_000)
        assert server.chat().status_code == 200
        expect(served).to_contain_text("1 request", timeout=15_000)
        page.evaluate(HIDE, hidden)
        page.on("request", lambda request: asked.append(request.url))
    expect(chip).to_have_text("No connection", timeout=15_000)
    expect(served).to_have_css("opacity", "0.55")
    with running(tmp_path, port=port) as server:
        if hidden:
            page.wait_for_timeout(3000)
            assert asked == []
            page.evaluate(HIDE, False)
        expect(chip).to_have_text("Idle", timeout=30_000)
        assert server.chat().status_code == 200
        expect(served).to_contain_text("1 request", timeout=15_000)
        expect(served).to_have_css("opacity", "1")
        visit.close()
        assert "arning" not in server.output()
    assert [error for error in visit.errors if not any(words in error for words in AWAY)] == []
    assert visit.foreign == []


def test_a_slow_server_is_not_a_lost_one(server: Running, visit: Visit) -> None:
    page, old = visit.page, visit.page.locator(".banner", has_text="No news from the server")
    expect(page.locator(".card", has_text="Speed")).to_contain_text("tok/s", timeout=15_000)
    expect(page.locator(".models tbody tr").first).to_be_visible(timeout=15_000)
    page.evaluate("window.same = true")
    server.process.send_signal(signal.SIGSTOP)
    try:
        expect(old).to_be_visible(timeout=15_000)
    finally:
        server.process.send_signal(signal.SIGCONT)
    expect(old).to_be_hidden(timeout=15_000)
    assert page.evaluate("window.same")


def test_a_page_whose_server_is_gone_does_not_break_the_next(server: Running, chromium: Browser) -> None:
    """Pages that are closed while numbers flow leave no trace in the server's log."""
    for _ in range(3):
        one = Visit(chromium, f"{server.url}/")
        expect(one.page.get_by_text("Serving").first).to_be_visible(timeout=15_000)
        one.close()
    assert "Traceback" not in server.output()
