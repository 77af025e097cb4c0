"""Where the past of a replay comes from: a running server, the audit log of one that is stopped, or a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

import duckdb
import httpx
import msgspec

from ..analytics import AuditFilter
from ..audit.replay import past, stopped
from ..errors import AuditLocked
from ..hub.cli_server import find
from ..inquiry import Past
from ..settings import Settings, data_folder
from .http1 import shown
from .mimic import pasts
from .openai import refusal
from .records import BenchmarkError

AUDIT = "audit"
FILE = "audit.duckdb"
ROUTE = "/v1/admin/audit-logs/replay"
PATIENT = httpx.Timeout(60, connect=5)
TABLES = {".parquet": "read_parquet", ".csv": "read_csv"}
LOGS = (".duckdb", ".db")
NONE = AuditFilter()


class Source(NamedTuple):
    """Requests of the past in the order in which they came, and what to call where they are from."""

    name: str
    pasts: Iterator[Past]


@contextlib.contextmanager
def opened(place: str, filter: AuditFilter, *, url: str = "") -> Iterator[Source]:
    """The requests of a filter, from the server at `url`, from "audit" (the log of the data folder, whether or not its
    server runs), or from a file. Blocks.

    Raises BenchmarkError, AuditError, and InvalidParameter for what a server finds wrong with the filter.
    """
    with contextlib.ExitStack() as stack:
        if url:
            yield Source(shown(url), stack.enter_context(_asked(url, filter)))
        elif place == AUDIT:
            yield _audit(stack, data_folder(), filter)
        else:
            yield Source(Path(place).name, _read(stack, Path(place).expanduser(), filter))


def _audit(stack: contextlib.ExitStack, folder: Path, filter: AuditFilter) -> Source:
    """The data folder's log: read from its file, or asked of the server that has it open."""
    file = folder / FILE
    if not file.is_file():
        raise BenchmarkError(f"There is no audit log in {folder} yet.")
    try:
        return Source(FILE, past(stack.enter_context(stopped(file)), filter))
    except AuditLocked:
        url = find(Settings.load().port, folder)
    if not url:
        raise BenchmarkError(
            f"A server has {file} open and was not found at its usual address; name it with --source-url."
        )
    return Source(url, stack.enter_context(_asked(url, filter)))


@contextlib.contextmanager
def _asked(url: str, filter: AuditFilter) -> Iterator[Iterator[Past]]:
    address = url.rstrip("/").removesuffix("/v1") + ROUTE
    try:
        with httpx.stream("GET", f"{address}?{urlencode(filter.query())}", timeout=PATIENT) as reply:
            if reply.status_code != 200:
                _, message = refusal(reply.status_code, reply.read())
                raise BenchmarkError(f"{shown(url)} answers {reply.status_code}. {message}".rstrip())
            yield _lines(reply, shown(url))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BenchmarkError(f"No answer from {shown(url)}: {type(error).__name__}.") from error


def _lines(reply: httpx.Response, name: str) -> Iterator[Past]:
    decode = msgspec.json.Decoder(Past).decode
    for line in reply.iter_lines():
        try:
            yield decode(line)
        except msgspec.DecodeError as error:
            raise BenchmarkError(f"{name} broke off, or does not answer like an mlx-panel server.") from error


def _read(stack: contextlib.ExitStack, file: Path, filter: AuditFilter) -> Iterator[Past]:
    if not file.is_file():
        raise BenchmarkError(f"There is no file {file}.")
    if file.suffix in LOGS:
        return past(stack.enter_context(stopped(file)), filter)
    if file.suffix in TABLES:
        return past(stack.enter_context(_table(file)), filter)
    if filter != NONE:
        raise BenchmarkError(f"{file.name} holds what was chosen already; choose where it is made.")
    return pasts(file)


@contextlib.contextmanager
def _table(file: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An export as if it were a log; it has no hashes, so no prompts that begin alike."""
    with contextlib.closing(duckdb.connect()) as made:
        quoted = "'" + str(file).replace("'", "''") + "'"
        try:
            made.execute(f"CREATE VIEW given AS FROM {TABLES[file.suffix]}({quoted})")
            kinds = {name: kind for name, kind, *_ in made.execute("DESCRIBE given").fetchall()}
            zoned = kinds.get("timestamp") == "TIMESTAMP WITH TIME ZONE"
            moment = """"timestamp" AT TIME ZONE 'UTC'""" if zoned else 'CAST("timestamp" AS TIMESTAMP)'
            made.execute(f'CREATE TABLE audit AS SELECT * REPLACE ({moment} AS "timestamp") FROM given')
        except duckdb.Error as error:
            raise BenchmarkError(f"{file} is no export of an audit log ({type(error).__name__}).") from error
        made.execute("CREATE TABLE detail (id BIGINT, block_tokens SMALLINT, blocks BLOB)")
        yield made
