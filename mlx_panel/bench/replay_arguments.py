"""The options of `mlx-benchmark replay`, and what they mean."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from ..analytics import RANGES, AuditFilter, read
from .records import BenchmarkError, Target
from .replay import Wish
from .sources import AUDIT

CHOICES: dict[str, tuple[str, str]] = {
    "from_model": ("MODEL", "only requests to this model"),
    "status": ("STATUS", "only those that ended so, e.g. success"),
    "caller": ("ADDRESS", "only those of this caller"),
    "endpoint": ("ROUTE", "only those to this route"),
    "preset": ("NAME", "only those by this preset"),
    "backend": ("KIND", "only those answered there, e.g. local"),
}
MOMENTS = {
    "since": (
        "MOMENT",
        "from this moment on, e.g. 2026-11-17 or 2026-11-17T08:00:00+01:00 (without a zone: UTC)",
    ),
    "until": ("MOMENT", "before this moment"),
    "range": ("RANGE", f"counted back from now: {', '.join(RANGES)}"),
}


def add(
    commands: Any,
    targets: Callable[[argparse.ArgumentParser], None],
    output: Callable[[argparse.ArgumentParser], None],
) -> None:
    """Make the command; `targets` and `output` add what it has in common with the others."""
    one = commands.add_parser("replay", help="ask again what was asked in the past, from the audit log")
    targets(one)
    one.add_argument("--url-b", metavar="URL", default="", help="a second server, asked the same afterwards")
    one.add_argument("--name-b", metavar="NAME", default="", help="how tables call the second one")
    one.add_argument("--api-key-b", metavar="KEY", default="", help="a key for the second server alone")
    _add_past(one.add_argument_group("the past").add_argument)
    _add_changes(one.add_argument_group("how it is replayed").add_argument)
    output(one)


def _add_past(add: Callable[..., Any]) -> None:
    add(
        "--from", metavar="PLACE", dest="place", default=AUDIT,
        help="audit: this machine's own log, whether or not its server runs (the default); or a file: JSON lines of "
        "/v1/admin/audit-logs/replay, an audit.duckdb, or an export as Parquet or CSV (which has no prefixes)",
    )  # fmt: skip
    add(
        "--source-url", metavar="URL", default="", help="the server whose past it is, e.g. on another machine"
    )
    for name, (metavar, text) in MOMENTS.items():
        add(f"--{name}", metavar=metavar, default="", help=text)
    for name, (metavar, text) in CHOICES.items():
        flag = f"--{name.replace('_', '-')}"
        add(flag, metavar=metavar, action="append", default=[], help=f"{text}; may be given several times")


def _add_changes(add: Callable[..., Any]) -> None:
    add(
        "--speed",
        metavar="TIMES",
        type=_more_than_nothing,
        default=1.0,
        help="so many times as fast as then (1)",
    )
    add(
        "--max-gap",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="longer gaps between requests are cut to this",
    )
    add("--max-requests", metavar="N", type=int, default=0, help="only the first so many")
    add(
        "--map", metavar="OLD=NEW", action="append", default=[],
        help="ask NEW where OLD was asked; may be given several times (--model NAME: for every request)",
    )  # fmt: skip
    add("--timeout", metavar="SECONDS", type=float, default=600.0, help="longest time of a request (600)")
    add("--dry-run", action="store_true", help="say what would be sent, and send nothing")


def filter(args: argparse.Namespace) -> AuditFilter:
    """Which requests. Raises InvalidParameter, which names the option at fault."""
    given: dict[str, Iterable[str]] = {name: [getattr(args, name)] for name in MOMENTS}
    given |= {name.removeprefix("from_"): getattr(args, name) for name in CHOICES}
    return read(given)


def wish(args: argparse.Namespace) -> Wish:
    """How they are changed. Raises BenchmarkError."""
    instead = {}
    for pair in args.map:
        old, equals, new = pair.rpartition("=")
        if not (equals and old and new):
            raise BenchmarkError(f"--map takes OLD=NEW, not {pair!r}.")
        instead[old] = new
    if args.max_gap < 0 or args.max_requests < 0:
        raise BenchmarkError("--max-gap and --max-requests are 0 or more.")
    return Wish(
        speed=args.speed, max_gap=args.max_gap, most=args.max_requests, model=args.model, instead=instead
    )


def both(args: argparse.Namespace, first: Target) -> tuple[Target, ...]:
    """The targets: the first, and the second where one is asked too."""
    if not args.url_b:
        return (first,)
    return first, Target(url=args.url_b, model=first.model, name=args.name_b, tokenizer=first.tokenizer)


def _more_than_nothing(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1e6:
        raise ValueError
    return number
