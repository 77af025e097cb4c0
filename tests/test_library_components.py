"""The page of the models in a real browser: downloads, what this machine has, what the hub has."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import panel as pn
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Locator, Page, expect

from mlx_panel.dashboard import pages, resources
from mlx_panel.dashboard.assets import HERE
from mlx_panel.dashboard.downloads import Downloads
from mlx_panel.dashboard.library import Library
from mlx_panel.dashboard.library_recorded import Stock
from mlx_panel.dashboard.recorded import Recorded
from mlx_panel.errors import HubUnavailable, ModelLoadFailed
from mlx_panel.library import (
    Capabilities,
    ConvertOrder,
    Download,
    Finding,
    HubDetails,
    HubFile,
    HubModel,
    HubQuery,
    HubState,
    ImportOrder,
    LibraryModel,
    Task,
)
from mlx_panel.preset import Preset
from mlx_panel.preset_text import Stored
from mlx_panel.snapshot import ModelState, PoolFigures, Snapshot

from .browser import Visit, browser, wait_until_open

GB = 10**9
EVIL = "<img src=x onerror=\"window.pwned='name'\">"
README = """---
license: apache-2.0
---
<div align="center"><img src="https://evil.example/a.png" onerror="window.pwned='image'"></div>

# A fine model

It has **bold** words, `code`, [a link](https://example.org/page) and [a trap](javascript:window.pwned='link').
![Curve](https://evil.example/b.png)

<script>window.pwned = 'script'</script>

```python
load("a/b")
```

- one
- two

| Test | Score |
|---|---|
| maths | 92 |
"""


def local(id: str, size: int, *kinds: Any, **more: Any) -> LibraryModel:
    can = Capabilities(
        kinds=kinds,
        architecture="llama",
        context_length=8192,
        bits=more.pop("bits", 4),
        source=more.pop("source", "files"),
    )
    known: dict[str, Any] = {
        "bytes": size,
        "path": f"/models/{id}",
        "expected": size + GB,
        "verdict": "fits",
        "dtype": "4-bit (group 64)",
    }
    return LibraryModel(id=id, capabilities=can, **{"source": "hub cache", **known, **more})  # fmt: skip


LOCAL = (
    local("org/big", 40 * GB, "text", "tools", verdict="too_large"),
    local("org/small", 2 * GB, "text", last_used=1.8e9),
    local("org/torn", 5 * GB, "text", complete=False, missing=("model-00002-of-00002.safetensors",)),
    local("vectors", GB // 10, "embedding"),
)
HUB = (
    HubModel(id="org/small", author="org", architecture="llama", bits=4, bytes=2 * GB, downloads=900, verdict="fits", local=True),
    HubModel(id="org/gated", author="org", architecture="gemma3", bits=8, bytes=9 * GB, downloads=800, verdict="evicts", gated="manual", capabilities=("text", "tools")),
    HubModel(id="other/giant", author="other", architecture="llama", bits=16, bytes=90 * GB, downloads=700, verdict="too_large"),
    HubModel(id="org/readme", author="org", architecture="qwen3", bits=4, bytes=4 * GB, downloads=600, likes=7, verdict="fits"),
    *(HubModel(id=f"org/more-{n:02}", author="org", bits=4, bytes=n * GB, downloads=n, verdict="fits") for n in range(30)),
)  # fmt: skip
FILES = (HubFile(path="config.json", bytes=900), HubFile(path="model.safetensors", bytes=4 * GB))
DETAILS = HubDetails(
    model=HUB[3], commit="c" * 40, files=FILES, config={"model_type": "qwen3", "note": EVIL}, readme=README,
    licence="apache-2.0", context_length=40960, needed=5 * GB, free_disk=60 * GB,
)  # fmt: skip


def snapshot(**more: Any) -> Snapshot:
    states = tuple(
        ModelState(id=one.id, state="available", disk=one.bytes, verdict=one.verdict)
        for one in LOCAL
        if one.complete
    )
    return Snapshot(**{"time": 1.8e9, "models": states, "pool": PoolFigures(budget=24 * GB), **more})


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def blank(chrome: Browser) -> Iterator[Page]:
    """A page with nothing but what makes elements of a README."""
    page = chrome.new_page()
    texts = [(HERE / name).read_text(encoding="utf-8") for name in ("shared.js", "library_readme.js")]
    page.add_script_tag(content="\n".join(['const CSS = ""', *texts]))
    yield page
    page.close()


@pytest.fixture
def source() -> Recorded:
    stock = Stock(LOCAL, HUB, [DETAILS], state=HubState(cache="/cache/hub", free_disk=60 * GB))
    presets = Stored(presets=(Preset(name="coder", model="org/small"), Preset(name="other", model="org/big")))
    return Recorded(snapshot(), stock=stock, stored=presets)


@pytest.fixture
def url(source: Recorded) -> Iterator[str]:
    undo = resources.remember()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    apps = {
        "/": lambda: pages.build(source),
        "/models": lambda: pages.build(source, "/models"),
        "/alone": lambda: pn.Column(Downloads(source), Library(source), sizing_mode="stretch_width"),
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


def opened(chrome: Browser, url: str, path: str = "models", **context: Any) -> Visit:
    visit = Visit(chrome, f"{url}{path}", **{"viewport": {"width": 1440, "height": 1000}, **context})
    visit.url = url
    visit.foreign = [one for one in visit.foreign if not one.startswith(url)]
    expect(row(visit.page, "vectors")).to_be_visible(timeout=20_000)
    return visit


@pytest.fixture
def visit(chrome: Browser, url: str) -> Iterator[Visit]:
    """The page; afterwards: no stranger's code ran, the console is empty and nothing was fetched from elsewhere."""
    visit = opened(chrome, url)
    yield visit
    pwned = visit.page.evaluate("window.pwned ?? null")
    visit.close()
    assert pwned is None
    assert visit.errors == []
    assert visit.foreign == []


def row(page: Page, name: str, view: str = "local") -> Locator:
    exact = page.get_by_role("button", name=name, exact=True)
    return page.locator(f".{view} tbody tr").filter(has=exact)


def names(page: Page, view: str = "local") -> list[str]:
    return page.locator(f".{view} tbody .name").all_inner_texts()


def calls(source: Recorded, *first: Any) -> list[tuple[Any, ...]]:
    return [call for call in source.calls if call[: len(first)] == first]


def wait_for(page: Page, condition: Callable[[], bool]) -> None:
    """Wait until the server has heard of it."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        page.wait_for_timeout(50)


def open_hub(page: Page) -> None:
    page.get_by_role("tab", name="On the hub").click()
    expect(row(page, "org/gated", "hub")).to_be_visible()


# --- this machine -----------------------------------------------------------------------------------------


def test_models_of_this_machine_are_listed_filtered_and_sorted(visit: Visit) -> None:
    page = visit.page
    expect(row(page, "org/big")).to_contain_text("Too large: needs 41.0 GB of 24.0 GB")
    expect(row(page, "org/small")).to_contain_text("Fits now")
    expect(row(page, "org/small").locator(".badge.tried")).to_have_count(0)
    torn = row(page, "org/torn")
    expect(torn).to_contain_text("1 file missing")
    expect(torn.get_by_role("button", name="Load org/torn")).to_have_count(0)
    assert names(page) == ["org/big", "org/small", "org/torn", "vectors"]
    page.get_by_label("Sort by").select_option("size")
    assert names(page) == ["org/big", "org/torn", "org/small", "vectors"]
    page.get_by_label("Filter by capability").select_option("embedding")
    assert names(page) == ["vectors"]
    page.get_by_label("Filter models of this machine").fill("nothing")
    page.get_by_role("button", name="Show all").click()
    assert len(names(page)) == 4


def test_load_and_unload_and_why_it_failed(visit: Visit, source: Recorded) -> None:
    one = row(visit.page, "org/small")
    one.get_by_role("button", name="Load org/small").click()
    expect(one).to_contain_text("In memory")
    one.get_by_role("button", name="Unload org/small").click()
    expect(one).to_contain_text("Available")
    source.faults["org/big"] = ModelLoadFailed("It needs 41 GB; 24 GB are there.")
    row(visit.page, "org/big").get_by_role("button", name="Load org/big").click()
    expect(visit.page.get_by_role("alert").filter(has_text="It needs 41 GB")).to_be_visible()
    expect(row(visit.page, "org/big").get_by_role("button", name="Try again")).to_be_enabled()
    assert [call for call in source.calls if call[0] in ("load", "unload")] == [
        ("load", "org/small"), ("unload", "org/small"), ("load", "org/big"),
    ]  # fmt: skip


def test_details_tell_path_capabilities_and_presets(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="org/small", exact=True).click()
    drawer = page.get_by_role("dialog", name="org/small")
    expect(drawer).to_contain_text("/models/org/small")
    expect(drawer).to_contain_text("coder")
    expect(drawer).to_contain_text("Read from its files. Probe tries them")
    page.keyboard.press("Escape")
    expect(drawer).to_have_count(0)
    page.get_by_role("button", name="org/torn", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("model-00002-of-00002.safetensors")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Download the rest of org/torn").click()
    page.get_by_role("dialog", name="Download org/torn?").get_by_role("button", name="Download").click()
    expect(page.locator(".download")).to_contain_text("org/torn")


def menu(page: Page, model: str, item: str) -> None:
    page.get_by_role("button", name=f"More about {model}", exact=True).press("Enter")
    page.get_by_role("menuitem", name=item).click()


def test_delete_names_bytes_and_presets_and_asks(visit: Visit, source: Recorded) -> None:
    page = visit.page
    menu(page, "org/small", "Delete…")
    box = page.get_by_role("dialog", name="Delete org/small?")
    expect(box).to_contain_text("This frees 2.0 GB on disk.")
    expect(box).to_contain_text("These will have no model: the preset coder.")
    box.get_by_role("button", name="Cancel").click()
    expect(row(page, "org/small")).to_be_visible()
    menu(page, "org/small", "Delete…")
    page.get_by_role("button", name="Delete 2.0 GB").click()
    expect(row(page, "org/small")).to_have_count(0)
    expect(page.get_by_text("org/small was deleted: 2.0 GB are free again.")).to_be_visible()
    assert calls(source, "library", "delete") == [("library", "delete", "org/small", True)]
    row(page, "vectors").get_by_role("button", name="Load").click()
    expect(row(page, "vectors")).to_contain_text("In memory")
    menu(page, "vectors", "Delete…")
    expect(page.get_by_role("dialog")).to_contain_text("It is in memory. Unload it first.")
    expect(page.get_by_role("button", name="Delete 100 MB")).to_be_disabled()


def test_a_job_is_followed_cancelled_and_reported(visit: Visit, source: Recorded) -> None:
    page = visit.page
    menu(page, "org/big", "Verify")
    jobs = page.get_by_role("group", name="Jobs")
    expect(jobs).to_contain_text("Verify org/big")
    task = next(iter(source.stock.tasks.values()))
    source.task(msgspec.structs.replace(task, done=10 * GB, step="model-1"))
    expect(jobs.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "25")
    expect(jobs).to_contain_text("model-1 · 10.0 GB of 40.0 GB")
    jobs.get_by_role("button", name="Cancel").click()
    jobs.get_by_role("button", name="Really cancel").click()
    expect(jobs).to_contain_text("Cancelled")
    menu(page, "org/small", "Probe")
    expect(jobs).to_contain_text("Probe org/small")
    findings = (
        Finding(step="tools", text="Called the tool."),
        Finding(step="context", level="warning", text="Forgot."),
    )
    source.task(Task(id="t2", kind="probe", model="org/small", state="done", findings=findings, report="# It works", created=2, ended=3))  # fmt: skip
    probe = jobs.locator(".task", has_text="Probe org/small")
    expect(probe.locator(".outcome")).to_have_text("Forgot.")
    probe.get_by_text("Report", exact=True).click()
    expect(probe).to_contain_text("Called the tool.")
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    probe.get_by_role("button", name="Copy report").click()
    expect(probe.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "# It works"
    probe.get_by_role("button", name="Dismiss").click()
    expect(probe).to_have_count(0)
    wait_for(page, lambda: list(source.stock.tasks) == ["t1"])


def test_convert_and_import_are_ordered_as_the_forms_say(visit: Visit, source: Recorded) -> None:
    page = visit.page
    source.stock.local["org/plain"] = local("org/plain", GB, "text", bits=16)
    source.library_news()
    menu(page, "org/plain", "Convert…")
    box = page.get_by_role("dialog", name="Convert org/plain")
    box.get_by_label("Quantise to").select_option("mode:mxfp4")
    expect(box.get_by_label("Group size")).to_be_hidden()
    box.get_by_label("Quantise to").select_option("bits:8")
    box.get_by_label("Group size").select_option("32")
    box.get_by_label("Type of the other weights").select_option("float16")
    box.get_by_label("Name").fill("small-8")
    box.get_by_role("button", name="Convert").click()
    expect(page.get_by_role("group", name="Jobs")).to_contain_text("Convert org/plain")
    menu(page, "org/small", "Convert…")  # is quantised already
    page.get_by_role("button", name="Convert", exact=True).click()
    expect(page.get_by_role("group", name="Jobs")).to_contain_text("Convert org/small")
    assert [call[-1] for call in calls(source, "library", "convert")] == [
        ConvertOrder(model="org/plain", name="small-8", bits=8, group_size=32, dtype="float16"),
        ConvertOrder(model="org/small", bits=0, dequantize=True),
    ]
    page.get_by_role("button", name="Import GGUF…").click()
    box = page.get_by_role("dialog", name="Import a GGUF file")
    expect(box.get_by_role("button", name="Import")).to_be_disabled()
    box.get_by_label("File on the server's machine").fill("/tmp/a.gguf")
    box.get_by_label("Name").fill("bad name!")
    box.get_by_role("button", name="Import").click()
    expect(box.get_by_role("alert")).to_contain_text("This cannot be done")
    box.get_by_label("Name").fill("good")
    box.get_by_label("Weights").select_option("keep")
    box.get_by_role("button", name="Import").click()
    expect(box).to_have_count(0)
    asked = calls(source, "library", "import")
    assert [call[-1] for call in asked] == [ImportOrder(file="/tmp/a.gguf", name="good", dtype="keep")]


def test_a_model_becomes_a_preset_by_a_link(visit: Visit) -> None:
    page = visit.page
    page.route("**/presets?**", lambda route: route.fulfill(body="presets", content_type="text/html"))
    menu(page, "org/small", "Use as preset")
    page.wait_for_url("**/presets?new=org%2Fsmall")


# --- the hub ----------------------------------------------------------------------------------------------


def test_search_asks_as_the_form_says_and_keeps_it_in_the_address(visit: Visit, source: Recorded) -> None:
    page = visit.page
    open_hub(page)
    assert len(names(page, "hub")) == 20
    page.get_by_role("button", name="More", exact=True).click()
    expect(page.locator(".hub tbody tr")).to_have_count(34)
    expect(page.get_by_role("button", name="More", exact=True)).to_be_hidden()
    page.get_by_label("Weights").select_option("8")
    page.get_by_label("Can", exact=True).select_option("tools")
    page.get_by_label("At most, GB").fill("9.5")
    page.get_by_label("Author").fill("org")
    page.get_by_label("Architecture").fill("gemma3")
    page.get_by_label("Order").select_option("likes")
    page.get_by_label("Fits in memory").check()
    page.get_by_label("Search the hub").fill("gat")
    page.get_by_label("Search the hub").press("Enter")
    expect(page.locator(".hub tbody tr")).to_have_count(1)
    asked = HubQuery(
        text="gat", author="org", architecture="gemma3", bits=8, capability="tools", max_bytes=9_500_000_000, fits=True,
        sort="likes",
    )  # fmt: skip
    wait_for(page, lambda: calls(source, "hub")[-1][1] == asked)
    page.reload()
    expect(row(page, "org/gated", "hub")).to_be_visible(timeout=20_000)
    expect(page.locator(".hub tbody tr")).to_have_count(1)
    expect(page.get_by_label("At most, GB")).to_have_value("9.5")
    page.get_by_label("Search the hub").fill("nothing like it")
    page.get_by_label("Search the hub").press("Enter")
    page.get_by_role("button", name="Clear all filters").click()
    expect(page.locator(".hub tbody tr")).to_have_count(20)
    assert page.url.endswith("/models?view=hub")


def test_a_hit_says_what_it_is_and_a_stranger_runs_nothing(visit: Visit, source: Recorded) -> None:
    page = visit.page
    source.stock.hub[EVIL] = HubModel(id=EVIL, architecture=EVIL, downloads=10**6)
    open_hub(page)
    expect(row(page, "org/small", "hub")).to_contain_text("On this machine")
    expect(row(page, "org/gated", "hub")).to_contain_text("Fits after unloading")
    expect(row(page, "org/gated", "hub").locator(".lock")).to_have_attribute(
        "title", re.compile("admits each person by hand")
    )
    expect(row(page, "other/giant", "hub")).to_contain_text("Too large: needs 90.0 GB of 24.0 GB")
    assert names(page, "hub")[0] == EVIL
    page.get_by_role("button", name="org/readme", exact=True).click()
    drawer = page.get_by_role("dialog", name="org/readme")
    readme = drawer.locator(".readme")
    expect(readme.get_by_role("heading", name="A fine model")).to_be_visible()
    expect(readme).to_contain_text("<script>window.pwned = 'script'</script>")
    expect(readme).to_contain_text('onerror="window.pwned=')
    assert readme.locator("img, script, iframe, [onerror]").count() == 0
    assert [link.get_attribute("href") for link in readme.locator("a").all()] == [
        "https://evil.example/a.png", "https://example.org/page",
    ]  # fmt: skip
    expect(readme.locator("pre")).to_have_text('load("a/b")')
    expect(readme.locator("td").first).to_have_text("maths")
    expect(drawer).to_contain_text("4.0 GB in 2 files")
    expect(drawer).to_contain_text("40,960 tokens")
    expect(drawer).to_contain_text("apache-2.0")
    drawer.get_by_text("Config", exact=True).click()
    expect(drawer.locator(".part", has_text="model_type")).to_contain_text(EVIL)
    drawer.get_by_text("Files (2)", exact=True).click()
    expect(drawer.get_by_text("model.safetensors")).to_be_visible()


def test_a_download_is_confirmed_started_and_followed(visit: Visit, source: Recorded) -> None:
    page = visit.page
    open_hub(page)
    page.get_by_role("button", name="Download org/readme").click()
    box = page.get_by_role("dialog", name="Download org/readme?")
    expect(box).to_contain_text("4.0 GB in 2 files.")
    expect(box).to_contain_text("60.0 GB are free on disk, in /cache/hub.")
    assert calls(source, "downloads", "start") == []
    box.get_by_role("button", name="Download").click()
    expect(row(page, "org/readme", "hub").locator(".fetch .under")).to_have_text("0 %")
    assert calls(source, "downloads", "start") == [("downloads", "start", "org/readme", "main")]
    source.download(
        msgspec.structs.replace(source.stock.downloads["d1"], done=GB, rate=10.0**8, seconds_left=30.0)
    )
    expect(row(page, "org/readme", "hub").locator(".fetch .under")).to_have_text("25 %")
    expect(page.locator(".download")).to_contain_text("1.0 GB of 4.0 GB · 100 MB/s · 30 s left")
    page.get_by_role("button", name="Download other/giant").click()
    box = page.get_by_role("dialog", name="Download other/giant?")
    expect(box).to_contain_text("can be downloaded, but not loaded")
    expect(box).to_contain_text("The disk is too full: 30.0 GB more are needed.")
    expect(box.get_by_role("button", name="Download")).to_be_disabled()
    page.keyboard.press("Escape")
    source.faults["hub"] = HubUnavailable("The hub does not answer.")
    page.get_by_label("Order").select_option("name")
    expect(page.get_by_role("alert").filter(has_text="The hub does not answer.")).to_be_visible()
    source.faults.clear()
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".hub tbody tr")).to_have_count(20)


def test_the_token_is_kept_tested_forgotten_and_never_shown(visit: Visit, source: Recorded) -> None:
    page = visit.page
    open_hub(page)
    card = page.get_by_role("region", name="Hugging Face")
    expect(card).to_contain_text("No token")
    expect(card.get_by_role("button", name="Test")).to_be_disabled()
    card.get_by_label("Access token").fill("wrong")
    card.get_by_role("button", name="Save").click()
    expect(card).to_contain_text("Has a token")
    card.get_by_role("button", name="Test").click()
    expect(card.get_by_role("alert")).to_have_text("The hub does not accept this token.")
    card.get_by_label("Access token").fill("hf_secret")
    card.get_by_label("Access token").press("Enter")
    expect(card.get_by_label("Access token")).to_have_value("")
    card.get_by_role("button", name="Test").click()
    expect(card).to_contain_text("Signed in as me")
    assert source.stock.token == "hf_secret"
    assert "hf_secret" not in page.content()
    card.get_by_role("button", name="Forget").click()
    expect(card).to_contain_text("No token")
    assert source.stock.token == ""
    card.get_by_label("Offline").check()
    expect(page.locator(".banner")).to_contain_text("The server is offline")
    expect(page.locator(".hub tbody tr")).to_have_count(0)
    card.get_by_label("Offline").uncheck()
    expect(page.locator(".hub tbody tr")).to_have_count(20)


SHOWN = {"H3", "H4", "H5", "H6", "P", "UL", "OL", "LI", "PRE", "CODE", "EM", "STRONG", "A", "SPAN", "BLOCKQUOTE", "HR", "DIV", "TABLE", "THEAD", "TBODY", "TR", "TH", "TD"}  # fmt: skip
LOOK = """texts => texts.map((text) => {
  const nodes = [...readmeNode(text).querySelectorAll("*")]
  return [nodes.map((node) => node.tagName), nodes.flatMap((node) => [...node.attributes].map((one) => one.name)),
    nodes.filter((node) => node.tagName === "A").map((node) => node.href)]
})"""
MARKS = ("# ", "\n", "\n\n", "```", "`", "**", "*", "_", "[", "](", ")", "![", "<script>", "<img src=x onerror=1>", "<p>", "<!--", "-->", "| a | b |\n|--|--|\n",
         "- ", "1. ", "> ", "---\n", "javascript:x", "https://a.example/x", "data:text/html,x", " ", "word", "&lt;", '"', "'")  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(MARKS) | st.text(max_size=4), max_size=40).map("".join),
        min_size=1,
        max_size=30,
    )
)
@example(
    texts=[
        "<!--" * 40_000,
        "`" * 5_000 + "x`" * 40_000,
        "[" * 90_000,
        "-" * 90_000 + "x",
        "# " + " " * 90_000 + "x",
        "- " * 90_000 + "x",
        "|" + "-" * 90_000 + "\n|" + "-|" * 90_000,
    ]
)
def test_a_readme_becomes_harmless_elements_whatever_it_holds(blank: Page, texts: list[str]) -> None:
    for tags, attributes, links in blank.evaluate(LOOK, texts):
        assert set(tags) <= SHOWN
        assert set(attributes) <= {"class", "href", "target", "rel"}
        assert all(link.startswith(("http://", "https://")) for link in links)


# --- downloads --------------------------------------------------------------------------------------------


def test_every_observer_sees_the_downloads_and_steers_them(
    visit: Visit, chrome: Browser, url: str, source: Recorded
) -> None:
    page = visit.page
    expect(page.get_by_text("Nothing is on its way.")).to_be_visible()
    source.download(Download(task="d1", model="org/a", state="downloading", done=GB, total=4 * GB, rate=1e8, files_done=1, files=3, file="model.safetensors", created=1.0))  # fmt: skip
    other = opened(chrome, url)
    one, its = page.locator(".download"), other.page.locator(".download")
    expect(its).to_contain_text("1 of 3 files · model.safetensors")
    expect(page.locator(".downloads header")).to_contain_text("1 running, 100 MB/s")
    one.get_by_role("button", name="Pause").click()
    expect(its).to_contain_text("Paused")
    its.get_by_role("button", name="Resume").click()
    expect(one).to_contain_text("Downloading")
    source.download(msgspec.structs.replace(source.stock.downloads["d1"], state="failed", error="The disk is full.", ended=2.0))  # fmt: skip
    expect(one.locator(".fault")).to_have_text("The disk is full.")
    one.get_by_role("button", name="Retry").click()
    expect(one.get_by_role("button", name="Pause")).to_be_visible()
    expect(one.locator(".fault")).to_be_hidden()
    one.get_by_role("button", name="Cancel").click()
    one.get_by_role("button", name="Really cancel").click()
    expect(its).to_contain_text("Cancelled")
    other.close()
    assert [call[1:] for call in calls(source, "downloads") if len(call) > 1] == [
        ("pause", "d1"), ("resume", "d1"), ("retry", "d1"), ("cancel", "d1"),
    ]  # fmt: skip


def test_one_that_is_done_fades_into_the_list_and_is_forgotten(visit: Visit, source: Recorded) -> None:
    page = visit.page
    source.download(Download(task="d1", model="org/a", state="downloading", done=1, total=4, created=1.0))
    expect(page.locator(".download")).to_contain_text("Downloading")
    source.download(Download(task="d1", model="org/a", state="completed", done=4, total=4, created=1.0, ended=61.0))  # fmt: skip
    expect(page.locator(".download")).to_contain_text("Completed")
    expect(page.locator(".download")).to_have_count(0, timeout=15_000)
    page.get_by_text("Earlier (1)").click()
    past = page.locator(".past")
    expect(past).to_contain_text("in 1 min")
    past.get_by_role("button", name="Forget").click()
    expect(past).to_have_count(0)
    assert source.stock.downloads == {}


# --- everywhere -------------------------------------------------------------------------------------------


def test_keys_move_between_views_and_in_a_menu(visit: Visit, source: Recorded) -> None:
    page = visit.page
    page.get_by_role("tab", name="On this machine").press("ArrowRight")
    expect(page.get_by_role("tab", name="On the hub")).to_be_focused()
    expect(row(page, "org/gated", "hub")).to_be_visible()
    page.get_by_role("tab", name="On the hub").press("ArrowLeft")
    page.get_by_role("button", name="More about org/small").press("Enter")
    expect(page.get_by_role("menuitem", name="Details")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("menuitem", name="Verify")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("menu")).to_have_count(0)
    for name in list(source.stock.local):
        del source.stock.local[name]
    source.library_news()
    page.get_by_role("button", name="Find one on the hub").press("Enter")
    expect(page.get_by_role("tab", name="On the hub")).to_have_attribute("aria-selected", "true")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_alone_on_a_narrow_screen(chrome: Browser, url: str, source: Recorded, scheme: str) -> None:
    """As in a notebook's cell: nothing but a source, no way to other pages."""
    source.download(
        Download(task="d1", model="org/a-model-with-a-rather-long-name", state="downloading", done=1, total=4)
    )
    visit = opened(chrome, url, "alone", viewport={"width": 380, "height": 844}, color_scheme=scheme)
    page = visit.page
    expect(page.locator(".download")).to_contain_text("25 %")
    page.get_by_role("button", name="More about org/small").click()
    expect(page.get_by_role("menuitem", name="Delete…")).to_be_visible()
    expect(page.get_by_role("menuitem", name="Use as preset")).to_have_count(0)
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="On the hub").click()
    expect(row(page, "org/gated", "hub")).to_be_visible()
    page.get_by_role("button", name="org/readme", exact=True).click()
    expect(page.locator(".readme")).to_be_visible()
    width, address = page.evaluate("document.documentElement.scrollWidth"), page.url
    visit.close()
    assert width <= 380
    assert address == f"{url}alone"
    assert visit.errors == []
