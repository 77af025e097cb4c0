"""The page of the privacy proof: a report from before is there, a run is followed and cancelled; and its component."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import expect

from mlx_panel.dashboard.proof import PrivacyProof
from mlx_panel.dashboard.recorded import Recorded
from mlx_panel.dashboard.remote import Remote
from mlx_panel.errors import NotFound, Unavailable
from mlx_panel.inquiry import Opened, Place, Proof, Sent, Skipped

from .browser import Visit, browser
from .server import Running, running
from .test_dashboard import tell, turn

CLEAN = Proof(
    "clean",
    datetime(2026, 11, 20, 12, tzinfo=UTC),
    canaries=6,
    requests=812,
    steps=90,
    total=90,
    seconds=31.5,
    model="tiny",
    places=(
        Place("audit log, through SQL", 28, 24_000, unit="columns", planted=1, controls=1),
        Place("prefix cache on disk", 4, 90_000, 3, expected=True, encodings=("tokens, hexadecimal",)),
    ),
    sockets=(Opened("server", "127.0.0.1:10242"),),
    sent=(Sent("chat", "/v1/chat/completions", "POST", 4, {"200": 3, "400": 1}),),
    skipped=(Skipped("cloud providers", "There are none."),),
    versions={"mlx-panel": "0.1.0"},
)
LEAK = Place("logs", 2, 900, 5, "of the workers' processes", where=("worker.log",), encodings=("UTF-8",))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose owner ran a proof before."""
    folder = tmp_path_factory.mktemp("proof")
    (folder / "proof.json").write_bytes(msgspec.json.encode(CLEAN))
    (folder / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "temporary"))
        with running(folder, hub_offline=True) as one:
            yield one


def test_a_report_from_before_and_a_run_that_is_cancelled(server: Running) -> None:
    with browser() as chromium:
        visit = Visit(chromium, f"{server.url}/privacy", viewport={"width": 1440, "height": 1200})
        visit.url, page = server.url, visit.page
        verdict = page.locator(".verdict")
        expect(verdict).to_contain_text("Nothing was kept: 6 random texts", timeout=20_000)
        expect(verdict).to_contain_text("but for what is kept on purpose: prefix cache on disk")
        expect(page.locator(".places tbody tr")).to_have_count(2)
        page.locator(".fold summary").nth(1).press("Enter")
        expect(page.get_by_text("3 × 200, 1 × 400")).to_be_visible()
        with page.expect_download() as download:
            page.get_by_role("button", name="Download JSON").click()
        assert download.value.suggested_filename == "privacy-proof-20261120T120000Z.json"
        assert msgspec.json.decode(Path(download.value.path()).read_bytes(), type=Proof) == CLEAN
        page.get_by_role("button", name="Prove it again").press("Enter")
        expect(page.get_by_role("progressbar", name="Proof")).to_be_visible()
        expect(page.locator(".run .line")).to_contain_text("sending", timeout=20_000)
        page.get_by_role("button", name="Cancel").click()
        expect(verdict).to_contain_text("The proof was cancelled; it shows nothing.", timeout=20_000)
        expect(page.get_by_role("button", name="Prove it again")).to_be_enabled()
        visit.close()
        assert visit.errors == []
    assert json.loads((server.folder / "proof.json").read_text())["state"] == "cancelled"
    assert not [model for model in server.client.get("/v1/models").json()["data"] if "proof" in model["id"]]


async def test_the_same_over_http(server: Running) -> None:
    remote = Remote(server.url)
    found = await remote.proof()
    assert found is not None
    assert found.state == "cancelled"
    with pytest.raises(NotFound):
        await remote.cancel_proof()


async def test_the_component_says_what_came_of_it() -> None:
    source = Recorded()
    one = PrivacyProof(source)
    one.refresh()
    await turn()
    assert one.view.proof == {}
    await press(one, "start")
    assert (one.view.proof["state"], one.view.busy) == ("running", False)
    await press(one, "start")
    assert "A proof is running." in one.view.notice["text"]
    source.privacy[-1] = msgspec.structs.replace(CLEAN, state="found", places=(LEAK,))
    await press(one, "ask")
    assert one.view.headline == "Something was kept or could leave: logs (worker.log)."
    await press(one, "report", format="markdown", to="clipboard")
    assert one.view.file["name"] == "privacy-proof-20261120T120000Z.md"
    assert "| logs | 2 files | 900 | 5 |" in one.view.file["text"]
    await press(one, "report", format="exe", to="file")
    assert one.view.file["count"] == 1
    source.faults["proof"] = Unavailable("Not now.")
    await press(one, "ask")
    assert one.view.notice["text"] == "Not now."


async def press(one: PrivacyProof, do: str, **message: Any) -> None:
    tell(one, do, **message)
    await turn()
