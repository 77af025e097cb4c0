"""A filter as a test of one row: what `where` is to the file, for rows that have not been read from it."""

from __future__ import annotations

from collections.abc import Callable

from ..analytics import AuditFilter
from ..record import AuditRecord
from .where import UNKNOWN

Match = Callable[[AuditRecord], bool]
FINE = ("success", "cancelled")


def matcher(filter: AuditFilter) -> Match:
    """Whether a row matches. `range` counts back from the moment of this call."""
    tests = [*_named(filter), *_moments(filter)]
    if filter.scope == "model":
        tests.append(lambda record: record.dialect != "management")
    if filter.text:
        part = filter.text.lower()
        tests.append(lambda record: _has(record.model_used, part) or _has(record.model_requested, part))
    return lambda record: all(test(record) for test in tests)


def _named(filter: AuditFilter) -> list[Match]:
    told: dict[str, Callable[[AuditRecord], str | None]] = {
        "model": lambda record: record.model_used or record.model_requested or UNKNOWN,
        "caller": lambda record: record.caller or UNKNOWN,
        "status": lambda record: record.status,
        "endpoint": lambda record: record.endpoint,
        "backend": lambda record: record.backend_type or UNKNOWN,
        "error": _error,
        "preset": lambda record: record.preset or UNKNOWN,
    }
    return [
        _among(tell, frozenset(getattr(filter, name))) for name, tell in told.items() if getattr(filter, name)
    ]


def _among(tell: Callable[[AuditRecord], str | None], values: frozenset[str]) -> Match:
    return lambda record: tell(record) in values


def _error(record: AuditRecord) -> str | None:
    """The code of what went wrong, None where nothing did."""
    return record.error_type or (None if record.status in FINE else record.status)


def _moments(filter: AuditFilter) -> list[Match]:
    since, until = filter.span()
    tests: list[Match] = []
    if since is not None:
        tests.append(lambda record: record.timestamp >= since)
    if until is not None:
        tests.append(lambda record: record.timestamp < until)
    return tests


def _has(name: str | None, part: str) -> bool:
    return name is not None and part in name.lower()
