"""SQL over the audit log: one SELECT, what can be asked for, and the queries that people keep.

The text of a query goes to DuckDB and, where it is wrong, back to whoever sent it; nowhere else.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..inquiry import SavedQuery, SqlOrder
from . import decode as bodies
from .endpoint import Endpoint

ARROW = "application/vnd.apache.arrow.stream"
NOTHING_MORE = bodies.Vocabulary()


class KeptQuery(msgspec.Struct, frozen=True):
    """The body of a query to keep; `name` is a new name for it."""

    sql: str
    doc: str = ""
    name: str = ""


class Asking(Endpoint):
    def take(self, into: type[Any]) -> Any:
        """The body. Raises BadRequest's children."""
        return bodies.take(bodies.load(self.body), into, NOTHING_MORE, refuse_unknown=True)[0]


class AuditSql(Asking):
    """One SELECT: the result as JSON, or as an Arrow stream for those who accept that."""

    verbs = ("POST",)
    route = "/v1/admin/audit-logs/sql"

    async def answer(self, *path: str) -> None:
        order = self.take(SqlOrder)
        self.set_header("Vary", "Accept, Origin")
        if ARROW not in self.request.headers.get("Accept", ""):
            return self.reply(await self.house.console.run_json(order))
        body = await self.house.console.run_arrow(order)
        self.set_header("Content-Type", ARROW)
        self.write(body)


class AuditSqlSchema(Endpoint):
    """The tables, their columns with their types, and a line about each."""

    route = "/v1/admin/audit-logs/sql/schema"

    async def answer(self, *path: str) -> None:
        self.reply({"tables": await self.house.console.schema()})


class SavedSqlQueries(Endpoint):
    """Own queries by name, and those that come with the server."""

    route = "/v1/admin/audit-logs/sql/queries"

    async def answer(self, *path: str) -> None:
        self.reply({"queries": [whole(query) for query in self.house.console.saved()]})


class SavedSqlQuery(Asking):
    """One of them: read, kept (also under a new name), deleted."""

    verbs = ("GET", "PUT", "DELETE")
    route = "/v1/admin/audit-logs/sql/queries/{name}"

    async def answer(self, *path: str) -> None:
        console, name = self.house.console, path[0]
        if self.request.method == "DELETE":
            await console.delete(name)
            self.reply({"status": "deleted", "name": name})
        elif self.request.method == "PUT":
            given = self.take(KeptQuery)
            renamed = bool(given.name) and given.name != name
            query = SavedQuery(given.name or name, given.sql, given.doc)
            self.reply(whole(await console.save(query, name if renamed else "")))
        else:
            self.reply(whole(console.find(name)))


def whole(query: SavedQuery) -> dict[str, Any]:
    return {"name": query.name, "sql": query.sql, "doc": query.doc, "built_in": query.built_in}


routes = [
    (AuditSql.route, AuditSql),
    (AuditSqlSchema.route, AuditSqlSchema),
    (SavedSqlQueries.route, SavedSqlQueries),
    (r"/v1/admin/audit-logs/sql/queries/(.+)", SavedSqlQuery),
]
