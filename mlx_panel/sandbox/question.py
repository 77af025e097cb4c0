"""One SELECT over one database file, in a DuckDB that can reach nothing else.

The order matters: the file is attached first, read-only; then files, network, extensions and settings are shut for
good; then the operating system's limits come; only then is the SQL looked at.
"""

from __future__ import annotations

import datetime
import re
import sys
import time
from types import ModuleType
from typing import Any

import duckdb
import msgspec

from .arrow import END, ArrowStream, BrokenStream, TooLarge
from .limits import restrict
from .values import encoder
from .wire import Answer, Failed, Found, Query

CONFIG: dict[str, Any] = {
    "threads": 1,
    "async_threads": 1,
    "temp_directory": "",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,
    "python_enable_replacements": False,
    "errors_as_json": True,  # they tell the place as a number
}
LOCKED = ("SET enable_external_access = false", "SET lock_configuration = true")
# One value of each kind whose conversion loads something: afterwards no file can be opened.
EVERY_KIND = (
    "SELECT 1::DECIMAL(5, 2), now(), DATE '2000-01-01', TIME '12:00:00', '12:00:00+01'::TIMETZ, INTERVAL 1 DAY, uuid(), random(), "
    "[1], {'a': 1}, MAP {1: 2}, 'a'::BLOB, '[1]'::JSON, NULL, 1::HUGEINT, regexp_matches('a', 'a'), strftime(now(), '%H')"
)
BATCH = 1000
AROUND = 40  # characters shown before and behind a place
ONE_SELECT = "One SELECT statement, please: what is there can be asked for, not changed."


class Utc(datetime.tzinfo):
    """What DuckDB asks the module `pytz` for when it makes a Python moment with a zone; it is always UTC here."""

    def utcoffset(self, moment: datetime.datetime | None) -> datetime.timedelta:
        return datetime.timedelta(0)

    dst = utcoffset

    def tzname(self, moment: datetime.datetime | None) -> str:
        return "UTC"

    def localize(self, moment: datetime.datetime) -> datetime.datetime:
        return moment.replace(tzinfo=datetime.UTC)


def warm() -> duckdb.DuckDBPyConnection:
    """A connection for one question, with all loaded that its answer may need. Call it before anything is shut."""
    zones: Any = ModuleType("pytz")
    zones.utc = Utc()
    zones.timezone = lambda name: zones.utc
    sys.modules["pytz"] = zones
    connection = duckdb.connect(":memory:", config=CONFIG)
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(EVERY_KIND).fetchall()
    ArrowStream(connection.sql(EVERY_KIND)).write(1, 1 << 20)
    return connection


class Question:
    """`answer()` may raise what DuckDB raises, MemoryError and RecursionError; `failure` puts DuckDB's word on it."""

    def __init__(self, order: Query, connection: duckdb.DuckDBPyConnection):
        self.order = order
        self._connection = connection
        self._opened = False

    def answer(self) -> tuple[Answer, bytes | bytearray]:
        order = self.order
        connection = self._connection
        connection.execute(f"SET memory_limit = '{order.memory_bytes}B'")
        connection.execute(f"ATTACH {_quoted(order.path)} AS log (READ_ONLY)")
        connection.execute("USE log")
        for statement in LOCKED:
            connection.execute(statement)
        self._opened = True
        restrict(order.memory_bytes, order.cpu_seconds)
        begun = time.perf_counter()
        statements = connection.extract_statements(order.sql)
        if wrong := _unfit(statements):
            return wrong, b""
        connection.execute("BEGIN TRANSACTION READ ONLY")
        if order.format == "arrow":
            return self._arrow(connection.sql(statements[0]), begun)
        connection.execute(statements[0])
        return self._json(connection, begun)

    def _arrow(self, relation: duckdb.DuckDBPyRelation, begun: float) -> tuple[Answer, bytes | bytearray]:
        try:
            stream = ArrowStream(relation)
            body = stream.write(self.order.max_rows, self.order.max_bytes)
            took = f"{(time.perf_counter() - begun) * 1000:.2f}"
            about = {
                "truncated": str(stream.truncated).lower(),
                "took_ms": took,
                "as_of": self.order.as_of or "",
            }
            return Found(stream.truncated), stream.schema(about) + body + END
        except TooLarge:
            return Failed("size"), b""
        except BrokenStream as error:
            return self.failure(str(error)), b""
        except ValueError as error:
            return Failed("sql", f"A column has a type that Arrow does not have here ({error})."), b""

    def _json(self, connection: duckdb.DuckDBPyConnection, begun: float) -> tuple[Answer, bytes | bytearray]:
        columns = [(column[0], str(column[1])) for column in connection.description or ()]
        names, types = [name for name, _ in columns], [kind.strip('"') for _, kind in columns]
        body = bytearray(
            b'{"columns":' + msgspec.json.encode(names) + b',"types":' + msgspec.json.encode(types)
        )
        body += b',"rows":['
        encode, count = encoder(types), 0
        while rows := connection.fetchmany(min(BATCH, self.order.max_rows + 1 - count)):
            keep = rows[: self.order.max_rows - count]
            for row in keep:
                body += encode(row)
                body += b","
                if len(body) > self.order.max_bytes:
                    return Failed("size"), b""
            count += len(keep)
            if len(keep) < len(rows):
                return self._end(body, truncated=True, begun=begun)
        return self._end(body, truncated=False, begun=begun)

    def _end(self, body: bytearray, *, truncated: bool, begun: float) -> tuple[Answer, bytearray]:
        if body.endswith(b","):
            del body[-1:]
        took = round((time.perf_counter() - begun) * 1000, 2)
        rest = {"truncated": truncated, "took_ms": took, "as_of": self.order.as_of}
        body += b"]," + msgspec.json.encode(rest)[1:]
        return Found(truncated), body

    def failure(self, error: str) -> Failed:
        """What DuckDB says, with the place in the text."""
        kind, _, text = error.partition(": ")
        try:
            told = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.MsgspecError:
            told = {"exception_message": text}
        message = str(told.get("exception_message", ""))
        if not self._opened:
            holder = re.search(r"PID (\d+)", message)
            locked = "Could not set lock" in message
            return Failed(
                "locked" if locked else "file", kind, pid=int(holder[1]) if locked and holder else 0
            )
        if kind == "Out of Memory Error":
            return Failed("memory")
        if kind in ("FATAL Error", "Fatal Error", "INTERNAL Error", "Internal Error"):
            return Failed("failed")
        line, column, length = self._place(str(told.get("location", "")))
        message = f"{kind}: {message}".replace(self.order.path, "log")
        return Failed("sql", message + self._excerpt(line, column), line, column, length)

    def _excerpt(self, line: int, column: int) -> str:
        """The line with a mark below the place, as DuckDB's own client shows it; "" where there is no place."""
        if not line:
            return ""
        text = self.order.sql.split("\n")[line - 1].replace("\t", " ")
        first = max(0, column - 1 - AROUND)
        head = f"LINE {line}: {'…' if first else ''}"
        return f"\n\n{head}{text[first : first + 2 * AROUND]}\n{' ' * (len(head) + column - 1 - first)}^"

    def _place(self, location: str) -> tuple[int, int, int]:
        """Line, column and length, in characters from 1, of DuckDB's "[offset, length]" in bytes; zeros without it."""
        found = re.fullmatch(r"\[(\d+),\s*(\d+)\]", location)
        if found is None:
            return 0, 0, 0
        text, begin, size = self.order.sql.encode(), int(found[1]), int(found[2])
        before = text[:begin].decode(errors="replace")
        length = len(text[begin : begin + size].decode(errors="replace"))
        return before.count("\n") + 1, len(before) - before.rfind("\n"), length


def _unfit(statements: list[Any]) -> Failed | None:
    if not statements:
        return Failed("refused", "There is no statement. " + ONE_SELECT)
    if len(statements) > 1:
        return Failed("refused", f"These are {len(statements)} statements. " + ONE_SELECT)
    kind = statements[0].type
    if kind == duckdb.StatementType.SELECT:
        return None
    if kind == duckdb.StatementType.MULTI:
        return Failed(
            "refused",
            "This becomes several statements. A PIVOT names its values here: PIVOT … ON column IN (…).",
        )
    return Failed("refused", f"This is {kind.name.replace('_', ' ')}. " + ONE_SELECT)


def _quoted(path: str) -> str:
    return "'" + path.replace("'", "''") + "'"
