"""What a chart function gives back."""

from __future__ import annotations

from typing import Any

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """Rows as the chart's columns say; `units` replaces units of columns by name; `total` None is to be counted."""

    rows: list[list[Any]]
    sampled: int = 1
    total: int | None = None
    units: dict[str, str] = {}
