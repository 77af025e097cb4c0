"""A row of the table `audit` as a struct: which columns to ask for, and what they make."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from ..analytics import Row
from ..record import AuditRecord

COLUMNS = ("id", *AuditRecord.__struct_fields__)
LISTED = ", ".join(f'"{name}"' for name in COLUMNS)
_TIMESTAMP = COLUMNS.index("timestamp")


def stored(values: tuple[Any, ...]) -> Row:
    """The row of which these are the columns `LISTED`."""
    id, *fields = values
    fields[_TIMESTAMP - 1] = values[_TIMESTAMP].replace(tzinfo=UTC)  # the file holds UTC without its zone
    return Row(id, AuditRecord(*fields))
