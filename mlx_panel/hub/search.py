"""Searching the hub: what it filters is asked of it, the rest is filtered here while its pages are read on.

The hub sorts by downloads, likes and time. By size and by name the first `PAGES` pages of what matches are sorted here.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec

from ..errors import HubModelNotFound, HubRefused, InvalidParameter
from ..library import HubModel, HubPage, HubQuery, Verdict
from . import hits
from .client import HubClient

PAGES = 10  # of the hub's that one search reads at most
PAGE = 100  # hits of such a page where the hub cannot filter all that is asked for
LIMIT = 100
TEXT_LIMIT = 256
KEPT_SECONDS = 300.0
KEPT = 8
KEPT_SIZES = 1000
ASKED_SIZES = 20  # hits of unknown size that one search asks for one by one
AT_ONCE = 4

Needed = Callable[[dict[str, Any], int], int]


class Cursor(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a search goes on: at the hit `skip` of the hub's page that the query `next` asks for; or behind the key
    `after` in a list that is sorted here, of models of this machine if `local`. `query` is what it belongs to."""

    query: str
    next: str = ""
    skip: Annotated[int, msgspec.Meta(ge=0)] = 0
    after: tuple[float | str, str] | None = None
    local: bool = False

    def text(self) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")


class Found(NamedTuple):
    """A hit and the memory it would take; what depends on this machine's state is not in it yet."""

    model: HubModel
    needed: int


def check(query: HubQuery) -> Cursor | None:
    """The query's cursor. Raises InvalidParameter for what no search can be."""
    if not 1 <= query.limit <= LIMIT:
        raise InvalidParameter(f"'limit' is from 1 to {LIMIT}.", field="limit")
    for name in ("text", "author", "architecture"):
        if len(getattr(query, name)) > TEXT_LIMIT:
            raise InvalidParameter(f"'{name}' has at most {TEXT_LIMIT} characters.", field=name)
    if not 0 <= query.bits <= 32:
        raise InvalidParameter("'bits' is from 1 to 32, or 0 for any.", field="bits")
    if query.max_bytes < 0:
        raise InvalidParameter("'max_bytes' cannot be negative.", field="max_bytes")
    return _cursor(query) if query.cursor else None


def _cursor(query: HubQuery) -> Cursor:
    try:
        data = base64.urlsafe_b64decode(query.cursor.encode("ascii") + b"==")
        cursor = msgspec.json.decode(data, type=Cursor)
    except (ValueError, msgspec.MsgspecError) as error:
        raise InvalidParameter("This is not a cursor that a search gave.", field="cursor") from error
    if cursor.query != digest(query):
        raise InvalidParameter("This cursor belongs to another search.", field="cursor")
    return cursor


def digest(query: HubQuery) -> str:
    """What tells one search from another, whatever its limit and its cursor."""
    asked = msgspec.structs.replace(query, limit=20, cursor="")
    return hashlib.sha256(msgspec.json.encode(asked)).hexdigest()[:16]


def keyed(models: list[HubModel], query: HubQuery, cursor: Cursor | None, *, local: bool = False) -> HubPage:
    """A page of models that are all here, in the query's order, behind the cursor."""
    ordered = sorted(models, key=lambda model: hits.key(model, query))
    if cursor is not None and cursor.after is not None:
        after = tuple(cursor.after)
        ordered = [model for model in ordered if hits.key(model, query) > after]
    shown = ordered[: query.limit]
    more = len(ordered) > len(shown)
    place = Cursor(digest(query), after=hits.key(shown[-1], query), local=local) if more else None
    return HubPage(models=tuple(shown), cursor=place.text() if place else "")


class Searcher:
    """Searches one hub. `needed` tells what a model of that config and weight takes in memory, `verdict` if that fits."""

    def __init__(self, client: HubClient, needed: Needed, verdict: Callable[[int], Verdict]):
        self._client, self._needed, self._verdict = client, needed, verdict
        self._kept: dict[str, tuple[float, list[Found]]] = {}
        self._sizes: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Searcher {self._client!r}, {len(self._kept)} lists kept>"

    def forget(self) -> None:
        """Drop what is kept: another token sees other models."""
        self._kept.clear()

    async def page(self, query: HubQuery, cursor: Cursor | None, local: Collection[str]) -> HubPage:
        """A page of hits; `local` are the names of this machine's models. Raises HubRefused, HubUnavailable."""
        if query.sort not in hits.SORTED_THERE:
            every = [self._judged(found, local) for found in await self._all(query)]
            return keyed([model for model in every if hits.fits(model, query)], query, cursor)
        return await self._read_on(query, cursor, local)

    async def _read_on(self, query: HubQuery, cursor: Cursor | None, local: Collection[str]) -> HubPage:
        place = cursor or Cursor(digest(query))
        models: list[HubModel] = []
        asks = Budget(ASKED_SIZES)
        for _ in range(PAGES):
            raw, following = await self._list(query, place.next)
            for index, found in await self._page(raw, place.skip, query, asks):
                model = self._judged(found, local)
                if not hits.fits(model, query) or model.id in {one.id for one in models}:
                    continue
                if len(models) == query.limit:
                    here = msgspec.structs.replace(place, skip=index)
                    return HubPage(models=tuple(models), cursor=here.text())
                models.append(model)
            place = Cursor(place.query, following)
            if not following or len(models) == query.limit:
                break
        return HubPage(models=tuple(models), cursor=place.text() if place.next else "")

    async def _page(
        self, raw: list[Any], skip: int, query: HubQuery, asks: Budget
    ) -> list[tuple[int, Found]]:
        """What a page of the hub's holds of the query's kind from an entry on, each with its place."""
        some = [(index, self._found(raw[index], query)) for index in range(skip, len(raw))]
        found = [(index, one) for index, one in some if one is not None]
        sized = await self._sized([one for _, one in found], asks)
        return [(index, one) for (index, _), one in zip(found, sized, strict=True)]

    async def _all(self, query: HubQuery) -> list[Found]:
        """All that match on the first pages, kept for a while so that going on is quick."""
        name, now = digest(query), time.monotonic()
        if name in self._kept and self._kept[name][0] > now - KEPT_SECONDS:
            return self._kept[name][1]
        found: dict[str, Found] = {}
        following = ""
        for _ in range(PAGES):
            raw, following = await self._list(query, following)
            some = (self._found(one, query) for one in raw)
            found |= {one.model.id: one for one in some if one is not None}
            if not following:
                break
        every = await self._sized(list(found.values()), Budget(ASKED_SIZES))
        self._kept = dict([*self._kept.items(), (name, (now, every))][-KEPT:])
        return every

    async def _list(self, query: HubQuery, following: str) -> tuple[list[Any], str]:
        """A page of the hub's own, and the query for the next."""
        asked: Any = hits.parse_query(following) if following else asked_of_hub(query)
        raw, following = await self._client.json("/api/models", asked)
        return raw if isinstance(raw, list) else [], following

    def _found(self, raw: Any, query: HubQuery) -> Found | None:
        model = hits.hit(raw) if isinstance(raw, dict) else None
        if model is None or not hits.matches(model, query):
            return None
        return Found(model, self._weighed(raw, model.bytes))

    def _weighed(self, raw: Mapping[str, Any], size: int) -> int:
        return self._needed(hits.table(raw.get("config")), size) if size else 0

    def _judged(self, found: Found, local: Collection[str]) -> HubModel:
        verdict: Verdict = self._verdict(found.needed) if found.needed else "unknown"
        return msgspec.structs.replace(found.model, verdict=verdict, local=found.model.id in local)

    # --- sizes that the list does not tell -------------------------------------------------------------------

    async def _sized(self, every: list[Found], asks: Budget) -> list[Found]:
        """The same, with the storage of those whose size is not known, as far as the budget goes."""
        unknown = [one.model.id for one in every if not one.model.bytes]
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(
            *(self._ask(id, gate) for id in unknown if id not in self._sizes and asks.take())
        )
        return [self._with_size(one) for one in every]

    def _with_size(self, found: Found) -> Found:
        size = found.model.bytes or self._sizes.get(found.model.id, 0)
        if size == found.model.bytes:
            return found
        return Found(msgspec.structs.replace(found.model, bytes=size, estimated=True), self._needed({}, size))

    async def _ask(self, id: str, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                raw, _ = await self._client.json(f"/api/models/{id}", {"expand": "usedStorage"}, id=id)
            except (HubModelNotFound, HubRefused):
                raw = {}  # it was hidden since the list was made
        used = hits.table(raw).get("usedStorage")
        self._sizes = dict([*self._sizes.items(), (id, used if isinstance(used, int) else 0)][-KEPT_SIZES:])


class Budget:
    """So many times yes."""

    def __init__(self, times: int):
        self.left = times

    def __repr__(self) -> str:
        return f"<Budget of {self.left}>"

    def take(self) -> bool:
        self.left -= 1
        return self.left >= 0


def asked_of_hub(query: HubQuery) -> list[tuple[str, str]]:
    """The hub's own parameters: its tags are MLX, and the architecture as configs name it."""
    here = query.bits or query.capability or query.max_bytes or query.fits
    local_order = query.sort not in hits.SORTED_THERE
    asked = [
        ("filter", "mlx"),
        ("sort", hits.SORTED_THERE.get(query.sort, "downloads")),
        ("direction", "-1"),
        ("limit", str(PAGE if here or local_order else query.limit)),
    ]
    asked += [("filter", query.architecture.lower())] * bool(query.architecture)
    asked += [("search", query.text)] * bool(query.text) + [("author", query.author)] * bool(query.author)
    return asked + [("expand", name) for name in hits.EXPAND]
