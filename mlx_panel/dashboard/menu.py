"""The way from one page of the dashboard to another."""

from __future__ import annotations

from typing import Any

import panel as pn
import param

from .assets import module


class Menu(pn.custom.JSComponent):
    """Links to the pages. `linked` "paths" where each has a path, "query" where one path serves all (`?page=…`)."""

    here = param.String(doc="The path of the page this is on.")
    pages = param.Dict(default={}, doc="Titles by path.")
    linked: Any = param.Selector(default="paths", objects=["paths", "query"])

    _esm = module("menu", "links")

    def __init__(self, here: str, pages: dict[str, str], linked: str = "paths"):
        super().__init__(here=here, pages=pages, linked=linked, height=36, margin=(0, 4))
