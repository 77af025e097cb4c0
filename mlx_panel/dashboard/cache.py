"""The prefix cache: how full it is, what it saved, and why a prompt was not found in it."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import param

from ..snapshot import Sample, Snapshot
from .assets import module
from .source import Source
from .watching import Face, Watching

RULES_OPTION = "strip_rules"
ROWS = 50


class PrefixCacheView(Face):
    """The browser's half of `PrefixCache`. It asks for the requests again when `written` has grown."""

    figures = param.String(default="", doc="`id` and `cache` of each model in memory, as JSON.")
    written = param.Integer(default=-1, doc="The snapshot's `audit_rows`.")
    records = param.List(default=None, allow_None=True, doc="`CacheRecord`s, newest first; None at first.")
    rules = param.List(default=[], doc="`RuleState`s as plain values.")
    busy = param.List(default=[], doc="What is under way: a model that is emptied, a rule that is switched.")

    _esm = module("cache")


class PrefixCache(Watching):
    """Figures move with the snapshots; the requests and the rules are asked for while they are looked at."""

    view: PrefixCacheView

    def __init__(self, source: Source):
        super().__init__(source, PrefixCacheView(sizing_mode="stretch_width"))

    def refresh(self) -> None:
        super().refresh()
        self.work(self._ask)

    def take(self, snapshot: Snapshot, history: list[Sample] | None) -> None:
        models = [{"id": one.id, "cache": one.cache} for one in snapshot.models if one.cache is not None]
        self.view.param.update(figures=msgspec.json.encode(models).decode(), written=snapshot.audit_rows)

    def act(self, message: dict[str, Any]) -> None:
        match message:
            case {"do": "ask"}:
                self.work(self._ask)
            case {"do": "clear", "model": str(model)}:
                self.work(partial(self._busy, model, partial(self.source.clear_cache, model)))
            case {"do": "rule", "name": str(name), "on": bool(on)}:
                self.work(partial(self._busy, name, partial(self._switch, name, on)))

    async def _ask(self) -> None:
        records = await self.source.cache_records()
        self.view.param.update(records=msgspec.to_builtins(records[:ROWS]), notice={})
        await self._ask_rules()

    async def _ask_rules(self) -> None:
        self.view.rules = msgspec.to_builtins(await self.source.cache_rules())

    async def _switch(self, name: str, on: bool) -> None:
        rules = [rule.name for rule in await self.source.cache_rules() if rule.enabled and rule.name != name]
        await self.source.set_engine({RULES_OPTION: [*rules, name] if on else rules})
        await self._ask_rules()

    async def _busy(self, what: str, work: Any) -> None:
        self.view.busy = [*self.view.busy, what]
        try:
            await work()
        finally:
            self.view.busy = [other for other in self.view.busy if other != what]
