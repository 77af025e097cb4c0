"""`mlx-panel models search`, `list` and `show`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import msgspec

from ..chat import printable
from ..errors import HubModelNotFound, HubRefused, HubUnavailable, InvalidParameter, ModelNotFound
from ..library import HubDetails, HubQuery, LibraryModel
from ..sizing import parse_limit
from . import cli_text as shown
from .cli_place import Place

README_LINES = 30


def json(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value)).decode())


async def search(place: Place, args: argparse.Namespace) -> None:
    """A page of hits, and how to see more."""
    query = HubQuery(
        text=" ".join(args.text), author=args.author, architecture=args.architecture, bits=args.bits,
        capability=args.capability, max_bytes=_bytes(args.max_size), fits=args.fits, sort=args.sort, limit=args.limit,
        cursor=args.cursor,
    )  # fmt: skip
    page = await place.search(query)
    if args.json:
        return json(page)
    if page.reason:
        print(f"mlx-panel: {page.reason} These are models of this machine.", file=sys.stderr)
    if not page.models:
        print("Nothing found. Try fewer words, or fewer filters.")
        return
    out = shown.console()
    out.print(shown.hits_table(page.models))
    if page.cursor:
        out.print(f"More: the same with --cursor {page.cursor}", style="dim", soft_wrap=True)


def _bytes(text: str) -> int:
    """Raises InvalidParameter for what is no size."""
    if not text:
        return 0
    try:
        if "%" in text or text == "auto":
            raise ValueError
        return parse_limit(text, 0)
    except ValueError as error:
        raise InvalidParameter(f"{text!r} is not a size such as 8GB or 800MB.", field="max_size") from error


async def listing(place: Place, args: argparse.Namespace) -> None:
    """Every model on this machine."""
    models = await place.local()
    if args.json:
        json(models)
    elif models:
        shown.console().print(shown.local_table(models))
    else:
        print(
            "No models yet. Find one with `mlx-panel models search`, or fetch a small one with `mlx-panel models demo`."
        )


async def show(place: Place, args: argparse.Namespace) -> None:
    """A model of this machine, else one of the hub."""
    models = await place.local()
    own = next((model for model in models if model.id == args.model), None)
    if own is not None and not args.hub:
        return json(own) if args.json else _own(own)
    try:
        found = await place.details(args.model)
    except (HubUnavailable, HubModelNotFound, InvalidParameter, HubRefused) as error:
        raise ModelNotFound(f"{error} {_here(models)}") from error
    if args.json:
        json(found)
    else:
        _there(found)


def _here(models: Sequence[LibraryModel]) -> str:
    names = ", ".join(model.id for model in models)
    return f"On this machine are: {names}." if names else "There is no model on this machine."


def _own(model: LibraryModel) -> None:
    can = model.capabilities
    out = shown.console()
    out.print(model.id, style="bold", markup=False)
    out.print(
        shown.facts(
            [
                ("Where", f"{model.path} ({model.source})"),
                ("Revision", model.revision),
                ("Size", shown.size(model.bytes)),
                ("Weights", model.dtype),
                ("Parameters", shown.many(model.parameters) if model.parameters else ""),
                ("Memory", f"{shown.size(model.expected)} expected" if model.expected else ""),
                ("Architecture", " ".join(word for word in (can.architecture, can.family) if word)),
                ("Context", f"{can.context_length:,} tokens" if can.context_length else ""),
                ("Tried context", f"{can.usable_context:,} tokens" if can.usable_context else ""),
                ("Can", ", ".join(can.kinds)),
                ("Tools", can.tools),
                ("Reasoning", can.reasoning),
                ("Known by", "a probe" if can.source == "probe" else "its files"),
                ("Dimensions", str(can.dimensions or "")),
                ("State", model.state),
                ("Last used", shown.ago(model.last_used)),
                ("Verified", shown.ago(model.verified) if model.verified else ""),
                ("Missing", ", ".join(model.missing)),
                ("Note", can.reason),
            ]
        )
    )


def _there(found: HubDetails) -> None:
    model, out = found.model, shown.console()
    out.print(model.id, style="bold", markup=False)
    total = sum(file.bytes for file in found.files)
    out.print(
        shown.facts(
            [
                ("Where", "on the hub" + ", and on this machine" * model.local),
                ("Commit", found.commit),
                ("Licence", found.licence),
                (
                    "Files",
                    f"{len(found.files)}, {shown.size(total)}; {shown.size(found.free_disk)} of disk are free",
                ),
                ("Weights", shown.size(model.bytes) + (f", {model.bits} bits" if model.bits else "")),
                ("Parameters", shown.many(model.parameters) if model.parameters else ""),
                (
                    "Memory",
                    f"{shown.size(found.needed)}; fits: {shown.FITS[model.verdict].plain}"
                    if found.needed
                    else "",
                ),
                ("Architecture", model.architecture),
                ("Context", f"{found.context_length:,} tokens" if found.context_length else ""),
                ("Can", ", ".join(model.capabilities)),
                ("Downloads", f"{shown.many(model.downloads)}, {shown.many(model.likes)} likes"),
                ("Note", found.reason),
            ]
        )
    )
    if found.readme:
        lines = printable(found.readme).splitlines()
        out.print()
        out.print("\n".join(lines[:README_LINES]), markup=False)
        if len(lines) > README_LINES:
            out.print(f"… {len(lines) - README_LINES} more lines", style="dim")
