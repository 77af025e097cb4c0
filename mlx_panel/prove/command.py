"""`mlx-panel audit prove`: a proof on a running server, followed to its end in the terminal.

A server of its own would prove something about that one, so one has to run.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..audit_access.server import AuditServer
from ..errors import MlxPanelError, NotFound, ServerUnreachable
from ..inquiry import Proof
from .report import LIMITS, headline, markdown

ROUTE = "/api/privacy/proof"
POLL_SECONDS = 0.3
STYLES = {"clean": "bold green", "found": "bold red", "failed": "bold red", "cancelled": "yellow"}
FAILED = 1  # exit status where something was found, or the proof could not be finished


class Answer(msgspec.Struct, frozen=True):
    """What the route answers."""

    proof: Proof | None = None


def run(server: AuditServer | None, args: argparse.Namespace) -> int:
    """The command. `args` say whether the report is printed as `json`, as Markdown (`report`) or in short, and into which
    file (`output`) it goes too. Returns the exit status: 1 where something was found, or the proof was not finished.

    Raises ServerUnreachable without a server, and what the server names.
    """
    if server is None:
        raise ServerUnreachable("A proof is about a running server. Start one with: mlx-panel serve")
    console = Console(highlight=False, stderr=args.json or args.report)
    with contextlib.closing(server):
        proof = _shown(server, console)
    if args.output:
        _write(Path(args.output).expanduser(), proof)
    if args.json:
        print(_json(proof).decode())
    elif args.report:
        print(markdown(proof), end="")
    else:
        _print(console, proof)
    return 0 if proof.state == "clean" else FAILED


def prove(url: str, told: Callable[[Proof], Any] = lambda proof: None) -> Proof:
    """Run a proof on the server at `url` and return when it is over; `told` hears how far it is. Interrupted, it ends it.

    Raises Conflict where one runs already, ServerUnreachable, and what the server names.
    """
    with contextlib.closing(AuditServer(url)) as server:
        return follow(server, told)


def follow(server: AuditServer, told: Callable[[Proof], Any]) -> Proof:
    """`prove` on a server that is open already."""
    proof = _proof(server, "POST")
    try:
        while proof.state == "running":
            told(proof)
            time.sleep(POLL_SECONDS)
            proof = _proof(server, "GET")
    except KeyboardInterrupt:
        with contextlib.suppress(MlxPanelError):
            _proof(server, "DELETE")
        raise
    return proof


def _proof(server: AuditServer, method: str) -> Proof:
    found = server.answer(Answer, method, ROUTE).proof
    if found is None:
        raise NotFound("The server has no proof.")
    return found


def _shown(server: AuditServer, console: Console) -> Proof:
    """Follow a proof with a bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def told(proof: Proof) -> None:
            bar.update(task, description=escape(proof.step), completed=proof.steps, total=proof.total or None)

        return follow(server, told)


def _json(proof: Proof) -> bytes:
    return msgspec.json.format(msgspec.json.encode(proof), indent=2)


def _write(path: Path, proof: Proof) -> None:
    """Raises MlxPanelError where it cannot be written."""
    data = _json(proof) if path.suffix == ".json" else markdown(proof).encode()
    try:
        path.write_bytes(data)
    except OSError as error:
        raise MlxPanelError(f"{path} cannot be written: {error.strerror}.") from error


def _print(console: Console, proof: Proof) -> None:
    table = Table(
        "Place", "Searched", "Bytes", "Found", "Marks found", title="What was searched", title_justify="left"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for place in proof.places:
        found = f"{place.found:,}{' on purpose' if place.found and place.expected else ''}"
        marks = f"{place.controls} of {place.planted}" if place.planted else ""
        style = "red" if place.found and not place.expected else None
        table.add_row(
            escape(place.name), f"{place.files:,} {place.unit}", f"{place.bytes:,}", found, marks, style=style
        )
    console.print(table)
    sockets = [
        f"{one.process}: {one.local} {one.remote}".strip()
        for one in proof.sockets
        if one.verdict == "outside"
    ]
    console.print(
        f"Sockets to other machines: {escape('; '.join(sockets)) or 'none'} ({len(proof.sockets)} seen)."
    )
    for one in proof.skipped:
        console.print(escape(f"Not tried: {one.what}. {one.why}"), style="dim")
    console.print(escape(headline(proof)), style=STYLES.get(proof.state))
    if proof.state == "clean":
        console.print(escape(f"Its limits: {LIMITS[1]}"), style="dim")
