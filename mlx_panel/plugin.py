"""The API for `panel serve … --plugins mlx_panel.plugin`, and for Panel's `--rest-provider mlx-panel`.

Nothing loop-bound happens at import: the Runtime starts with the first request or page.
"""

from __future__ import annotations

import panel as pn

from .app import Runtime
from .ending import Ending
from .http.routes import Route, routes
from .settings import Settings

KEY = "mlx_panel.runtime"


def runtime() -> Runtime:
    """This process's Runtime. It lives in Panel's cache, which `--autoreload` leaves alone."""
    if KEY not in pn.state.cache:
        pn.state.cache[KEY] = Runtime(Settings.load())
    return pn.state.cache[KEY]


async def started() -> Runtime:
    """The Runtime, running on this loop."""
    house = runtime()
    if not house.starting:
        Ending(house).install()
    await house.start()
    return house


async def begin() -> None:
    """Start the Runtime on this loop."""
    await started()


def rest(files: list[str], endpoint: str) -> list[Route]:
    """Panel's `panel.io.rest` hook."""
    return ROUTES


ROUTES = routes(started)
