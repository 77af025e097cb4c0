"""A source's privacy proof: begun, followed, ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import msgspec

from ..errors import Conflict, NotFound
from ..inquiry import Proof
from ..prove.prover import Prover

Answer = TypeVar("Answer")
ROUTE = "/api/privacy/proof"


class ProofSource(Protocol):
    """The part of a `Source` that proves what the server keeps."""

    async def proof(self) -> Proof | None:
        """The one that runs, or the last one; None before the first."""
        ...

    async def start_proof(self) -> Proof:
        """Begin one; it goes on whoever looks. Conflict while one runs."""
        ...

    async def cancel_proof(self) -> Proof:
        """End the one that runs. NotFound where none does."""
        ...


# --- on the server's loop ---------------------------------------------------------------------------------


class ProofServer(Protocol):
    """The Runtime, as far as the proof goes."""

    prover: Prover


class LocalProof:
    """`ProofSource` on the server's loop."""

    _server: ProofServer

    async def proof(self) -> Proof | None:
        return self._server.prover.proof

    async def start_proof(self) -> Proof:
        return await self._server.prover.start()

    async def cancel_proof(self) -> Proof:
        return await self._server.prover.cancel()


# --- over HTTP --------------------------------------------------------------------------------------------


class Asks(Protocol):
    """What asks the server: see `Remote.answer`."""

    async def answer(self, kind: type[Answer], method: str, path: str, **content: Any) -> Answer: ...


class Maybe(msgspec.Struct, frozen=True):
    """What the server answers before the first proof, too."""

    proof: Proof | None


class Certain(msgspec.Struct, frozen=True):
    """What the server answers about one that it began or ended."""

    proof: Proof


class RemoteProof:
    """`ProofSource` over HTTP."""

    async def proof(self: Asks) -> Proof | None:
        return (await self.answer(Maybe, "GET", ROUTE)).proof

    async def start_proof(self: Asks) -> Proof:
        return (await self.answer(Certain, "POST", ROUTE)).proof

    async def cancel_proof(self: Asks) -> Proof:
        return (await self.answer(Certain, "DELETE", ROUTE)).proof


# --- without a server -------------------------------------------------------------------------------------


class Tape(Protocol):
    """What a part of `Recorded` uses of the whole; "proof" in its `faults` is raised instead of an answer."""

    privacy: list[Proof]

    def _ask(self, what: str, *arguments: Any) -> None: ...


class RecordedProof:
    """`ProofSource` without a server: `privacy` are the proofs, the last of them the newest."""

    async def proof(self: Tape) -> Proof | None:
        self._ask("proof")
        return self.privacy[-1] if self.privacy else None

    async def start_proof(self: Tape) -> Proof:
        self._ask("proof", "start")
        if self.privacy and self.privacy[-1].state == "running":
            raise Conflict("A proof is running. Wait until it is done, or cancel it.")
        self.privacy.append(Proof("running", datetime.now(UTC), step="starting"))
        return self.privacy[-1]

    async def cancel_proof(self: Tape) -> Proof:
        self._ask("proof", "cancel")
        if not self.privacy or self.privacy[-1].state != "running":
            raise NotFound("No proof is running.")
        self.privacy[-1] = msgspec.structs.replace(self.privacy[-1], state="cancelled", step="")
        return self.privacy[-1]
