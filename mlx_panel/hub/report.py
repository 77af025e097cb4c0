"""What a job found, as Markdown to copy."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib import metadata

import psutil

from .. import __version__
from ..library import Finding

PACKAGES = ("mlx", "mlx-lm", "tokenizers", "transformers", "huggingface-hub")
MARKS = {"info": "", "warning": "**!** ", "action_needed": "**!!** "}


def machine(device: str = "") -> dict[str, str]:
    """What it was tried on, by name. `device` is what mlx computes on. Blocks."""
    memory = psutil.virtual_memory().total
    parts = (device, f"{psutil.cpu_count()} cores", f"{memory / 1e9:.1f} GB", platform.platform())
    return {"Machine": ", ".join(filter(None, parts)), "Versions": ", ".join(_versions())}


def markdown(title: str, facts: Mapping[str, str], findings: Iterable[Finding]) -> str:
    """A heading, a list of facts, a table of findings."""
    lines = [
        f"# {_plain(title)}",
        "",
        *(f"- {name}: {_plain(value)}" for name, value in facts.items() if value),
    ]
    lines += ["", "| Step | Finding |", "|---|---|"]
    lines += [f"| {_plain(one.step)} | {MARKS[one.level]}{_plain(one.text)} |" for one in findings]
    return "\n".join(lines) + "\n"


def amount(size: int) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _versions() -> Iterable[str]:
    yield f"mlx-panel {__version__}"
    yield f"Python {platform.python_version()}"
    for name in PACKAGES:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue


def _plain(text: str) -> str:
    """On one line, and nothing that ends a cell."""
    return " ".join(text.split()).replace("|", "\\|")
