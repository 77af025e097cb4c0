"""The text of the browser's half: `.js` and `.css` files beside these modules, joined into one ES module each.

A component's module is `shared.js`, then further parts it names, then its own file; the style sheets of all of them are
the constant `CSS`. One text and no import: it works in a page, in a notebook and without any network.
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent


def module(name: str, *parts: str) -> str:
    """The ES module of the component `name`; `parts` are files that stand before its own."""
    files = ("shared", *parts, name)
    styles = "\n".join(_read(f"{file}.css") for file in files)
    return "\n".join((f"const CSS = {json.dumps(styles)};", *(_read(f"{file}.js") for file in files)))


def _read(name: str) -> str:
    path = HERE / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""
