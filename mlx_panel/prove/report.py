"""A proof in words: what it shows, what it does not, and the whole of it as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..inquiry import Opened, Place, Proof, Sent

SHOWN = (
    "Random texts were sent through every route of this server, in places that it takes and in places that it refuses: "
    "prompts, conversations, tool definitions, calls and results, schemas, answers that were held to repeat them, broken "
    "bodies, paths, queries and headers.",
    "Afterwards they were searched for, whole and in pieces, in some twenty encodings and as the model's token numbers.",
    "Each time it is tried that the search finds what is really there: marks are put into the places first.",
)
LIMITS = (
    "It speaks of the routes, the settings and the version that ran, not of others.",
    "Memory is not searched: while a request runs its text is in the memory of the server and of the model's process, and "
    "the prefix cache keeps the state of prompts there. What the system swaps out or dumps is not searched either.",
    "A piece of fewer than about 20 characters, or one that was compressed or encrypted, cannot be found in a file's "
    "bytes. The audit log's columns are therefore read through SQL too; rows that were deleted are not.",
    "What is kept on purpose is named, not counted: the prefix cache on disk, presets, aliases and queries as their owner "
    "wrote them, and request ids that a client chooses (`X-Request-ID`).",
    "Other programs (a proxy, a terminal that keeps what it shows, the client itself) are not looked at.",
    "Whoever changed the program could change the proof too: it guards against mistakes, not against its own author.",
)
NOT_FOUND = "The search did not find the mark that was put there, so its silence proves nothing: {}."


def verdict(proof: Proof) -> dict[str, Any]:
    """How a proof that was done ends: its `state` and `error`."""
    blind = [place.name for place in proof.places if place.controls < place.planted]
    if leaks(proof) or outside(proof):
        return {"state": "found", "error": ""}
    if blind:
        return {"state": "failed", "error": NOT_FOUND.format(", ".join(blind))}
    return {"state": "clean", "error": ""}


def leaks(proof: Proof) -> list[Place]:
    """The places where canaries must not be and are."""
    return [place for place in proof.places if place.found and not place.expected]


def outside(proof: Proof) -> list[Opened]:
    """Connections that lead out of this machine and are not the hub's."""
    return [one for one in proof.sockets if one.verdict == "outside" and not (one.remote and one.note)]


def headline(proof: Proof) -> str:
    """What came of it, in a sentence."""
    match proof.state:
        case "running":
            return f"Running: {proof.step}."
        case "clean":
            return (
                f"Nothing was kept: {proof.canaries} random texts went through the server in {proof.requests:,} requests, and "
                f"{len(proof.places)} places with {sum(place.bytes for place in proof.places) / 1e6:,.1f} MB hold none of "
                f"them{_but(kept(proof))}."
            )
        case "found":
            where = [f"{place.name} ({', '.join(place.where)})" for place in leaks(proof)]
            where += [f"a connection to {one.remote or one.local} ({one.process})" for one in outside(proof)]
            return f"Something was kept or could leave: {'; '.join(where)}."
        case "cancelled":
            return "The proof was cancelled; it shows nothing."
    return f"The proof could not be finished: {proof.error}"


def kept(proof: Proof) -> list[Place]:
    """The places that hold content on purpose, and did this time."""
    return [place for place in proof.places if place.found and place.expected]


def _but(places: list[Place]) -> str:
    return f", but for what is kept on purpose: {', '.join(place.name for place in places)}" if places else ""


def markdown(proof: Proof) -> str:
    """The whole report."""
    return "\n".join(_lines(proof)) + "\n"


def _lines(proof: Proof) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in proof.versions.items())
    yield from ("# Privacy proof", "", f"**{headline(proof)}**", "")
    yield f"{proof.started:%Y-%m-%d %H:%M:%S} UTC, {proof.seconds:g} s. {versions}."
    yield f"Answered by {proof.model or 'no model'}; vectors by {proof.embedder or 'no model'}."
    heads = ("Place", "Searched", "Bytes", "Found", "Marks found", "About")
    yield from _section("What was searched", _table(heads, map(_place, proof.places)))
    sockets = [(one.process, one.local, one.remote, one.verdict, one.note) for one in proof.sockets]
    yield from _section("Connections", _table(("Process", "Here", "There", "Whose", "About"), sockets))
    yield from _section(
        "What was sent", _table(("Group", "Route", "Requests", "Answers"), map(_sent, proof.sent))
    )
    yield from _section("What was not tried", _list(f"{one.what}: {one.why}" for one in proof.skipped))
    yield from _section("What a clean proof shows", _list(SHOWN))
    yield from _section("What it does not", _list(LIMITS))


def _sent(one: Sent) -> tuple[Any, ...]:
    answers = ", ".join(f"{number} × {status}" for status, number in one.statuses.items())
    return one.group, f"{one.method} {one.route}", one.requests, answers


def _place(place: Place) -> tuple[Any, ...]:
    found = f"{place.found}{' (on purpose)' if place.found and place.expected else ''}"
    marks = f"{place.controls} of {place.planted}" if place.planted else ""
    return place.name, f"{place.files:,} {place.unit}", place.bytes, found, marks, "; ".join(about(place))


def about(place: Place) -> Iterator[str]:
    """What is to be said of a place beside its figures."""
    if place.note:
        yield place.note
    if place.older:
        yield f"{place.older:,} older, not changed since and so left out"
    if place.skipped:
        yield f"{place.skipped:,} could not be searched"
    if place.found:
        files = "" if place.expected else f"in {', '.join(place.where)}, "
        yield f"{files}as {', '.join(place.encodings)}"


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
    yield from ("", f"## {title}", "")
    yield from lines


def _table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_cell(one) for one in row)} |"


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _list(lines: Any) -> Iterator[str]:
    yield from (f"- {line}" for line in lines)
