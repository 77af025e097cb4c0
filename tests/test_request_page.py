"""A request's own page: the component without a browser, and one visit to a real server with one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bokeh.document import Document
from playwright.sync_api import expect

from mlx_panel.analytics import Beside, RequestView
from mlx_panel.audit.shares import KINDS, seconds, sentence, shares, short
from mlx_panel.audit.store import AuditStore
from mlx_panel.dashboard import pages
from mlx_panel.dashboard.recorded import Recorded
from mlx_panel.dashboard.request import RequestView as Component
from mlx_panel.dashboard.request_facts import GROUPS
from mlx_panel.dashboard.request_plot import COLOURS, LANES, NAMES, waterfall
from mlx_panel.record import AuditDetail, AuditRecord, Neighbour, Span

from .browser import Visit, browser
from .recorded import record
from .server import Running, running

SPANS = (
    Span("queue", 10.0, 90.0), Span("tokenise", 100.0, 10.0), Span("wait", 110.0, 6100.0), Span("restore", 6210.0, 40.0),
    Span("prefill", 6250.0, 350.0, 512), Span("decode", 6600.0, 2200.0), Span("send", 8500.0, 400.0),
)  # fmt: skip
NEIGHBOURS = (Neighbour("req_3f2a91c0ffee", 6000.0, 0.0, 0, 9000), Neighbour("friend", 100.0, 900.0, 45, 20))


def slow(**more: Any) -> AuditRecord:
    known = {
        "request_id": "req_0123456789abcdef", "duration_ms": 9000.0, "interference_ms": 6100.0, "blocked_ms": 400.0,
        "prompt_tokens": 600, "cached_tokens": 88, "completion_tokens": 120, "batch_mean": 1.8,
    }  # fmt: skip
    return record(0, **(known | more))


def seen(number: int = 2, **more: Any) -> RequestView:
    row = slow()
    parts = shares(row, SPANS, NEIGHBOURS)
    beside = (
        Beside(
            1, "req_3f2a91c0ffee", -50.0, 9999.0, "org/big", "success", (Span("prefill", 0.0, 6210.0, 9000),)
        ),
    )
    view = RequestView(
        number, row, SPANS, NEIGHBOURS, parts, sentence(row, parts, NEIGHBOURS), beside, (number,), 1, 3, 18
    )
    return msgspec.structs.replace(view, **more)


# --- words and sums ------------------------------------------------------------------------------------------------


def test_shares_add_up_and_the_sentence_names_who_it_was() -> None:
    view = seen()
    assert view.shares == {
        "queue": 90.0, "tokenise": 10.0, "restore": 40.0, "prefill": 350.0, "others": 6100.0, "decode": 2200.0,
        "send": 100.0, "other": 110.0,
    }  # fmt: skip
    assert sum(view.shares.values()) == 9000
    assert view.sentence == "6.1 s of its 9.0 s was request 3f2a91c0…'s prefill."
    assert set(COLOURS) == set(NAMES) == set(KINDS)


@pytest.mark.parametrize(
    ("row", "spans", "words"),
    [
        (slow(batch_mean=1.0), (Span("decode", 0.0, 8000.0),), "8.0 s of its 9.0 s was decoding (120 tokens)."),
        (slow(), (Span("decode", 0.0, 8000.0),), "8.0 s of its 9.0 s was decoding (120 tokens, 1.8 answers at a time on average)."),
        (slow(), (Span("load", 0.0, 8000.0),), "8.0 s of its 9.0 s was the loading of its model."),
        (slow(), (Span("prefill", 0.0, 8000.0),), "8.0 s of its 9.0 s was its own prefill (512 tokens)."),
        (slow(status="cancelled"), (Span("queue", 0.0, 8000.0),), "Its client left after 9.0 s. 8.0 s of its 9.0 s was waiting for its turn."),
        (slow(blocked_ms=7000.0), (Span("decode", 0.0, 8000.0), Span("send", 500.0, 7000.0)), "8.0 s of its 9.0 s was decoding (120 tokens, 1.8 answers at a time on average). Meanwhile its client took no bytes for 7.0 s."),
        (slow(), (), "It took 9.0 s. Where that went was not kept."),
        (slow(model_used=None), (), "It took 9.0 s. No model worked on it."),
    ],
)  # fmt: skip
def test_a_sentence_for_each_kind(row: AuditRecord, spans: tuple[Span, ...], words: str) -> None:
    assert sentence(row, shares(row, spans, ()), ()) == words
    assert (seconds(0.04), seconds(240), seconds(6100), seconds(125_000)) == (
        "0.0 ms",
        "240 ms",
        "6.1 s",
        "2 min 5 s",
    )
    assert (short("req_3f2a91c0ffee"), short("mine")) == ("3f2a91c0…", "mine")


def test_two_clocks_that_differ_a_little_do_not_make_more_than_the_whole() -> None:
    parts = shares(slow(interference_ms=0.0), (Span("decode", 0.0, 9000.5), Span("wait", 9000.5, 0.5)), ())
    assert sum(parts.values()) == pytest.approx(9000, abs=0.01)
    assert "other" not in parts


def test_every_column_has_its_place_and_help() -> None:
    facts = [fact for _, group in GROUPS for fact in group]
    assert {fact.name for fact in facts} == set(AuditRecord.__struct_fields__)
    assert len(facts) == len({fact.name for fact in facts})
    assert all(fact.help.endswith(".") for fact in facts)


# --- the component -------------------------------------------------------------------------------------------------


def test_a_waterfall_has_a_lane_a_kind_and_one_a_neighbour() -> None:
    root = waterfall(seen(), linked=True)
    assert root is not None
    data = root.renderers[0].data_source.data
    assert list(reversed(root.y_range.factors)) == [
        "queue",
        "tokenise",
        "cache restore",
        "prefill",
        "waiting",
        "decode",
        "client",
        "3f2a91c0… ›",
    ]
    wait = data["lane"].index("waiting")
    assert (data["from_s"][wait], data["to_s"][wait], data["id"][wait]) == (0.11, 6.21, 1)
    assert data["colour"][wait] == COLOURS["others"]
    assert "for request 3f2a91c0…'s prompt" in data["words"][wait]
    assert data["words"][-1] == "prefill, its prompt was waited for 6.0 s"
    assert (root.title.text or root.above[0].text, root.xaxis[0].axis_label) == (
        "Where its time went",
        "seconds since arrival",
    )
    assert waterfall(seen(spans=()), linked=True) is None
    assert len(LANES) == 8


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0.01)


async def test_the_component_asks_draws_and_turns() -> None:
    source = Recorded(records=[record(0), record(1), record(2)])
    source.requests[2] = seen()
    one = Component(source, 2)
    one.refresh()
    await turn()
    assert one.view.state == "found"
    assert json.loads(one.view.found)["sentence"].startswith("6.1 s")
    assert one.tables.words["friend"] == "its prompt was waited for 100 ms, 45 decode steps shared (900 ms)"
    assert source.watchers == 0  # what happened stays as it is
    one.act({"do": "show", "id": 3})
    await turn()
    assert (one.view.asked, json.loads(one.view.found)["id"]) == ("3", 3)
    assert "Where that went was not kept" in json.loads(one.view.found)["sentence"]
    one.act({"do": "show", "id": "nobody"})
    await turn()
    assert (one.view.state, one.view.found, one.found) == ("missing", "", None)
    source.requests[9] = seen(9)
    one.look(9)
    await turn()
    assert one.view.state == "found"


def test_the_page_is_in_no_menu() -> None:
    page = pages.build(Recorded(), "/request")
    assert page.server_doc(Document()).roots
    assert "/request" not in page.header[1].pages
    assert pages.asked({"page": [b"request"]}) == "/request"


# --- in a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose log has the slow request and the one that it waited for."""
    folder: Path = tmp_path_factory.mktemp("page")
    store = AuditStore(folder / "audit.duckdb")
    store.start()
    other = msgspec.structs.replace(slow(), request_id="req_3f2a91c0ffee", duration_ms=9999.0)
    store.put(other, AuditDetail((Span("prefill", 50.0, 6210.0, 9000), Span("decode", 6260.0, 3700.0)), ()))
    store.put(slow(), AuditDetail(SPANS, NEIGHBOURS))
    store.close()
    with running(folder) as one:
        yield one


def test_the_page_in_a_browser(server: Running) -> None:
    with browser() as chromium:
        visit = Visit(
            chromium,
            f"{server.url}/request?id=2",
            viewport={"width": 1440, "height": 1300},
            accept_downloads=True,
        )
        visit.url = server.url
        page = visit.page
        expect(page.get_by_text("6.1 s of its 9.0 s was request 3f2a91c0…'s prefill.")).to_be_visible(
            timeout=20_000
        )
        visit.foreign.clear()
        expect(page.locator("canvas").first).to_be_visible()
        assert page.get_by_role("img", name="Shares of its time").get_attribute("aria-label").count(";") == 7
        # The timeline for those who cannot see it, and the row in full.
        page.get_by_text("As table: 7 spans").click()
        expect(page.get_by_role("region", name="Timeline").get_by_role("row").nth(5)).to_contain_text(
            "6.250 s"
        )
        expect(page.get_by_role("region", name="Row")).to_contain_text("Others' prefill")
        with page.expect_download() as saved:
            page.get_by_role("button", name="CSV").click()
        assert Path(saved.value.path()).read_text().splitlines()[:2] == [
            "kind,at_ms,ms,tokens",
            "queue,10,90,0",
        ]
        # To the neighbour by its link, and back by the keyboard.
        page.get_by_role("region", name="Neighbours").get_by_role("link", name="3f2a91c0…").click()
        expect(page.get_by_role("heading", name="Request 3f2a91c0…")).to_be_visible(timeout=20_000)
        assert page.url == f"{server.url}/request?id=1"
        expect(page.get_by_role("link", name="Request after")).to_have_attribute("href", "/request?id=2")
        page.keyboard.press("Alt+ArrowRight")
        expect(page.get_by_role("heading", name="Request 01234567…")).to_be_visible(timeout=20_000)
        page.goto(f"{server.url}/request?id=777")
        expect(page.get_by_text("There is no request “777” in the log.")).to_be_visible(timeout=20_000)
        visit.close()
        assert visit.errors == []
        assert visit.foreign == []
