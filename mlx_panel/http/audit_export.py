"""The audit log as a file, streamed."""

from __future__ import annotations

from ..audit.export import FORMATS
from .audit_query import AuditQuery
from .download import DownloadEndpoint

TYPES = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8; header=present",
    "parquet": "application/vnd.apache.parquet",
}


class AuditExport(DownloadEndpoint):
    """All rows that match, oldest first, as `format` jsonl, csv or parquet."""

    route = "/v1/admin/audit-logs/export"

    async def answer(self, *path: str) -> None:
        query = AuditQuery(self)
        format, filter = query.choice("format", FORMATS), query.filter()
        query.done()
        kind, name = TYPES[format], f"audit-logs.{format}"
        if self.request.method == "HEAD":
            self.name_file(kind, name)
            await self.flush()  # without a length: nobody has made the file
            return
        async with self.house.exports.begin(filter, format) as export:
            self.name_file(kind, name, export.size)
            await self.send_file(export.pieces())


routes = [(AuditExport.route, AuditExport)]
