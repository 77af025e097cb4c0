"""The audit log as a table: one row a request, newest first, and never a word of what was said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import msgspec
import param

from ..analytics import AuditFilter
from ..audit.flat import flat
from ..messages import Status as RequestStatus
from ..snapshot import Sample, Snapshot
from .assets import module
from .source import Source
from .watching import Face, Watching

PAGE_SIZES = (10, 25, 50, 100)
STATUSES = get_args(RequestStatus)
LONGEST_MARK = 200
Choose = Callable[[str, str, bool], None]


class Query(msgspec.Struct, frozen=True):
    """Which page of the log to show: the newest, or the one `before` a mark. `status` and `model` None show all."""

    limit: int = 25
    before: str = ""
    status: str | None = None
    model: str | None = None
    scope: str = "model"

    def clean(self) -> Query:
        """The nearest query that can be asked; what the browser sends is not to be trusted."""
        return Query(
            limit=self.limit if self.limit in PAGE_SIZES else 25,
            before=self.before if len(self.before) <= LONGEST_MARK else "",
            status=self.status if self.status in STATUSES else None,
            model=self.model or None,
            scope=self.scope if self.scope in ("model", "all") else "model",
        )

    def filter(self) -> AuditFilter:
        """What is asked where the table has a filter of its own."""
        status = (self.status,) if self.status else ()
        return AuditFilter(
            text=self.model or "", status=status, scope="all" if self.scope == "all" else "model"
        )


class AuditView(Face):
    """The browser's half of `AuditTable`. It asks again when `written` has grown and the first page is shown."""

    page = param.String(
        doc="`rows`, `total`, `next` and the `query` they answer, as JSON: Bokeh would walk each value. Empty before it."
    )
    written = param.Integer(default=-1, doc="The snapshot's `audit_rows`.")
    models = param.List(default=[], doc="Names to suggest in the filter.")
    sizes = param.List(default=list(PAGE_SIZES))
    statuses = param.List(default=list(STATUSES))
    own = param.Boolean(
        default=True, doc="Whether the table is filtered here; else values may be chosen from it."
    )
    asked = param.Integer(default=0, doc="Grows with each filter given from outside.")
    still = param.Boolean(default=False, doc="Whether new rows cannot come, or are not to be followed.")
    linked = param.String(doc="How pages are linked (see `Menu`); empty where there are none.")
    here = param.String(default="/", doc="The path of the page this is on.")

    _esm = module("audit", "links", "popover", "audit_columns")


class AuditTable(Watching):
    """Requests, page by page, cut by the server; the browser never holds more than one page.

    It has fields to filter by. Where it is given `choose` it has none: `put` says which requests, and what is picked from
    a row (a field, its value, whether beside others) goes to `choose`.
    """

    view: AuditView

    def __init__(
        self,
        source: Source,
        limit: int = 25,
        *,
        choose: Choose | None = None,
        linked: str = "",
        here: str = "/",
    ):
        view = AuditView(sizing_mode="stretch_width", own=choose is None, linked=linked, here=here)
        super().__init__(source, view)
        self.query = Query(limit=limit).clean()
        self._choose = choose
        self._given: AuditFilter | None = None
        self._total: tuple[AuditFilter, int] | None = None

    @property
    def filter(self) -> AuditFilter:
        """Which requests are shown."""
        return self._given or self.query.filter()

    @property
    def page(self) -> dict[str, Any]:
        """What is shown, as the browser has it; empty before the first answer."""
        return msgspec.json.decode(self.view.page) if self.view.page else {}

    def put(self, filter: AuditFilter, still: bool = False) -> None:
        """Show these requests, from the newest; `still` ones are not looked for again when new ones come."""
        changed = filter != self._given
        self._given = filter
        self.view.still = still or filter.until is not None
        if changed:
            self._total = None
            self.query = msgspec.structs.replace(self.query, before="")
            self.view.asked += 1
            if self._eyes:  # else it is asked for when it is seen
                self.work(self._ask)

    def refresh(self) -> None:
        super().refresh()
        self.work(self._ask)

    def take(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        names = sorted(model.id for model in snapshot.models)
        self.view.param.update(written=snapshot.audit_rows, models=names)

    def act(self, message: dict[str, Any]) -> None:
        match message:
            case {"do": "ask"}:
                try:
                    self.query = msgspec.convert(message.get("query"), Query).clean()
                except msgspec.ValidationError:
                    return
                self.work(self._ask)
            case {"do": "choose", "field": str(field), "value": str(value)} if self._choose:
                self._choose(field, value, message.get("add") is True)

    async def _ask(self) -> None:
        query, filter = self.query, self.filter
        page = await self.source.audit_rows(filter, query.limit, query.before, count=not query.before)
        if (query, filter) != (self.query, self.filter):
            return
        if page.total is not None:
            self._total = (filter, page.total)
        total = self._total[1] if self._total and self._total[0] == filter else None
        rows = [msgspec.Raw(flat(row.id, row.record)) for row in page.rows]
        answer = {"rows": rows, "next": page.next, "total": total, "query": query}
        self.view.param.update(page=msgspec.json.encode(answer).decode(), notice={})
