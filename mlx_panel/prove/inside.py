"""What only the server's process can search: the audit log through SQL, and what it said. Off its loop."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import duckdb

from ..audit.reader import AuditReader
from ..inquiry import Place
from .canary import Canary
from .columns import texts
from .ears import Ears
from .needles import Hit, Needles

SAID = "what the server's process logged and printed"


async def asked_database(reader: AuditReader, sought: Sequence[Canary], since: datetime, mark: str) -> Place:
    """Search every text column of the audit log; `mark` is how the proof's request ids begin, which are there. Raises
    AuditError."""
    needles = Needles(sought[:-1])

    def search(cursor: duckdb.DuckDBPyConnection) -> Place:
        return _searched(cursor, needles, since, mark.encode())

    return await reader.ask(search)


def _searched(cursor: duckdb.DuckDBPyConnection, needles: Needles, since: datetime, mark: bytes) -> Place:
    where: list[str] = []
    hits: set[Hit] = set()
    columns = size = 0
    marked = False
    for name, values in texts(cursor, since):
        held = b"\n".join(values)
        found = needles.find(held)
        columns, size, hits = columns + 1, size + len(held), hits | found
        where += [name] if found else []
        marked = marked or mark in held
    note = "those that can hold text, of every table; request ids that a client chooses are kept on purpose"
    return Place(
        "audit log, through SQL", columns, size, len(hits), note, where=tuple(where),
        encodings=tuple(sorted({hit.form for hit in hits})), planted=1, controls=int(marked), unit="columns",
    )  # fmt: skip


def asked_ears(ears: Ears, sought: Sequence[Canary]) -> Place:
    """Search what was logged and printed; the last of `sought` was logged on purpose. Blocks."""
    heard = ears.heard()
    hits = Needles(sought).find(heard)
    control = len(sought) - 1
    found = {hit for hit in hits if hit.canary != control}
    return Place(
        SAID, ears.lines, len(heard), len(found), "log records too that only `log_level` \"debug\" shows",
        where=("a log record or a printed line",) if found else (), encodings=tuple(sorted({hit.form for hit in found})),
        planted=1, controls=int(len(found) < len(hits)), unit="lines",
    )  # fmt: skip
