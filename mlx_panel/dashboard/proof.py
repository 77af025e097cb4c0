"""The privacy proof: begun here, followed, and its report."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import param

from ..inquiry import Proof
from ..prove.report import LIMITS, SHOWN, headline, markdown
from .assets import module
from .source import Source
from .watching import Face, Watching


class ProofView(Face):
    """The browser's half of `PrivacyProof`. While a proof runs, or the page is looked at, it asks how far it is."""

    proof = param.Dict(
        default=None, allow_None=True, doc="The `Proof`; {} where there is none, None at first."
    )
    headline = param.String(default="", doc="What came of it, in a sentence.")
    shown = param.List(default=list(SHOWN), doc="What a clean proof shows.")
    limits = param.List(default=list(LIMITS), doc="What it does not.")
    busy = param.Boolean(default=False, doc="Whether a start or a cancel is under way.")
    file = param.Dict(
        default={}, doc="A report for the browser: `name`, `text`, `type`, `to` (file or clipboard), `count`."
    )
    here = param.String(default="", doc="The path of the page, for links to others.")
    linked = param.String(default="", doc="How pages are linked, see `Menu`; empty where there are none.")

    _esm = module("proof", "links")


class PrivacyProof(Watching):
    """One proof at a time runs on the server; it goes on without anybody looking, and the last one is kept."""

    view: ProofView

    def __init__(self, source: Source, linked: str = "", here: str = "/privacy"):
        super().__init__(source, ProofView(sizing_mode="stretch_width", linked=linked, here=here))

    def refresh(self) -> None:
        super().refresh()
        self.work(self._ask)

    def act(self, message: dict[str, Any]) -> None:
        match message:
            case {"do": "ask"}:
                self.work(self._ask)
            case {"do": "start"}:
                self.work(partial(self._busy, self.source.start_proof))
            case {"do": "cancel"}:
                self.work(partial(self._busy, self.source.cancel_proof))
            case {"do": "report", "format": "json" | "markdown" as format, "to": "file" | "clipboard" as to}:
                self.work(partial(self._report, format, to))

    async def _ask(self) -> None:
        self._show(await self.source.proof())

    def _show(self, proof: Proof | None, **changes: Any) -> None:
        """Put a proof into the view; one that is running loses what only its end shows."""
        told = {} if proof is None else msgspec.to_builtins(proof)
        if proof is not None and proof.state == "running":
            told["sent"] = told["sockets"] = []
        words = "" if proof is None else headline(proof)
        self.view.param.update(proof=told, headline=words, notice={}, **changes)

    async def _busy(self, work: Any) -> None:
        self.view.busy = True
        try:
            self._show(await work())
        finally:
            self.view.busy = False

    async def _report(self, format: str, to: str) -> None:
        proof = await self.source.proof()
        if proof is None:
            return
        text = markdown(proof) if format == "markdown" else _json(proof)
        name = f"privacy-proof-{proof.started:%Y%m%dT%H%M%SZ}.{'md' if format == 'markdown' else 'json'}"
        kind = "text/markdown" if format == "markdown" else "application/json"
        count = self.view.file.get("count", 0) + 1
        self.view.file = {"name": name, "text": text, "type": kind, "to": to, "count": count}


def _json(proof: Proof) -> str:
    return msgspec.json.format(msgspec.json.encode(proof), indent=2).decode()
