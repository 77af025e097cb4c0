"""A Chromium for tests: Playwright's own where it is installed, else the system's."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOW = "no Chromium found; `playwright install chromium` gets one, or install your system's chromium package"


def chromium(own: str) -> str | None:
    """Where a Chromium lies; `own` is where Playwright would keep its own."""
    candidates = [own, "/usr/bin/chromium", *filter(None, map(shutil.which, NAMES))]
    return next((path for path in candidates if Path(path).is_file()), None)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A running browser; skips the test where none is found."""
    with sync_playwright() as playwright:
        path = chromium(playwright.chromium.executable_path)
        if path is None:
            pytest.skip(HOW)
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield running
        finally:
            running.close()


class Visit:
    """A page of `url` that remembers what went wrong and where requests went."""

    def __init__(self, browser: Browser, url: str, **context: Any):
        self.url = url
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.context = browser.new_context(**context)
        self.page: Page = self.context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.context.on("request", self._request)
        self.page.goto(url)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.foreign.append(request.url)

    def close(self) -> None:
        self.context.close()


def wait_until_open(port: int, seconds: float = 20) -> None:
    """Wait until somebody listens: a server in a thread of its own may be slow to."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)


def install() -> str:
    """Get a Chromium where that can be done unasked: by root, from the system's packages. Returns what to tell."""
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    if found := chromium(own):
        return f"browser tests use {found}"
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return f"browser tests will be skipped: {HOW}"
    for command in (
        ["update", "-qq"],
        ["install", "-y", "-qq", "--no-install-recommends", "chromium", "fonts-dejavu-core"],
    ):
        subprocess.run(
            [apt, *command],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
    return f"installed {chromium(own)} for the browser tests"


if __name__ == "__main__":
    print(install())
