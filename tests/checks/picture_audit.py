"""Takes the pictures of the page Audit, of real traffic that `mlx-benchmark` makes on a real server.

    python -m tests.checks.picture_audit [--model FOLDER …] [--rounds 2] [--out docs/images]
    python -m tests.checks.picture_audit --url http://127.0.0.1:10242 --query '?range=7d' [--out FOLDER]

Not a test: somebody has to look at them. Without `--url` a server with the models (two tiny random ones unless folders
are given) runs as long as the traffic: sweeps over concurrency with shared prefixes, callers who leave early, requests that
fail, a model that is unloaded and loaded. With `--url` the page of a server that runs is taken as it is. `--each` adds a
picture of every chart, light and dark.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page

from mlx_panel.engine import blas

blas.preload()

from ..browser import browser  # noqa: E402
from ..models import tiny_model  # noqa: E402
from ..server import Running, running  # noqa: E402

SERVE = ("-m", "mlx_panel", "serve")
WIDE, NARROW = {"width": 1440, "height": 1330}, {"width": 420, "height": 1400}
TALL = 2900  # pixels; all charts are on screen, so all are drawn
SWEEPS = (
    ("-c", "1,4", "--prompt-tokens", "60", "--output-tokens", "32", "--shared-prefix", "0.6"),
    (
        "-c",
        "8,2",
        "--prompt-tokens",
        "150",
        "--output-tokens",
        "48",
        "--cancel",
        "0.2",
        "--sampling",
        "sampled",
    ),
)


@contextlib.contextmanager
def server(models: list[Path]) -> Iterator[Running]:
    """A server of its own, with what it serves on its shelf."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        for path in models:
            (folder / "models" / path.name).symlink_to(path.resolve())
        if not models:
            for seed, model in enumerate(("tiny-llama", "tiny-draft")):
                tiny_model(folder / "models" / model, seed=seed, hidden=128, layers=4, context=2048)
        with running(folder, command=SERVE) as one:
            yield one


def traffic(server: Running, models: list[str], rounds: int) -> None:
    """Requests as people's programs make them: many, of several kinds, and some that fail."""
    for _ in range(rounds):
        for model in models:
            for options in SWEEPS:
                command = ["-m", "mlx_panel.bench.command", "sweep", "--url", server.url, "--model", model]
                subprocess.run(
                    [sys.executable, *command, *options, "--no-save", "--quiet", "--allow-errors"], check=True
                )
            for wrong in (
                {"max_tokens": 10**7},
                {"response_format": {"type": "json_schema", "json_schema": {}}},
            ):
                server.chat(model, **wrong)
            server.chat(model + "-of-nobody")
            server.client.post(f"/v1/admin/models/unload/{model}")
            time.sleep(1)


def open_page(browser: Browser, url: str, size: dict[str, int], scheme: str) -> Page:
    page = browser.new_context(viewport=size, color_scheme=scheme).new_page()  # type: ignore[arg-type]
    page.goto(url)
    page.locator(".card[data-chart=requests]:not([aria-busy])").wait_for(timeout=60_000)
    page.wait_for_function("() => document.fonts.status === 'loaded'")
    page.wait_for_timeout(3000)  # the rest is drawn, and what moves has come to rest
    return page


def take(url: str, query: str, out: Path, each: bool) -> None:
    """The page light and dark, wide and narrow; and every card."""
    out.mkdir(parents=True, exist_ok=True)
    with browser() as one:
        for scheme in ("light", "dark"):
            page = open_page(one, f"{url}/audit{query}", WIDE, scheme)
            plot = page.locator(".card[data-chart=requests] .plot").bounding_box()
            assert plot
            page.mouse.move(plot["x"] + 0.42 * plot["width"], plot["y"] + 0.8 * plot["height"])
            page.wait_for_timeout(300)
            page.screenshot(path=out / f"audit-{scheme}.png")
            page = open_page(one, f"{url}/audit{query}", {**WIDE, "height": TALL}, scheme)
            page.screenshot(path=out / f"audit-charts-{scheme}.png")
            for card in page.locator(".card").all() if each else ():
                card.screenshot(path=out / f"audit-{card.get_attribute('data-chart')}-{scheme}.png")
            open_page(one, f"{url}/audit{query}", NARROW, scheme).screenshot(
                path=out / f"audit-narrow-{scheme}.png"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a server that runs; else one is started")
    parser.add_argument("--query", default="", help="what the page's address has, with its question mark")
    parser.add_argument("--model", type=Path, action="append", default=[], help="a model's folder")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--each", action="store_true", help="every chart by itself, too")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    if args.url:
        return take(args.url.rstrip("/"), args.query, args.out, args.each)
    with server(args.model) as one:
        began = datetime.now(UTC)
        names = [path.name for path in args.model] or ["tiny-llama", "tiny-draft"]
        traffic(one, names, args.rounds)
        rows = httpx.get(f"{one.url}/v1/admin/audit-logs", params={"limit": 1, "count": "true"}).json()[
            "total"
        ]
        print(f"{rows} requests in {(datetime.now(UTC) - began).total_seconds():.0f} s")
        since = began.isoformat().replace("+00:00", "Z")
        until = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        take(one.url, args.query or f"?since={since}&until={until}", args.out, args.each)


if __name__ == "__main__":
    main()
