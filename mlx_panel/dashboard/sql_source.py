"""A source's SQL console: queries over the audit log, what can be asked for, and the queries that people keep."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from ..audit.sql import SqlConsole
from ..audit.sql_schema import Table
from ..errors import Conflict, InvalidSql, NotFound
from ..inquiry import SavedQuery, SqlOrder, SqlResult

Answer = TypeVar("Answer")
SQL = "/v1/admin/audit-logs/sql"
PATIENT = httpx.Timeout(10, read=None)  # the server knows how long a query may take


class SqlSource(Protocol):
    """The part of a `Source` that answers SQL."""

    async def sql_json(self, order: SqlOrder) -> bytes:
        """What a SELECT found, as the JSON of an `inquiry.SqlResult`. Cancelling it ends the query."""
        ...

    async def sql_schema(self) -> list[Table]:
        """The tables and their columns."""
        ...

    async def sql_queries(self) -> list[SavedQuery]:
        """Those kept, and those that come with the server."""
        ...

    async def save_sql_query(self, query: SavedQuery, replaces: str = "") -> SavedQuery:
        """Keep one; `replaces` is the name it had. Conflict where the name is taken."""
        ...

    async def delete_sql_query(self, name: str) -> None: ...


# --- on the server's loop ---------------------------------------------------------------------------------


class SqlServer(Protocol):
    """The Runtime, as far as SQL goes."""

    console: SqlConsole


class LocalSql:
    """`SqlSource` on the server's loop."""

    _server: SqlServer

    async def sql_json(self, order: SqlOrder) -> bytes:
        return await self._server.console.run_json(order)

    async def sql_schema(self) -> list[Table]:
        return await self._server.console.schema()

    async def sql_queries(self) -> list[SavedQuery]:
        return self._server.console.saved()

    async def save_sql_query(self, query: SavedQuery, replaces: str = "") -> SavedQuery:
        return await self._server.console.save(query, replaces)

    async def delete_sql_query(self, name: str) -> None:
        await self._server.console.delete(name)


# --- over HTTP --------------------------------------------------------------------------------------------


class Asks(Protocol):
    """What asks the server: see `Remote`."""

    async def answer(self, kind: type[Answer], method: str, path: str, **content: Any) -> Answer: ...
    async def _ask(self, method: str, path: str, *, timeout: Any = ..., **content: Any) -> httpx.Response: ...


class RemoteSql:
    """`SqlSource` over HTTP."""

    async def sql_json(self: Asks, order: SqlOrder) -> bytes:
        given = {name: value for name, value in msgspec.to_builtins(order).items() if value is not None}
        return (await self._ask("POST", SQL, timeout=PATIENT, json=given)).content

    async def sql_schema(self: Asks) -> list[Table]:
        return (await self.answer(dict[str, list[Table]], "GET", f"{SQL}/schema"))["tables"]

    async def sql_queries(self: Asks) -> list[SavedQuery]:
        return (await self.answer(dict[str, list[SavedQuery]], "GET", f"{SQL}/queries"))["queries"]

    async def save_sql_query(self: Asks, query: SavedQuery, replaces: str = "") -> SavedQuery:
        content = {"sql": query.sql, "doc": query.doc, **({"name": query.name} if replaces else {})}
        return await self.answer(SavedQuery, "PUT", _query(replaces or query.name), json=content)

    async def delete_sql_query(self: Asks, name: str) -> None:
        await self._ask("DELETE", _query(name))


def _query(name: str) -> str:
    return f"{SQL}/queries/{quote(name, safe='')}"


# --- without a server -------------------------------------------------------------------------------------


class Tape(Protocol):
    """What a part of `Recorded` uses of the whole."""

    sql_results: dict[str, SqlResult]
    queries: dict[str, SavedQuery]
    tables: list[Table]

    def _ask(self, what: str, *arguments: Any) -> None: ...


class RecordedSql:
    """`SqlSource` without a server: `sql_results` by their SQL. "sql" in its `faults` is raised instead of an answer."""

    async def sql_json(self: Tape, order: SqlOrder) -> bytes:
        self._ask("sql", order)
        if order.sql not in self.sql_results:
            raise InvalidSql("Nothing was recorded for this query.", field="sql")
        return msgspec.json.encode(self.sql_results[order.sql])

    async def sql_schema(self: Tape) -> list[Table]:
        self._ask("sql_schema")
        return list(self.tables)

    async def sql_queries(self: Tape) -> list[SavedQuery]:
        self._ask("sql_queries")
        return [self.queries[name] for name in sorted(self.queries)]

    async def save_sql_query(self: Tape, query: SavedQuery, replaces: str = "") -> SavedQuery:
        self._ask("sql_queries", query, replaces)
        if replaces and replaces != query.name and query.name in self.queries:
            raise Conflict("Another query has this name.", field="name")
        self.queries.pop(replaces, None)
        self.queries[query.name] = query
        return query

    async def delete_sql_query(self: Tape, name: str) -> None:
        self._ask("sql_queries", name)
        if self.queries.pop(name, None) is None:
            raise NotFound("There is no saved query of this name.", field="name")
