"""The pages of the dashboard: a table path -> (title, how to build it)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import panel as pn
import panel_material_ui as pmui
import param
from panel.util import edit_readonly

from .aliases import Aliases
from .analytics import Analytics
from .analytics_filter import given, opened
from .audit import AuditTable
from .audit_settings import AuditStorage
from .benchmarks import Benchmarks
from .cache import PrefixCache
from .downloads import Downloads
from .engine import EngineForm
from .library import Library
from .live import Live
from .menu import Menu
from .pool_settings import PoolForm
from .presets import Presets
from .proof import PrivacyProof
from .request import RequestView
from .source import Source
from .sql import Sql
from .status import Status
from .system import SystemCard
from .timeouts import Timeouts

UNLISTED = {"/request"}  # pages that others lead to, and no menu
THEME_COOKIE = "mlx-panel-theme"  # written by status.js
FONT = "Roboto, system-ui, -apple-system, 'Segoe UI', sans-serif"
TYPOGRAPHY = {"fontFamily": FONT, "button": {"textTransform": "none", "fontWeight": 600}}
THEME = {
    "light": {
        "palette": {
            "primary": {"main": "#0b6e8a", "contrastText": "#ffffff"},
            "background": {"default": "#f4f6f8", "paper": "#ffffff"},
            "text": {"primary": "#15202b", "secondary": "#5a6672"},
        },
        "typography": TYPOGRAPHY,
    },
    "dark": {
        "palette": {
            "primary": {"main": "#4cc2e0", "contrastText": "#06222b"},
            "background": {"default": "#0f151b", "paper": "#172029"},
            "text": {"primary": "#e8eef3", "secondary": "#9fb0bd"},
        },
        "typography": TYPOGRAPHY,
    },
}
TABS: dict[str, Callable[[Source], Any]] = {
    "Requests": AuditTable,
    "Prefix cache": PrefixCache,
    "Engine": EngineForm,
    "Pool": PoolForm,
    "Audit log": AuditStorage,
    "Timeouts": Timeouts,
    "System": SystemCard,
}
LOOK = {
    "& .main": {"backgroundColor": "background.default"},
    "& .main-content": {"padding": {"xs": "12px", "sm": "20px 24px 32px"}},
    "& .MuiAppBar-root": {
        "backgroundColor": "background.paper",
        "backgroundImage": "none",
        "color": "text.primary",
        "boxShadow": "none",
        "borderBottom": "1px solid",
        "borderColor": "divider",
    },
    "& .MuiAppBar-root .MuiTypography-root": {
        "whiteSpace": "nowrap",
        "color": "text.primary",
        "letterSpacing": "-0.02em",
    },
}


def overview(source: Source, linked: str) -> pmui.Page:
    """What is live above, and under it what was, what is set and what it runs on."""
    return _page(source, "/", linked, [Live(source), _tabs(source, linked)])


def _tabs(source: Source, linked: str) -> pmui.Tabs:
    """The tabs below. What stands in one is made when it is first opened: opening the page should not cost all of them."""
    nothing = pn.Spacer()  # one for all, each would cost two milliseconds
    first, *others = TABS.items()
    tabs = pmui.Tabs(
        (first[0], AuditTable(source, linked=linked)),
        *((title, nothing) for title, _ in others),
        sizing_mode="stretch_width",
        margin=(16, 0, 0, 0),
        sx={"& .MuiTabs-root": {"marginBottom": "10px", "minHeight": "40px"}},
    )

    def fill(event: param.parameterized.Event) -> None:
        title, kind = list(TABS.items())[event.new]
        if tabs[event.new] is nothing:
            tabs[event.new] = (title, kind(source))

    tabs.param.watch(fill, "active")
    return tabs


def benchmarks(source: Source, linked: str) -> pmui.Page:
    """A sweep of this server, and the results of those before."""
    return _page(source, "/benchmarks", linked, [Benchmarks(source)])


def models(source: Source, linked: str) -> pmui.Page:
    """What is fetched, and below it the models of this machine and of the hub."""
    return _page(source, "/models", linked, [Downloads(source), Library(source, linked)])


def presets(source: Source, linked: str) -> pmui.Page:
    """Names of their own for models, and rules for names nobody has."""
    return _page(source, "/presets", linked, [Presets(source), Aliases(source)])


def audit(source: Source, linked: str) -> pmui.Page:
    """What the log knows, as charts and as rows, all by one filter."""
    charts = Analytics(source, opened(given())[0], linked=linked)
    table = AuditTable(source, choose=charts.choose, linked=linked, here="/audit")
    charts.on_filter(table.put)
    return _page(source, "/audit", linked, [charts, pn.Spacer(height=14), table])


def privacy(source: Source, linked: str) -> pmui.Page:
    """A proof of what this server keeps, and its report."""
    return _page(source, "/privacy", linked, [PrivacyProof(source, linked)])


def request(source: Source, linked: str) -> pmui.Page:
    """The request that the address names: `id` is its number in the audit log, or its request id."""
    arguments = pn.state.session_args or {}
    id = b"".join(arguments.get("id", [])[:1]).decode("ascii", "replace")[:64]
    return _page(source, "/request", linked, [RequestView(source, id, linked=linked)])


def sql(source: Source, linked: str) -> pmui.Page:
    """Questions of one's own to the log."""
    return _page(source, "/sql", linked, [Sql(source, linked)])


def _page(source: Source, path: str, linked: str, main: list[Any]) -> pmui.Page:
    page = pmui.Page(
        title="mlx-panel",
        header=[
            Status(source),
            Menu(path, {place: PAGES[place][0] for place in PAGES if place not in UNLISTED}, linked),
        ],
        main=main,
        main_width=1560,
        busy_indicator=None,
        dark_theme=pn.state.cookies.get(THEME_COOKIE) == "dark",
        theme_config=THEME,
        sx=LOOK,
    )
    with edit_readonly(page):
        page.busy = False  # it follows every event of every session: two messages to each open page
    return page


PAGES: dict[str, tuple[str, Callable[[Source, str], pmui.Page]]] = {
    "/": ("Overview", overview),
    "/models": ("Models", models),
    "/presets": ("Presets", presets),
    "/audit": ("Audit", audit),
    "/sql": ("SQL", sql),
    "/benchmarks": ("Benchmarks", benchmarks),
    "/privacy": ("Privacy", privacy),
    "/request": ("Request", request),
}


def build(source: Source, path: str = "/", linked: str = "paths") -> pmui.Page:
    """The page at `path`, for one session. `linked` says how it leads to the others, see `Menu`."""
    return PAGES[path][1](source, linked)


def title(path: str) -> str:
    """What a browser's tab calls the page at `path`."""
    return "mlx-panel" if path == "/" else f"{PAGES[path][0]} – mlx-panel"


def asked(arguments: Mapping[str, list[bytes]]) -> str:
    """The path of the page that a query asks for where one address serves all."""
    name = b"".join(arguments.get("page", [])[:1]).decode("ascii", "replace")
    return f"/{name}" if f"/{name}" in PAGES else "/"
