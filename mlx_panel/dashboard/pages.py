"""The pages of the dashboard: a table path -> (title, how to build it)."""

from __future__ import annotations

from collections.abc import Callable

import panel as pn
import panel_material_ui as pmui
from panel.util import edit_readonly

from .audit import AuditTable
from .live import Live
from .source import Source
from .status import Status
from .system import SystemCard
from .timeouts import Timeouts

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
    "& .MuiAppBar-root .MuiTypography-root": {"color": "text.primary", "letterSpacing": "-0.02em"},
}


def overview(source: Source) -> pmui.Page:
    """The one page: what is live above, and under it what was, what is set and what it runs on."""
    below = pmui.Tabs(
        ("Requests", AuditTable(source)),
        ("Timeouts", Timeouts(source)),
        ("System", SystemCard(source)),
        sizing_mode="stretch_width",
        margin=(16, 0, 0, 0),
        sx={"& .MuiTabs-root": {"marginBottom": "10px", "minHeight": "40px"}},
    )
    page = pmui.Page(
        title="mlx-panel",
        header=[Status(source)],
        main=[Live(source), below],
        main_width=1560,
        busy_indicator=None,
        dark_theme=pn.state.cookies.get(THEME_COOKIE) == "dark",
        theme_config=THEME,
        sx=LOOK,
    )
    with edit_readonly(page):
        page.busy = False  # it follows every event of every session: two messages to each open page
    return page


PAGES: dict[str, tuple[str, Callable[[Source], pmui.Page]]] = {"/": ("mlx-panel", overview)}


def build(source: Source, path: str = "/") -> pmui.Page:
    """The page at `path`, for one session."""
    return PAGES[path][1](source)
