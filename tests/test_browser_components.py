"""The dashboard in a real browser, over a recorded source: what a person sees and presses."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec
import panel as pn
import pytest
from playwright.sync_api import Browser, Page, expect

from mlx_panel.dashboard import pages, resources
from mlx_panel.dashboard.overview import Overview
from mlx_panel.dashboard.recorded import Recorded
from mlx_panel.errors import ModelLoadFailed
from mlx_panel.job import Order
from mlx_panel.snapshot import ModelState

from .browser import Visit, browser, wait_until_open
from .recorded import MODELS, record, recorded, snapshot


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture
def source() -> Recorded:
    return recorded(rows=60, delay=0.3)


@pytest.fixture
def url(source: Recorded) -> Iterator[str]:
    undo = resources.remember()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    apps = {
        "/": lambda: pages.build(source),
        "/benchmarks": lambda: pages.build(source, "/benchmarks"),
        "/alone": lambda: Overview(source),
    }
    server = pn.serve(
        apps, port=port, address="127.0.0.1", websocket_origin=f"127.0.0.1:{port}", show=False, threaded=True
    )
    try:
        wait_until_open(port)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.stop()
        server.join(10)
        undo()


@pytest.fixture
def visit(chrome: Browser, url: str) -> Iterator[Visit]:
    """The page, ready; afterwards: nothing failed in the console and nothing was fetched from anywhere else."""
    visit = Visit(chrome, url, viewport={"width": 1440, "height": 900})
    expect(visit.page.get_by_text("Serving")).to_be_visible(timeout=20_000)
    yield visit
    visit.close()
    assert visit.errors == []
    assert visit.foreign == []


def background(page: Page, what: str = ".card") -> list[int]:
    text = page.locator(what).first.evaluate("node => getComputedStyle(node).backgroundColor")
    return [int(part) for part in text[text.index("(") + 1 : -1].split(",")[:3]]


def test_numbers_move(visit: Visit, source: Recorded) -> None:
    page = visit.page
    expect(page.locator(".card", has_text="Speed")).to_contain_text("170 tok/s")
    before = page.locator(".card .line").first.get_attribute("d") or ""
    assert before.count("L") > 100  # two minutes of history
    source.put(
        snapshot(time=source.snapshot.time + 1, tokens_per_second=42.4, ttft_ms=3400.0, requests_total=1204)
    )
    expect(page.locator(".card", has_text="Speed")).to_contain_text("42 tok/s")
    expect(page.locator(".card", has_text="First token")).to_contain_text("3.4 s")
    expect(page.locator(".card", has_text="Served")).to_contain_text("1,204 requests")
    assert page.locator(".card .line").first.get_attribute("d") != before


def test_load_and_unload(visit: Visit, source: Recorded) -> None:
    row = visit.page.locator("tr", has_text="org/small")
    row.get_by_role("button", name="Load").click()
    expect(row.get_by_role("button", name="Loading")).to_be_disabled()
    expect(row.locator(".chip")).to_have_text("Loading")
    expect(row.locator(".chip")).to_have_text("Ready")
    row.get_by_role("button", name="Unload").click()
    expect(row.locator(".chip")).to_have_text("Available")
    assert [call for call in source.calls if call[0] != "audit"] == [
        ("load", "org/small"),
        ("unload", "org/small"),
    ]


def test_failed_load_says_why(visit: Visit, source: Recorded) -> None:
    source.faults["org/small"] = ModelLoadFailed("It needs 75 GB; 11 GB are free.")
    visit.page.get_by_role("button", name="Load org/small").click()
    alert = visit.page.get_by_role("alert").filter(has_text="It needs 75 GB")
    expect(alert).to_be_visible()
    alert.get_by_role("button", name="Dismiss").click()
    expect(alert).to_be_hidden()


def test_drain_is_announced(visit: Visit, source: Recorded) -> None:
    source.put(snapshot(draining=True))
    expect(visit.page.locator(".banner", has_text="Shutting down")).to_be_visible()
    expect(visit.page.locator(".chip", has_text="Shutting down")).to_be_visible()


def test_timeouts(visit: Visit, source: Recorded) -> None:
    page = visit.page
    page.get_by_role("tab", name="Timeouts").click()
    chat, save = page.get_by_label("Chat"), page.get_by_role("button", name="Save")
    expect(chat).to_have_value("900")
    expect(save).to_be_disabled()
    chat.fill("0")
    expect(page.locator(".field", has_text="Chat")).to_contain_text("At least 1 s.")
    expect(save).to_be_disabled()
    chat.fill("5400")
    expect(page.locator(".field", has_text="Chat")).to_contain_text("1 h 30 min")
    chat.press("Enter")
    expect(page.get_by_text("Saved. The next request uses these limits.")).to_be_visible()
    expect(save).to_be_disabled()
    assert source.limits[0].value == 5400
    page.get_by_role("button", name="Reset").click()
    expect(chat).to_have_value("900")


def test_audit(visit: Visit, source: Recorded) -> None:
    page = visit.page
    expect(page.locator(".place")).to_have_text("1–25 of 60")
    expect(page.locator(".audit tbody tr").first).to_contain_text("req-0000005")
    source.record(record(99, status="error", http_status=500, error_type="worker_died"))
    expect(page.locator(".place")).to_have_text("1–25 of 61")
    expect(page.locator(".audit tbody tr").first).to_contain_text("worker_died")
    page.get_by_role("button", name="Older").click()
    expect(page.locator(".place")).to_have_text("26–50 of 61")
    page.get_by_label("Status").select_option("error")
    expect(page.locator(".place")).to_have_text("1–1 of 1")
    page.get_by_label("Model", exact=True).fill("nobody")
    page.get_by_label("Model", exact=True).press("Enter")
    expect(page.get_by_text("No request matches this filter.")).to_be_visible()


def test_audit_is_filtered_by_a_part_of_a_name_while_it_is_typed(visit: Visit, source: Recorded) -> None:
    page = visit.page
    expect(page.locator(".place")).to_have_text("1–25 of 60")
    source.record(record(99, model_used="org/small", model_requested="org/small"))
    field = page.get_by_label("Model", exact=True)
    field.press_sequentially("SMAL")
    expect(page.locator(".place")).to_have_text("1–1 of 1")
    expect(page.locator(".audit tbody tr")).to_contain_text("org/small")
    field.clear()
    expect(page.locator(".place")).to_have_text("1–25 of 61")


@pytest.mark.parametrize(("width", "few"), [(1440, 6), (390, 3)])
def test_many_models_do_not_push_the_rest_away(visit: Visit, source: Recorded, width: int, few: int) -> None:
    page = visit.page
    page.set_viewport_size({"width": width, "height": 900})
    rows = page.locator(".models tbody tr")
    expect(rows).to_have_count(2)
    expect(page.locator(".fold")).to_be_hidden()
    more = tuple(ModelState(id=f"org/m{n:02d}", state="available", disk=n) for n in range(11))
    source.put(snapshot(models=(*MODELS, *more)))
    expect(rows).to_have_count(few)
    expect(rows.first).to_contain_text("org/big")
    button = page.get_by_role("button", name="Show all 13 models")
    button.focus()
    button.press("Enter")
    expect(rows).to_have_count(13)
    rows.last.get_by_role("button", name="Load").click()
    expect(rows.last.locator(".chip")).to_have_text("Ready")
    page.get_by_role("button", name="Show fewer models").click()
    expect(rows).to_have_count(few)
    expect(rows.last).to_contain_text("org/m10")
    page.get_by_role("button", name="Show all 13 models").click()
    page.reload()
    expect(rows).to_have_count(13, timeout=20_000)


def test_engine(visit: Visit, source: Recorded) -> None:
    page = visit.page
    page.get_by_role("tab", name="Engine").click()
    batch, save = (
        page.get_by_role("spinbutton", name="Requests at once"),
        page.get_by_role("button", name="Save"),
    )
    expect(batch).to_have_value("32")
    expect(save).to_be_disabled()
    batch.fill("0")
    expect(page.locator(".field", has_text="max_batch")).to_contain_text("From 1 to 1,024.")
    expect(save).to_be_disabled()
    batch.fill("8")
    page.get_by_label("Bits a value", exact=True).select_option("8")
    page.get_by_role("switch", name="clock").check()
    save.click()
    expect(page.get_by_text("Saved. It holds from a model's next load on.")).to_be_visible()
    values = {option.name: option.value for option in source.options}
    assert (values["max_batch"], values["kv_bits"], values["strip_rules"]) == (
        8,
        8,
        ["claude-code-header", "clock"],
    )
    page.get_by_role("button", name="Reset Requests at once").click()
    expect(batch).to_have_value("32")
    page.get_by_label("Whose settings").select_option("org/small")
    expect(page.locator(".field", has_text="max_batch")).to_contain_text("as for all")
    batch.fill("4")
    batch.press("Enter")
    expect(page.get_by_text("Saved. It holds at once.")).to_be_visible()
    assert source.model_options == {"org/small": {"max_batch": 4}}


def test_a_model_that_waits_for_its_next_load_is_reloaded(visit: Visit, source: Recorded) -> None:
    page = visit.page
    page.get_by_role("tab", name="Engine").click()
    source.put(snapshot(models=(msgspec.structs.replace(MODELS[0], pending=("kv_bits",)), *MODELS[1:])))
    banner = page.locator(".banner", has_text="kv_bits will hold from its next load on")
    banner.get_by_role("button", name="Reload org/big").click()
    expect(banner.get_by_role("button")).to_be_disabled()
    expect(banner.get_by_role("button")).to_have_text("Reload now")
    assert [call for call in source.calls if call[0] in ("load", "unload")] == [
        ("unload", "org/big"),
        ("load", "org/big"),
    ]


def test_prefix_cache(visit: Visit, source: Recorded) -> None:
    page = visit.page
    page.get_by_role("tab", name="Prefix cache").click()
    block = page.locator(".block", has_text="org/big")
    expect(block).to_contain_text("668 MiB of 1.0 GiB, 321 blocks")
    expect(block).to_contain_text("stored as 8-bit (group 64)")
    missed = page.locator(".requests tbody tr", has_text="req-1")
    expect(missed).to_contain_text("1,792 of 2,113")
    missed.get_by_role("button", name="Leave out: clock").click()
    expect(missed.get_by_role("button")).to_have_count(0)
    expect(page.get_by_role("switch", name="clock")).to_be_checked()
    source.cached = []
    source.record(record(99))
    expect(page.get_by_text("No request has asked the cache yet.")).to_be_visible()
    block.get_by_role("button", name="Clear the prefix cache of org/big").click()
    block.get_by_role("button", name="Really clear the prefix cache of org/big").click()
    expect(block).to_contain_text("0 of 0 requests")


def test_system_warns_of_a_slow_blas(visit: Visit) -> None:
    visit.page.get_by_role("tab", name="System").click()
    expect(visit.page.get_by_text("apt install libopenblas0")).to_be_visible()


def test_dark_is_dark_and_is_remembered(visit: Visit) -> None:
    page = visit.page
    assert min(background(page)) > 200
    page.get_by_label("Toggle theme").click()
    expect(page.locator(".card").first).not_to_have_css("background-color", "rgb(255, 255, 255)")
    assert max(background(page)) < 60
    page.reload()
    expect(page.get_by_text("Serving")).to_be_visible(timeout=20_000)
    assert max(background(page)) < 60


def test_hidden_page_is_not_fed(visit: Visit, source: Recorded) -> None:
    page = visit.page
    hide = "value => { Object.defineProperty(document, 'hidden', {value, configurable: true}); document.dispatchEvent(new Event('visibilitychange')) }"
    assert source.watchers == 3
    page.evaluate(hide, True)
    expect(page.locator(".card", has_text="Speed")).to_be_visible()
    for _ in range(50):
        if not source.watchers:
            break
        page.wait_for_timeout(50)
    assert source.watchers == 0
    source.put(snapshot(tokens_per_second=33.0))
    page.evaluate(hide, False)
    expect(page.locator(".card", has_text="Speed")).to_contain_text("33 tok/s")


def test_the_way_to_the_benchmarks_and_back(visit: Visit) -> None:
    page = visit.page
    page.get_by_label("Toggle theme").click()
    expect(page.locator(".card").first).not_to_have_css("background-color", "rgb(255, 255, 255)")
    link = page.get_by_role("link", name="Benchmarks")
    link.focus()
    link.press("Enter")
    expect(page.get_by_text("No benchmark has been stored yet")).to_be_visible(timeout=20_000)
    assert page.url == f"{visit.url}benchmarks"
    assert max(background(page, ".panel")) < 60
    expect(page.get_by_role("link", name="Benchmarks")).to_have_attribute("aria-current", "page")
    page.set_viewport_size({"width": 360, "height": 800})
    expect(page.get_by_role("link", name="Overview")).to_be_hidden()
    fold = page.locator(".menu summary")
    fold.focus()
    fold.press("Enter")
    page.get_by_role("link", name="Overview").click()
    expect(page.locator(".card", has_text="Speed")).to_be_visible(timeout=20_000)
    assert page.url == visit.url


def test_a_benchmark_is_ordered_as_the_form_says(visit: Visit, source: Recorded) -> None:
    page = visit.page
    page.get_by_role("link", name="Benchmarks").click()
    start = page.get_by_role("button", name="Start", exact=True)
    expect(
        page.get_by_text("3 levels, 48 requests and 7 to warm up; at most 3,072 answer tokens.")
    ).to_be_visible(timeout=20_000)
    for level in ("1", "4", "16"):
        page.get_by_role("button", name=level, exact=True).click()
    expect(page.get_by_text("Choose at least one.")).to_be_visible()
    expect(start).to_be_disabled()
    page.get_by_role("button", name="2", exact=True).press("Enter")
    page.get_by_label("Prompt tokens").fill("0")
    expect(page.get_by_text("From 1 to 1,000,000.")).to_be_visible()
    expect(start).to_be_disabled()
    page.get_by_label("Prompt tokens").fill("512")
    page.get_by_label("Requests a level").fill("20")
    page.get_by_label("Sampling").select_option("sampled")
    page.get_by_label("Shared prefix").fill("25")
    start.click()
    expect(page.get_by_text("Starting…")).to_be_visible()
    expect(start).to_be_disabled()
    assert source.job is not None
    assert source.job.order == Order(
        model="org/big",
        concurrency=(2,),
        prompt_tokens=512,
        requests=20,
        temperature=0.7,
        top_p=0.9,
        shared_prefix=0.25,
    )
    running = {
        "steps": 2,
        "label": "2 × 512→64",
        "done": 5,
        "total": 20,
        "fraction": 0.25,
        "seconds_left": 61.2,
    }
    source.bench(msgspec.structs.replace(source.job, **running))
    bar = page.get_by_role("progressbar", name="Benchmark", exact=True)
    expect(bar).to_have_attribute("aria-valuenow", "25")
    expect(page.get_by_text("about 1 min 2 s left")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("0 of 2 levels measured; nothing was stored.")).to_be_visible()
    expect(start).to_be_enabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_alone_on_a_narrow_screen(chrome: Browser, url: str, scheme: str) -> None:
    visit = Visit(chrome, url + "alone", viewport={"width": 390, "height": 844}, color_scheme=scheme)
    visit.url = url
    expect(visit.page.locator(".card", has_text="Speed")).to_contain_text("170 tok/s", timeout=20_000)
    width = visit.page.evaluate("document.documentElement.scrollWidth")
    visit.close()
    assert width <= 390
    assert visit.errors == []


def test_nothing_is_wider_than_a_phone(visit: Visit) -> None:
    visit.page.set_viewport_size({"width": 390, "height": 844})
    visit.page.wait_for_timeout(300)
    wide = (
        "() => [...document.querySelectorAll('body, main, .main-content')].every(e => e.scrollWidth <= 391)"
    )
    assert visit.page.evaluate(wide)
