"""The text of the browser's half: `.js` and `.css` files beside these modules, joined into one ES module each.

A component's module is `shared.js`, then the component's own file, with both style sheets as the constant `CSS`.
One text and no import: it works in a page, in a notebook and without any network.
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent


def module(name: str) -> str:
    """The ES module of the component `name`."""
    styles = "\n".join(_read(f"{part}.css") for part in ("shared", name))
    return f"const CSS = {json.dumps(styles)};\n{_read('shared.js')}\n{_read(f'{name}.js')}"


def _read(name: str) -> str:
    path = HERE / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""
