"""The audit log: one content-free row a request, in a DuckDB file that one thread writes."""

from __future__ import annotations

from .reader import AuditReader
from .store import AuditStore

__all__ = ["AuditReader", "AuditStore"]
