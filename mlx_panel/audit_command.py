"""`mlx-panel audit`: the words of its command line, and where each action is carried out."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from .analytics import NAMED, RANGES, AuditFilter, Scope, read
from .errors import AuditLocked, InvalidParameter
from .settings import Settings

if TYPE_CHECKING:
    from .audit_access.place import AuditPlace
    from .audit_access.server import AuditServer

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
HELP = {
    "model": "the model that answered (or was asked for)", "caller": "the caller's network address",
    "status": "success, error, timeout, cancelled or rejected", "endpoint": "the route, such as /v1/chat/completions",
    "backend": "local, openai or anthropic", "error": "the error's code", "preset": "the preset that was asked for",
}  # fmt: skip


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add `audit` and its actions to a command line; `run` carries them out."""
    parser = subparsers.add_parser(
        "audit", help="the log of all requests: look, count, export, ask in SQL, prove that it holds no words"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    where, which = _where(), _which()
    _add_looks(actions, where, which)
    _add_files(actions, where, which)
    return parser


def _where() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    group = parent.add_mutually_exclusive_group()
    group.add_argument("--url", help="the server to ask (default: the one that runs on this machine, if any)")
    group.add_argument("--file", help="an audit file to read instead: a generated one, or a copy")
    return parent


def _at() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--url", help="the server (default: the one that runs on this machine)")
    return parent


def _which() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    for name in NAMED:
        parent.add_argument(f"--{name}", action="append", help=f"{HELP[name]}; may be repeated")
    parent.add_argument("--text", help="a part of the model's name")
    parent.add_argument("--since", help="from then on: 2026-11-20T08:00Z, or 30m, 6h, 2d ago")
    parent.add_argument("--until", help="before then; written like --since")
    parent.add_argument("--range", choices=(*RANGES, "all"), help="so far back from now")
    parent.add_argument("--scope", choices=get_args(Scope), help="requests to models (the default), or all")
    return parent


Actions = argparse._SubParsersAction


def _add_looks(actions: Actions, where: argparse.ArgumentParser, which: argparse.ArgumentParser) -> None:
    both = [where, which]
    listing = actions.add_parser("list", parents=both, help="requests, newest first")
    listing.add_argument("--limit", type=int, default=25, help="how many, 1 to 1000 (25)")
    listing.add_argument("--before", default="", metavar="NEXT", help="go on where the last page ended")
    show = actions.add_parser("show", parents=[where], help="one request, and where its time went")
    show.add_argument("request", metavar="ID", help="its number in the log, or its request id")
    stats = actions.add_parser(
        "stats", parents=both, help="requests, errors, tokens and latencies in numbers"
    )
    chart = actions.add_parser(
        "chart", parents=both, help="a chart as a table; without a name, what charts there are"
    )
    chart.add_argument("name", metavar="NAME", nargs="?", default="")
    chart.add_argument(
        "--option", action="append", metavar="NAME=VALUE", help="an option of the chart, such as by=model"
    )
    chart.add_argument("--buckets", type=int, default=24, help="how many places on the time axis (24)")
    chart.add_argument("-o", "--output", metavar="FILE", help="write it into a .csv or .parquet file")
    follow = actions.add_parser("follow", parents=[_at(), which], help="requests as they come, until Ctrl-C")
    follow.add_argument("--after", type=int, metavar="ID", help="begin behind this number in the log")
    sql = actions.add_parser("sql", parents=[where], help="one SELECT over the log")
    sql.add_argument(
        "sql",
        metavar="SQL",
        help='the query, such as "SELECT count(*) FROM audit"; - reads it from standard input',
    )
    sql.add_argument("--max-rows", type=int, help="rows at most")
    sql.add_argument("--timeout", type=float, metavar="SECONDS", help="seconds at most")
    sql.add_argument("--csv", action="store_true", help="as CSV")
    for one in (listing, show, stats, chart, follow, sql):
        one.add_argument("--json", action="store_true", help="as JSON")


def _add_files(actions: Actions, where: argparse.ArgumentParser, which: argparse.ArgumentParser) -> None:
    export = actions.add_parser("export", parents=[where, which], help="all requests that match, into a file")
    export.add_argument("-o", "--output", metavar="FILE", required=True, help="the file to write")
    export.add_argument(
        "--format", choices=("jsonl", "csv", "parquet"), default="", help="(default: by the file's name)"
    )
    export.add_argument("--force", action="store_true", help="replace a file of that name")
    prove = actions.add_parser(
        "prove", parents=[_at()], help="send random texts through every route and look for them afterwards"
    )
    form = prove.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the whole proof as JSON")
    form.add_argument("--report", action="store_true", help="the whole report, in Markdown")
    prove.add_argument(
        "-o", "--output", metavar="FILE", help="write the report into a file too: .json, else Markdown"
    )
    generate = actions.add_parser(
        "generate", help="write a new audit file of made-up traffic, to try things on"
    )
    generate.add_argument("path", metavar="FILE", help="a file that does not exist yet")
    generate.add_argument("--rows", type=int, default=1_000_000, help="requests (1000000)")
    generate.add_argument("--days", type=float, default=30.0, help="over so many days up to now (30)")
    generate.add_argument("--seed", type=int, default=0, help="another seed, other traffic (0)")
    shrink = actions.add_parser(
        "shrink", help="give the free space of the log's file back; while no server runs"
    )
    shrink.add_argument("--file", help="the audit file (default: the data folder's)")


def run(args: argparse.Namespace) -> int:
    """Carry out one action; the exit code. Raises the errors of the house."""
    try:
        return _kept_up(args) if args.action in ("generate", "shrink", "prove") else _looked(args)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _looked(args: argparse.Namespace) -> int:
    from .audit_access import actions

    works = {
        "list": actions.listing, "show": actions.show, "stats": actions.stats, "chart": actions.chart,
        "export": actions.export, "sql": actions.sql,
    }  # fmt: skip
    filter = audit_filter(args)
    if args.action == "follow":
        actions.tail(_server(args), args, filter)
        return 0
    with contextlib.closing(_place(args)) as place:
        works[args.action](place, args, filter)
    return 0


def _kept_up(args: argparse.Namespace) -> int:
    from .audit_access import upkeep
    from .prove import command as proving

    if args.action == "generate":
        return upkeep.made_up(args)
    if args.action == "prove":
        return proving.run(_server(args), args)
    return upkeep.shrink(
        Path(args.file).expanduser() if args.file else Settings.load().folder / "audit.duckdb"
    )


def _server(args: argparse.Namespace) -> AuditServer | None:
    """The server asked for, else the one that runs on the data folder."""
    from .audit_access.server import AuditServer

    url = args.url or _running(Settings.load())
    return AuditServer(url) if url else None


def _place(args: argparse.Namespace) -> AuditPlace:
    """The server asked for, the file asked for, the server that runs on the data folder, or the data folder's file."""
    from .audit_access.file import AuditFile

    settings = Settings.load()
    if args.file:
        return AuditFile(Path(args.file).expanduser(), settings)
    if server := _server(args):
        return server
    try:
        return AuditFile(settings.folder / "audit.duckdb", settings)
    except AuditLocked as error:
        raise AuditLocked(
            f"{error} If it is a server on another port, say which: --url http://127.0.0.1:PORT"
        ) from error


def _running(settings: Settings) -> str:
    from .hub.cli_server import find

    return find(settings.port, settings.folder)


def audit_filter(args: argparse.Namespace, now: datetime | None = None) -> AuditFilter:
    """The filter of a command line. Raises InvalidParameter."""
    given = {name: getattr(args, name, None) or [] for name in NAMED}
    given |= {name: [value] for name in ("text", "range", "scope") if (value := getattr(args, name, None))}
    given |= {
        name: [_moment(value, now)] for name in ("since", "until") if (value := getattr(args, name, None))
    }
    return read(given)


def _moment(text: str, now: datetime | None) -> str:
    """A moment as the API takes it; "6h" is six hours ago."""
    ago = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smhdw])", text)
    if ago is None:
        return text
    try:
        return ((now or datetime.now(UTC)) - timedelta(**{UNITS[ago[2]]: float(ago[1])})).isoformat()
    except OverflowError:
        raise InvalidParameter(f"{text} is too long ago.", field="since") from None
