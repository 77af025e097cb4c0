"""A filter as an SQL condition, the same for every table that has a request's columns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ..analytics import AuditFilter
from ..errors import InvalidParameter

# What stands for a name that a request does not have, in charts and in filters.
UNKNOWN = "unknown"
SCOPES = {"model": "dialect <> 'management'", "all": "true"}
MODEL = f"coalesce(model_used, model_requested, '{UNKNOWN}')"
ERROR = "coalesce(error_type, CAST(status AS VARCHAR))"
FAILED = "status NOT IN ('success', 'cancelled')"
PART = "(contains(lower(model_used), lower($text)) OR contains(lower(model_requested), lower($text)))"

# Alternatives of single columns and not one expression: DuckDB holds those against a column's statistics.
FIELDS = {
    "model": "(model_used IN {} OR (model_used IS NULL AND model_requested IN {}))",
    "caller": "caller IN {}",
    "status": "status IN {}",
    "endpoint": "endpoint IN {}",
    "backend": "backend_type IN {}",
    "error": f"(error_type IN {{}} OR (error_type IS NULL AND {FAILED} AND CAST(status AS VARCHAR) IN {{}}))",
    "preset": "preset IN {}",
}
NAMELESS = {
    "model": "(model_used IS NULL AND model_requested IS NULL)",
    "caller": "caller IS NULL",
    "endpoint": "false",
    "backend": "backend_type IS NULL",
    "preset": "preset IS NULL",
}

Bound = dict[str, Any]


def where(filter: AuditFilter) -> tuple[str, Bound]:
    """The condition on a row of `audit`, with the values of its named parameters. `range` counts back from now."""
    kind, bound = matching(filter)
    since, until = filter.span()
    when, moments = between(since, until)
    return f"{kind} AND {when}", bound | moments


def matching(filter: AuditFilter) -> tuple[str, Bound]:
    """The part of the condition that is not about time."""
    conditions, bound = [in_scope(filter.scope)], Bound()
    for name, text in FIELDS.items():
        values = dict(_numbered(name, getattr(filter, name)))
        if values:
            listed = f"({', '.join(f'${key}' for key in values)})"
            found = text.replace("{}", listed)
            nameless = NAMELESS.get(name) if UNKNOWN in values.values() else None
            conditions.append(f"({found} OR {nameless})" if nameless else found)
            bound |= values
    if filter.text:
        conditions.append(PART)
        bound["text"] = filter.text
    return " AND ".join(conditions), bound


def between(
    since: datetime | None, until: datetime | None, column: str = '"timestamp"', name: str = ""
) -> tuple[str, Bound]:
    """`since` <= column < `until`, aware or already `plain`, None for open; `name` keeps several such apart."""
    given = {f"since{name}": (">=", since), f"until{name}": ("<", until)}
    conditions = [f"{column} {sign} ${key}" for key, (sign, value) in given.items() if value is not None]
    bound = {key: plain(value) for key, (_, value) in given.items() if value is not None}
    return " AND ".join(conditions) or "true", bound


def plain(moment: datetime) -> datetime:
    """The moment in UTC without its zone, as the file holds it; one without a zone is that already."""
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def in_scope(name: str) -> str:
    """The condition of a scope. Raises InvalidParameter."""
    if name not in SCOPES:
        raise InvalidParameter(f"scope is one of {', '.join(SCOPES)}.", field="scope")
    return SCOPES[name]


def _numbered(name: str, values: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(f"{name}{number}", value) for number, value in enumerate(values)]
