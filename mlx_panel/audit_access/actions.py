"""`mlx-panel audit list`, `show`, `stats`, `chart`, `export`, `sql` and `follow`."""

from __future__ import annotations

import argparse
import contextlib
import csv
import sys
from pathlib import Path
from typing import Any

import msgspec

from ..analytics import AuditFilter
from ..audit.flat import flat, flat_page
from ..errors import AuditError, InvalidParameter, ServerUnreachable
from ..inquiry import SqlOrder
from . import text as shown
from .live import Notice, follow
from .place import AuditPlace, format_of
from .server import AuditServer


def as_json(value: Any) -> None:
    print(msgspec.json.format(value if isinstance(value, bytes) else msgspec.json.encode(value)).decode())


def listing(place: AuditPlace, args: argparse.Namespace, filter: AuditFilter) -> None:
    """A page of requests, newest first, and how to see more."""
    page = place.rows(filter, limit=args.limit, before=args.before, count=not args.before)
    if args.json:
        return as_json(flat_page(page))
    if not page.rows:
        print("No request matches.")
        return
    out = shown.console()
    out.print(shown.rows_table(page.rows))
    if page.next:
        total = f" of {page.total:,}" if page.total is not None else ""
        out.print(
            f"{len(page.rows)}{total}. More: the same with --before {page.next}", style="dim", soft_wrap=True
        )


def show(place: AuditPlace, args: argparse.Namespace, filter: AuditFilter) -> None:
    """One request with where its time went."""
    view = place.request(args.request)
    as_json(view) if args.json else shown.console().print(shown.request_text(view))


def stats(place: AuditPlace, args: argparse.Namespace, filter: AuditFilter) -> None:
    """The requests in numbers."""
    found = place.stats(filter)
    as_json(found) if args.json else shown.console().print(shown.stats_table(found))


def chart(place: AuditPlace, args: argparse.Namespace, filter: AuditFilter) -> None:
    """A chart's table, or the list of charts; with -o a file."""
    if not args.name:
        charts = place.charts()
        return as_json(charts) if args.json else shown.console().print(shown.charts_table(charts))
    options = _options(args)
    if args.output:
        target = Path(args.output)
        kind = format_of(target)
        if kind not in ("csv", "parquet"):
            raise InvalidParameter("A chart's file is named .csv or .parquet.", field="output")
        target.write_bytes(place.chart_file(args.name, filter, options, kind, buckets=args.buckets))
        return None
    found = place.chart(args.name, filter, options, buckets=args.buckets)
    if args.json:
        return as_json(found)
    return shown.console().print(shown.chart_table(found)) if found.rows else print("No request matches.")


def _options(args: argparse.Namespace) -> dict[str, str]:
    options = {}
    for given in args.option or ():
        name, equals, value = given.partition("=")
        if not equals:
            raise InvalidParameter(
                f"An option is NAME=VALUE, such as by=model; not {given!r}.", field="option"
            )
        options[name] = value
    return options


def export(place: AuditPlace, args: argparse.Namespace, filter: AuditFilter) -> None:
    """All requests that match, into a file."""
    target = Path(args.output).expanduser()
    if target.exists() and not args.force:
        raise AuditError(f"{target} exists already. --force replaces it.")
    with _told() as progress:
        written = place.export(target, filter, format_of(target, args.format), progress)
    print(f"{target}: {written:,} bytes", file=sys.stderr)


@contextlib.contextmanager
def _told() -> Any:
    """Says on a terminal how much has come."""
    if not sys.stderr.isatty():
        yield lambda written: None
        return
    with shown.console(stderr=True).status("Exporting") as status:
        yield lambda written: status.update(f"Exporting: {written / 1e6:,.1f} MB")


def sql(place: AuditPlace, args: argparse.Namespace, filter: AuditFilter) -> None:
    """One SELECT over the log."""
    asked = sys.stdin.read() if args.sql == "-" else args.sql
    found = place.sql(SqlOrder(asked, args.max_rows, args.timeout))
    if args.json:
        return as_json(found)
    if args.csv:
        out = csv.writer(sys.stdout)
        out.writerow(found.columns)
        return out.writerows(found.rows)
    shown.console().print(shown.values_table(found.columns, found.rows))
    if found.truncated:
        print(
            f"Cut after {len(found.rows):,} rows; --max-rows allows more, up to the server's limit.",
            file=sys.stderr,
        )
    return None


def tail(server: AuditServer | None, args: argparse.Namespace, filter: AuditFilter) -> None:
    """Requests as they come, until Ctrl-C."""
    if server is None:
        raise ServerUnreachable(
            "No server runs on this data folder, so no request comes. Start one with: mlx-panel serve"
        )
    out = shown.console()
    for item in follow(server.url, filter, args.after, headers=server.headers):
        if isinstance(item, Notice):
            print(f"… {item.count:,} requests are left out ({item.kind})", file=sys.stderr, flush=True)
        elif args.json:
            print(flat(item.id, item.record).decode(), flush=True)
        else:
            out.print(shown.line(item), soft_wrap=True)
