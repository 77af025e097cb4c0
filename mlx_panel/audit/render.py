"""Rows as text made by the database itself, a piece at a time: Python never holds a row, nor its lock for long."""

from __future__ import annotations

import duckdb

from ..analytics import AuditFilter
from . import walk
from .cells import FORMULA, LINE_END, SPECIAL
from .facts import fixed
from .stored import COLUMNS
from .where import where

PIECE_ROWS = 4000
WIDEST = 1 << 22  # ids looked through in one question where few rows match
ISO = "'%Y-%m-%dT%H:%M:%S.%fZ'"


class Lines:
    """The rows that match as lines of "jsonl" or "csv", oldest first, up to the newest there is at the first `next`."""

    def __init__(self, filter: AuditFilter, format: str):
        self._filter, self._format = fixed(filter), format
        self.at: int | None = None
        self._upto = 0
        self._width = PIECE_ROWS
        self._query = ""

    def __repr__(self) -> str:
        return f"<Lines {self._format} at {self.at} of {self._upto}>"

    @property
    def header(self) -> bytes:
        """What comes before all rows."""
        return (",".join(COLUMNS) + LINE_END).encode() if self._format == "csv" else b""

    def next(self, cursor: duckdb.DuckDBPyConnection) -> bytes | None:
        """The lines of at most `PIECE_ROWS` rows, None when there are no more. Blocks for some tens of milliseconds."""
        if self.at is None:
            self._begin(cursor)
        assert self.at is not None
        condition, bound = where(self._filter)
        while self.at < self._upto:
            end = min(self.at + self._width, self._upto)
            given = {**bound, "after_id": self.at, "upto_id": end}
            found, last = cursor.execute(
                f"SELECT count(*), max(id) FROM (SELECT id FROM audit WHERE id > $after_id AND id <= $upto_id "
                f"AND {condition} ORDER BY id LIMIT {PIECE_ROWS})", given,
            ).fetchall()[0]  # fmt: skip
            self.at = last if found == PIECE_ROWS else end
            self._width = PIECE_ROWS if found == PIECE_ROWS else min(self._width * 2, WIDEST)
            # None may be left of them: the oldest rows are deleted at any time.
            if found and (lines := self._lines(cursor, condition, {**given, "upto_id": self.at})):
                return lines
        return None

    def _begin(self, cursor: duckdb.DuckDBPyConnection) -> None:
        first, self._upto = walk.first_and_last(cursor)
        self.at = max(first - 1, 0)
        kinds = dict(row[:2] for row in cursor.execute("DESCRIBE audit").fetchall())
        self._query = _json(kinds) if self._format == "jsonl" else _csv(kinds)

    def _lines(self, cursor: duckdb.DuckDBPyConnection, condition: str, bound: dict) -> bytes:
        (data,) = cursor.execute(
            f"SELECT encode(string_agg(line, '' ORDER BY id)) FROM (SELECT id, {self._query} AS line FROM audit "
            f"WHERE id > $after_id AND id <= $upto_id AND {condition})", bound,
        ).fetchall()[0]  # fmt: skip
        return data or b""


def parquet_columns(kinds: dict[str, str]) -> str:
    """The select list of a Parquet file: moments with their zone, vocabularies as text."""
    return ", ".join(f'{_typed(name, kinds[name])} AS "{name}"' for name in COLUMNS)


def _typed(name: str, kind: str) -> str:
    if kind == "TIMESTAMP":
        return f"(\"{name}\" AT TIME ZONE 'UTC')"
    return f'CAST("{name}" AS VARCHAR)' if kind.startswith("ENUM") else f'"{name}"'


def _json(kinds: dict[str, str]) -> str:
    fields = ", ".join(f'"{name}" := {_moment(name, kinds[name]) or _plain(name)}' for name in COLUMNS)
    return f"CAST(to_json(struct_pack({fields})) AS VARCHAR) || chr(10)"


def _csv(kinds: dict[str, str]) -> str:
    cells = [_moment(name, kinds[name]) or _cell(name, kinds[name]) for name in COLUMNS]
    listed = ", ',', ".join(cells)
    return f"concat({listed}, chr(13), chr(10))"  # which takes NULL for nothing


def _plain(name: str) -> str:
    return f'"{name}"'


def _moment(name: str, kind: str) -> str:
    return f'strftime("{name}", {ISO})' if kind == "TIMESTAMP" else ""


def _cell(name: str, kind: str) -> str:
    """What `cells.cell` does, in SQL."""
    text = f'CAST("{name}" AS VARCHAR)'
    if kind != "VARCHAR":
        return text
    doubled = f"replace({text}, '\"', '\"\"')"
    formula = f"substr({text}, 1, 1) IN ({', '.join(f'chr({ord(mark)})' for mark in FORMULA)})"
    special = " OR ".join(f"contains({text}, chr({ord(mark)}))" for mark in SPECIAL)
    return (
        f"CASE WHEN {formula} THEN concat('\"''', {doubled}, '\"') "
        f"WHEN {special} THEN concat('\"', {doubled}, '\"') ELSE {text} END"
    )
