"""The result of a query as a data frame."""

from __future__ import annotations

import warnings
from typing import Any

import pandas as pd

from .inquiry import SqlResult

WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT", "UHUGEINT"}  # fmt: skip
TIMES = ("TIMESTAMP", "DATE")


def sql_frame(found: SqlResult) -> pd.DataFrame:
    """The rows with their columns' types; whole numbers beyond 64 bits, which pandas does not have, as Python's."""
    if found.truncated:
        warnings.warn(f"The query has more rows than these {len(found.rows):,}.", UserWarning, stacklevel=3)
    columns = [_series([row[place] for row in found.rows], kind) for place, kind in enumerate(found.types)]
    frame = pd.concat(columns, axis=1) if columns else pd.DataFrame()
    frame.columns = pd.Index(found.columns)  # a query may name two columns alike
    frame.attrs = {
        "types": dict(zip(found.columns, found.types, strict=True)), "truncated": found.truncated,
        "took_ms": found.took_ms, "as_of": found.as_of,
    }  # fmt: skip
    return frame


def _series(values: list[Any], kind: str) -> pd.Series:
    base = kind.partition("(")[0]
    if base in WHOLE:
        return _whole(values)
    if base in ("DOUBLE", "FLOAT", "DECIMAL"):
        return pd.Series([None if value is None else float(value) for value in values], dtype="float64")
    if base == "BOOLEAN":
        return pd.Series(values, dtype="boolean")
    if kind.startswith(TIMES) and not kind.endswith("]"):
        return _moments(values, aware=kind.endswith("WITH TIME ZONE"))
    if base == "INTERVAL":
        return pd.to_timedelta(pd.Series(values, dtype="object"))
    return pd.Series(values, dtype="object")


def _whole(values: list[Any]) -> pd.Series:
    numbers = [None if value is None else int(value) for value in values]
    fits = all(number is None or -(2**63) <= number < 2**63 for number in numbers)
    return pd.Series(numbers, dtype="Int64" if fits else "object")


def _moments(values: list[Any], *, aware: bool) -> pd.Series:
    """Moments; what no calendar of ours reaches (a year before 1 or after 9999) makes the whole column text."""
    try:
        return pd.to_datetime(pd.Series(values, dtype="object"), utc=aware, format="ISO8601")
    except (ValueError, OverflowError):
        return pd.Series(values, dtype="object")
