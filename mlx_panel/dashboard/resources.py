"""Panel looks for the scripts and styles of a page anew at each load, through every component class it knows.

The answer is the same each time, and finding it is most of what a page costs on the loop that also streams tokens.
`remember` keeps it. A worthy thing to send upstream; until then it is done only for versions it was tried with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import panel as pn
import panel.io.server
from bokeh.embed.bundle import _use_mathjax
from bokeh.model import Model
from panel.config import config, panel_extension
from panel.io.resources import Bundle
from panel.io.state import state

TRIED = ("1.9.",)
CONFIGURED = ("css_files", "js_files", "js_modules", "raw_css", "global_css", "design", "notifications")
LOOKS = ("global_loading_spinner", "loading_spinner", "loading_color", "loading_max_height", "npm_cdn")


def remember() -> Callable[[], None]:
    """Let Panel's server find the resources of a kind of page only once. Returns what undoes it."""
    original = panel.io.server.bundle_resources
    if not pn.__version__.startswith(TRIED) or isinstance(original, Remembered):
        return lambda: None
    panel.io.server.bundle_resources = Remembered(original)

    def undo() -> None:
        panel.io.server.bundle_resources = original

    return undo


class Remembered:
    """`bundle_resources` with a memory. Whatever the answer depends on is in the key."""

    def __init__(self, find: Callable[..., Bundle]):
        self.find = find
        self._known: dict[Any, Bundle] = {}

    def __repr__(self) -> str:
        return f"<Remembered {len(self._known)} kinds of page>"

    def __call__(self, roots: Any, resources: Any, *args: Any, **kwargs: Any) -> Bundle:
        key = (_models(roots), _resources(resources), _settings(), args, tuple(sorted(kwargs.items())))
        if key not in self._known:
            self._known[key] = self.find(roots, resources, *args, **kwargs)
        return _copy(self._known[key])


def _models(roots: Any) -> Any:
    """The types on the page, whether a text needs MathJax, and how many types exist: a later one may bring its own."""
    types = frozenset(type(model) for root in roots for model in root.references())
    return types, _use_mathjax(roots), len(Model.model_class_reverse_map)


def _resources(resources: Any) -> Any:
    root_url = resources.root_url if resources.mode.startswith("server") else None
    absolute = getattr(resources, "absolute", False)
    return resources.mode, root_url, absolute, resources.minified, resources.dev, tuple(resources.components)


def _settings() -> Any:
    values = repr([getattr(config, name) for name in (*CONFIGURED, *LOOKS)])
    extensions = (tuple(panel_extension._loaded_extensions), repr(state._extensions))
    return values, extensions, state.rel_path, state.base_url


def _copy(bundle: Bundle) -> Bundle:
    """A bundle of its own for each page: Panel adds scripts to the one it is given."""
    fresh = Bundle.__new__(Bundle)
    for name, value in vars(bundle).items():
        setattr(fresh, name, value.copy() if isinstance(value, list | dict) else value)
    return fresh
