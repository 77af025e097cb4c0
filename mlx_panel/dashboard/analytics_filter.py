"""The filter of the audit's page: what an address says, and what can be chosen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import panel as pn

from ..analytics import CHARTS, FILTER_NAMES, AuditFilter, read
from ..errors import InvalidParameter
from .source import Source

Options = dict[str, dict[str, str]]
USUAL_RANGE = "24h"


def opened(pairs: Iterable[tuple[str, str]]) -> tuple[AuditFilter, list[str]]:
    """The filter of an address, and for what of it cannot be used a sentence each; the rest holds."""
    given: dict[str, list[str]] = {}
    for name, value in pairs:
        given.setdefault(name, []).append(value)
    problems: list[str] = []
    while True:
        try:
            found = read(given)
        except InvalidParameter as error:
            problems.append(str(error))
            _leave_out(given, error.field or "")
        else:
            timed = found.since or found.until or "all" in given.get("range", ())
            return (
                found if timed or found.range else msgspec.structs.replace(found, range=USUAL_RANGE)
            ), problems


def address(filter: AuditFilter) -> list[tuple[str, str]]:
    """A filter as the page's address has it; `opened` takes it back. An open range is called "all"."""
    pairs = filter.query()
    return pairs if filter.range or filter.since or filter.until else [*pairs, ("range", "all")]


def given() -> list[tuple[str, str]]:
    """Names and values of a filter in the address that the page was asked for by."""
    arguments = pn.state.session_args or {}
    return [
        (name, value.decode("utf-8", "replace"))
        for name, values in arguments.items()
        if name in FILTER_NAMES
        for value in values
    ]


def _leave_out(given: dict[str, list[str]], name: str) -> None:
    """Take out what `read` refused: the values at fault where others of the field are right, else the field."""
    values = given.pop(name) if name in given else given.popitem()[1]
    good = [value for value in values if _readable(name, value)]
    if good and len(good) < len(values):
        given[name] = good


def _readable(name: str, value: str) -> bool:
    try:
        read({name: [value]})
    except InvalidParameter:
        return False
    return True


async def choices(source: Source, field: str, filter: AuditFilter) -> list[tuple[str, int]]:
    """Values that a field has among a filter's requests, the most frequent first, each with how many."""
    if field == "preset":
        return [(one.name, 0) for one in await source.presets()]
    if field in ("model", "status", "backend"):
        found = getattr(await source.audit_stats(filter), f"by_{field}")
    else:
        name, options = {"caller": ("callers", {}), "error": ("errors", {})}.get(
            field, ("requests", {"by": field})
        )
        chart = await source.audit_chart(name, filter, options)
        places = [column.name for column in chart.columns]
        group, number = places.index("caller" if name == "callers" else "group"), places.index("requests")
        found = {}
        for row in chart.rows:
            found[row[group]] = found.get(row[group], 0) + row[number]
    kept = {value: number for value, number in found.items() if number and value != "other"}
    return sorted(kept.items(), key=lambda item: -item[1])


def pairs_of(given: list[Any]) -> list[tuple[str, str]]:
    """What the browser sent, as far as it is names and values."""
    try:
        return msgspec.convert(given, list[tuple[str, str]])
    except msgspec.ValidationError:
        return []


def chosen(given: dict[str, Any]) -> tuple[Options, list[str]]:
    """The options that charts have; for the others a sentence each."""
    kept: Options = {}
    problems = []
    for name, chosen in given.items():
        known = CHARTS[name].options if name in CHARTS else {}
        for option, value in chosen.items() if isinstance(chosen, dict) else ():
            if option == "offset" or value in known.get(option, ()):
                kept.setdefault(name, {})[option] = str(value)
            else:
                problems.append(
                    f"There is no choice {str(option)[:20]}={str(value)[:20]} in a chart {str(name)[:20]}."
                )
    return kept, problems
