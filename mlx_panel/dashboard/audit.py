"""The audit log as a table: one row a request, newest first, and never a word of what was said."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import msgspec
import param

from ..messages import Status as RequestStatus
from ..snapshot import Sample, Snapshot
from .assets import module
from .source import Source
from .watching import Face, Watching

PAGE_SIZES = (10, 25, 50, 100)
STATUSES = get_args(RequestStatus)


class Query(msgspec.Struct, frozen=True):
    """Which page of the log to show. `status` and `model` None show all."""

    limit: int = 25
    offset: int = 0
    status: str | None = None
    model: str | None = None
    scope: str = "model"

    def clean(self) -> Query:
        """The nearest query that can be asked; what the browser sends is not to be trusted."""
        return Query(
            limit=self.limit if self.limit in PAGE_SIZES else 25,
            offset=max(0, self.offset),
            status=self.status if self.status in STATUSES else None,
            model=self.model or None,
            scope=self.scope if self.scope in ("model", "all") else "model",
        )


class AuditView(Face):
    """The browser's half of `AuditTable`. It asks again when `written` has grown and the first page is shown."""

    page = param.Dict(
        default={}, doc="`rows`, `total` and the `query` they answer; empty before the first answer."
    )
    written = param.Integer(default=-1, doc="The snapshot's `audit_rows`.")
    models = param.List(default=[], doc="Names to suggest in the filter.")
    sizes = param.List(default=list(PAGE_SIZES))
    statuses = param.List(default=list(STATUSES))

    _esm = module("audit")


class AuditTable(Watching):
    """Requests, page by page, filtered and cut by the server; the browser never holds more than one page."""

    view: AuditView

    def __init__(self, source: Source, limit: int = 25):
        super().__init__(source, AuditView(sizing_mode="stretch_width"))
        self.query = Query(limit=limit).clean()

    def refresh(self) -> None:
        super().refresh()
        self.work(self._ask)

    def take(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        names = sorted(model.id for model in snapshot.models)
        self.view.param.update(written=snapshot.audit_rows, models=names)

    def act(self, message: dict[str, Any]) -> None:
        if message.get("do") == "ask":
            try:
                self.query = msgspec.convert(message.get("query"), Query).clean()
            except msgspec.ValidationError:
                return
            self.work(self._ask)

    async def _ask(self) -> None:
        query = self.query
        page = await partial(self.source.audit_page, **msgspec.structs.asdict(query))()
        if query == self.query:
            answer = {"rows": msgspec.to_builtins(page.rows), "total": page.total}
            self.view.param.update(page={**answer, "query": msgspec.to_builtins(query)}, notice={})
