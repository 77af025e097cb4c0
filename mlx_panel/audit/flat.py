"""A stored request as one flat JSON object: its id, then the columns of its row."""

from __future__ import annotations

import msgspec

from ..analytics import Row, Rows
from ..record import AuditRecord


class _Numbered(msgspec.Struct):
    id: int


class _Page(msgspec.Struct):
    rows: list[msgspec.Raw]
    next: str = ""
    total: int | None = None


def flat(id: int, record: AuditRecord) -> bytes:
    """The row as JSON: `{"id": 7, "request_id": …}`."""
    return b'{"id":%d,' % id + msgspec.json.encode(record)[1:]


def unflat(data: bytes | msgspec.Raw) -> Row:
    """The row that `flat` wrote. Raises msgspec.MsgspecError."""
    return Row(msgspec.json.decode(data, type=_Numbered).id, msgspec.json.decode(data, type=AuditRecord))


def flat_page(page: Rows) -> bytes:
    """A page as JSON: `{"rows": [flat rows], "next": …, "total": …}`."""
    rows = [msgspec.Raw(flat(row.id, row.record)) for row in page.rows]
    return msgspec.json.encode(_Page(rows, page.next, page.total))


def unflat_page(data: bytes) -> Rows:
    """The page that `flat_page` wrote. Raises msgspec.MsgspecError."""
    page = msgspec.json.decode(data, type=_Page)
    return Rows([unflat(row) for row in page.rows], page.next, page.total)
