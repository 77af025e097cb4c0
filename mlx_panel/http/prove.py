"""The privacy proof over HTTP: the one that runs, or the last one that did."""

from __future__ import annotations

import msgspec

from . import decode as bodies
from .endpoint import Endpoint

NOTHING_MORE = bodies.Vocabulary()


class Nothing(msgspec.Struct, frozen=True):
    """There is nothing to choose."""


class PrivacyProof(Endpoint):
    """POST begins one, and is refused while one runs; GET tells how far it is and what came of it; DELETE ends it."""

    verbs = ("GET", "POST", "DELETE")
    route = "/api/privacy/proof"

    async def answer(self, *path: str) -> None:
        prover = self.house.prover
        if self._size:
            bodies.take(bodies.load(self.body), Nothing, NOTHING_MORE, refuse_unknown=True)
        if self.request.method == "POST":
            return self.reply({"proof": await prover.start()}, status=202)
        if self.request.method == "DELETE":
            return self.reply({"proof": await prover.cancel()})
        self.reply({"proof": prover.proof})


routes = [(PrivacyProof.route, PrivacyProof)]
