"""Cells of CSV files that no spreadsheet takes for a formula."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

# A spreadsheet evaluates what begins with one of these (OWASP, CSV Injection); a quote in front makes it text.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
LINE_END = "\r\n"  # RFC 4180
SPECIAL = ('"', ",", "\r", "\n")


def cell(value: Any) -> str:
    """A value as a CSV cell: nothing for None, `true` and `false`, moments in ISO 8601 with Z, text quoted at need."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return iso(value)
    return text_cell(value) if isinstance(value, str) else str(value)


def text_cell(text: str) -> str:
    safe = f"'{text}" if text.startswith(FORMULA) else text
    if safe is text and not any(mark in text for mark in SPECIAL):
        return text
    return '"' + safe.replace('"', '""') + '"'


def iso(moment: datetime) -> str:
    """An aware moment in UTC, to the microsecond."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
