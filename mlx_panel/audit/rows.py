"""What waits to be stored as rows of the file's tables, and the check that each holds what its struct's annotations allow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

import msgspec

from ..record import AuditDetail, AuditRecord, PoolEvent

COLUMNS = AuditRecord.__struct_fields__
Entry = tuple[AuditRecord, AuditDetail | None] | PoolEvent

# Turning rows into the file's form holds Python's lock: it is let go between pieces, so that the loop never waits long.
# Where so many rows wait that some might be lost, other threads get it only as often as Python makes them take turns.
ROWS_A_PIECE, DETAILS_A_PIECE = 250, 16
BREATH_SECONDS, HURRY = 0.00005, 5000

# An id, `request_id`, `timestamp` in UTC without its zone, and the fields behind those two.
_rest = attrgetter(*COLUMNS[2:])
_Row: Any = tuple[(int, *(field.type for field in msgspec.structs.fields(AuditRecord)))]  # type: ignore[misc]
_Rows: Any = list[_Row]


class Batch:
    """The rows of one commit, checked: `audit` begins with the id `first`, `detail` has the ids of its rows.

    Raises ValueError or msgspec.ValidationError for a row that breaks a rule of its struct (a text that is no name, a
    word of no vocabulary, a moment without a zone), and TypeError or AttributeError for what is none.
    """

    def __init__(self, first: int, entries: Sequence[Entry]) -> None:
        pairs = [entry for entry in entries if isinstance(entry, tuple)]
        self.records = [record for record, _ in pairs]
        self.audit: list[tuple] = []
        for start, piece in pieces(self.records, ROWS_A_PIECE):
            self.audit += _audit_rows(first + start, piece)
        self.detail: list[tuple] = []
        more = [(first + number, detail) for number, (_, detail) in enumerate(pairs) if detail is not None]
        for _, piece in pieces(more, DETAILS_A_PIECE):
            self.detail += [(id, *_values(detail, AuditDetail)) for id, detail in piece]
        self.events = [_event_row(entry) for entry in entries if not isinstance(entry, tuple)]

    def __repr__(self) -> str:
        return f"<Batch {len(self.audit)} requests, {len(self.detail)} details, {len(self.events)} events>"

    def tables(self) -> Iterator[tuple[str, list[tuple], int]]:
        """Each table that has rows, with them, and how many are handed over at once."""
        for table, rows, size in (
            ("audit", self.audit, ROWS_A_PIECE),
            ("detail", self.detail, DETAILS_A_PIECE),
            ("pool_event", self.events, ROWS_A_PIECE),
        ):
            if rows:
                yield table, rows, size


def pieces(rows: Sequence[Any], size: int) -> Iterator[tuple[int, Sequence[Any]]]:
    """`rows` cut into pieces of `size`, each with where it starts; between them other threads get a turn."""
    for start in range(0, len(rows), size):
        if start and len(rows) < HURRY:
            time.sleep(BREATH_SECONDS)
        yield start, rows[start : start + size]


def _audit_rows(first: int, records: Sequence[AuditRecord]) -> list[tuple]:
    rows = [
        (first + number, record.request_id, naive(record.timestamp), *_rest(record))
        for number, record in enumerate(records)
    ]
    return msgspec.convert(rows, _Rows)


def _event_row(event: PoolEvent) -> tuple:
    when, *rest = _values(event, PoolEvent)
    return (naive(when), *rest)


def _values(record: Any, kind: type[msgspec.Struct]) -> Any:
    """The fields of a struct, nested ones as dicts."""
    fields = msgspec.to_builtins(record, builtin_types=(bytes, datetime))
    msgspec.convert(fields, kind)
    return fields.values()


def naive(moment: datetime) -> datetime:
    """The moment in UTC without its zone, as the file holds it. Raises ValueError for one without a zone."""
    if moment.tzinfo is UTC:
        return moment.replace(tzinfo=None)
    if moment.tzinfo is None:
        raise ValueError("a timestamp without a zone")
    return moment.astimezone(UTC).replace(tzinfo=None)
