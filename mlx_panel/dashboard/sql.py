"""SQL over the audit log: an editor, what can be asked for, kept queries, and the result as a table and as a chart."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec
import param
from bokeh.application.application import SessionContext

from ..errors import InvalidSql, MlxPanelError
from ..inquiry import SavedQuery, SqlOrder
from .assets import module
from .form import Form, FormView
from .source import Source

SCRIPTS = ("sql_words", "sql_editor", "sql_shelf", "sql_table", "sql_chart")


class SqlView(FormView):
    """The browser's half of `Sql`. What is large travels as JSON text."""

    tables = param.String(default="", doc="The tables as JSON; empty before the first answer.")
    queries = param.String(default="", doc="The kept queries as JSON; empty before the first answer.")
    running = param.Boolean(default=False, doc="Whether a query is under way.")
    result = param.String(default="", doc="The last result as JSON, see `inquiry.SqlResult`.")
    answered = param.Dict(
        default={}, doc="What the last answer is about: `sql`, `error`, `cancelled`, `ms`, `count`."
    )
    deleted = param.String(default="", doc="The query that can be had back.")
    linked: Any = param.Selector(
        default="", objects=["", "paths", "query"], doc="Whether the query stands in the page's address."
    )

    _esm = module("sql", *SCRIPTS)


class Sql(Form):
    """Answers one SELECT at a time. It asks for the tables when it is first seen."""

    view: SqlView

    def __init__(self, source: Source, linked: str = ""):
        super().__init__(source, SqlView(linked=linked, sizing_mode="stretch_width"))
        self._query: asyncio.Future[bytes] | None = None
        self._queries: dict[str, SavedQuery] = {}
        self._deleted: SavedQuery | None = None

    def refresh(self) -> None:
        super().refresh()
        self.work(self._ask)

    def act(self, message: dict[str, Any]) -> None:
        match message:
            case {"do": "run", "sql": str(sql), "rows": int(rows)}:
                self.work(partial(self._run, SqlOrder(sql, max_rows=rows or None)))
            case {"do": "cancel"}:
                self.cancel()
            case {"do": "save", "name": str(name), "sql": str(sql), "replaces": str(replaces)}:
                self.work(partial(self._busy, partial(self._save, SavedQuery(name, sql), replaces)))
            case {"do": "delete", "name": str(name)}:
                self.work(partial(self._busy, partial(self._delete, name)))
            case {"do": "undo"}:
                self.work(partial(self._busy, self._undo))

    def cancel(self) -> None:
        """End the query that runs."""
        if self._query is not None:
            self._query.cancel()

    def _session_ended(self, context: SessionContext) -> None:
        self.cancel()  # nobody is left who would see the answer
        super()._session_ended(context)

    async def _ask(self) -> None:
        if not self.view.tables:
            self.view.tables = msgspec.json.encode(await self.source.sql_schema()).decode()
        await self._ask_queries()

    async def _ask_queries(self) -> None:
        self._queries = {query.name: query for query in await self.source.sql_queries()}
        told = [
            {name: getattr(query, name) for name in query.__struct_fields__}
            for query in self._queries.values()
        ]
        self.view.param.update(queries=msgspec.json.encode(told).decode(), notice={})

    async def _run(self, order: SqlOrder) -> None:
        if self._query is not None:
            return
        self.view.running = True
        begun = asyncio.get_running_loop().time()
        query = self._query = asyncio.ensure_future(self.source.sql_json(order))
        result, about = self.view.result, dict[str, Any]()
        try:
            result = (await query).decode()
        except asyncio.CancelledError:
            if not query.cancelled():  # not the query was cancelled, but this
                query.cancel()
                raise
            about = {"cancelled": True}
        except MlxPanelError as error:
            about = {"error": _told(error)}
        finally:
            self._query = None
        about["ms"] = round((asyncio.get_running_loop().time() - begun) * 1000)
        count = self.view.answered.get("count", 0) + 1
        self.view.param.update(
            result=result, answered={"sql": order.sql, "count": count, **about}, running=False
        )

    async def _save(self, query: SavedQuery, replaces: str) -> None:
        kept = self._queries.get(replaces or query.name)
        made = await self.source.save_sql_query(
            msgspec.structs.replace(query, doc=kept.doc if kept else ""), replaces
        )
        await self._ask_queries()
        self._confirm(f"Saved as {made.name}.")

    async def _delete(self, name: str) -> None:
        kept = self._queries.get(name)
        await self.source.delete_sql_query(name)
        self._deleted = kept
        await self._ask_queries()
        self.view.deleted = name if kept else ""

    async def _undo(self) -> None:
        query, self._deleted = self._deleted, None
        self.view.deleted = ""
        if query is not None:
            await self.source.save_sql_query(SavedQuery(query.name, query.sql, query.doc))
            await self._ask_queries()


def _told(error: MlxPanelError) -> dict[str, Any]:
    """An error as the editor shows it: with its place, where it has one."""
    numbers = {name: error.numbers.get(name, 0) for name in ("line", "column", "length")}
    text = str(error).partition("\n\nLINE ")[0] if isinstance(error, InvalidSql) else str(error)
    return {"text": text, **numbers}
