"""Queries that people keep, in a TOML file beside the log that they can also read and write."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
import tomllib
from pathlib import Path

import msgspec
import tomlkit

from ..errors import AuditError, Conflict, InvalidParameter, NotFound
from ..inquiry import SavedQuery
from .sql_examples import EXAMPLES

log = logging.getLogger(__name__)
LONGEST_NAME = 80
LONGEST_SQL = 100_000
MOST = 1000
HEADING = "SQL queries kept in mlx-panel. Changes by hand hold from the server's next start on."


class Stored(msgspec.Struct, frozen=True):
    """A query as the file has it, by its name."""

    sql: str
    doc: str = ""


class SavedQueries:
    """Those that come with the server, and those in the file at `path`, mode 0600. For any thread; changes block."""

    def __init__(self, path: Path):
        self._path = path
        self._lock = threading.Lock()
        self._own: dict[str, SavedQuery] = {}
        self._unreadable = False

    def __repr__(self) -> str:
        return f"<SavedQueries {self._path.name} {len(self._own)} own>"

    def load(self) -> None:
        """Read the file. One that cannot be read stays as it is, and nothing can be saved until it is mended."""
        self._unreadable = False
        try:
            raw = tomllib.loads(self._path.read_text(encoding="utf-8"))
            found = msgspec.convert(raw.get("queries", {}), dict[str, Stored])
        except FileNotFoundError:
            found = {}
        except (OSError, ValueError, msgspec.ValidationError) as error:
            log.warning(
                "%s cannot be read (%s); its queries are not shown", self._path.name, type(error).__name__
            )
            self._unreadable, found = True, {}
        self._own = {
            name: SavedQuery(name, one.sql, one.doc) for name, one in found.items() if name not in BUILT_IN
        }

    def all(self) -> list[SavedQuery]:
        """Own ones first, by name."""
        return [*(self._own[name] for name in sorted(self._own, key=str.casefold)), *EXAMPLES]

    def find(self, name: str) -> SavedQuery:
        """Raises NotFound."""
        for query in self.all():
            if query.name == name:
                return query
        raise NotFound("There is no saved query of this name.", field="name")

    def save(self, query: SavedQuery, replaces: str = "") -> SavedQuery:
        """Keep a query under its name; `replaces` is the one it had. Raises InvalidParameter, NotFound, Conflict."""
        checked(query)
        with self._lock:
            if replaces and replaces not in self._own:
                raise NotFound("There is no saved query of this name.", field="name")
            if query.name in BUILT_IN:
                raise Conflict("A query of this name comes with the server; take another name.", field="name")
            if query.name != replaces and replaces and query.name in self._own:
                raise Conflict("Another query has this name.", field="name")
            kept = SavedQuery(query.name, query.sql.strip(), query.doc.strip())
            own = {name: one for name, one in self._own.items() if name != replaces} | {query.name: kept}
            if len(own) > MOST:
                raise Conflict(f"At most {MOST} queries are kept.")
            self._write(own)
        return kept

    def delete(self, name: str) -> None:
        """Raises NotFound, Conflict."""
        with self._lock:
            if name in BUILT_IN:
                raise Conflict("This query comes with the server.", field="name")
            if name not in self._own:
                raise NotFound("There is no saved query of this name.", field="name")
            self._write({other: one for other, one in self._own.items() if other != name})

    def _write(self, own: dict[str, SavedQuery]) -> None:
        if self._unreadable:
            raise Conflict(
                f"{self._path.name} cannot be read; mend it or move it away, and start the server again."
            )
        try:
            _put(self._path, told(own))
        except OSError as error:
            raise AuditError(f"The query could not be saved: {error.strerror}.") from error
        self._own = own


def checked(query: SavedQuery) -> None:
    """Raises InvalidParameter."""
    name = query.name
    if not name.strip() or name != name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise InvalidParameter(f"A name has 1 to {LONGEST_NAME} characters that can be seen.", field="name")
    if not query.sql.strip() or len(query.sql) > LONGEST_SQL:
        raise InvalidParameter(f"A query has 1 to {LONGEST_SQL:,} characters.", field="sql")
    if len(query.doc) > 500:
        raise InvalidParameter("What is said of a query has at most 500 characters.", field="doc")


def told(own: dict[str, SavedQuery]) -> str:
    """The file's text."""
    document = tomlkit.document()
    document.add(tomlkit.comment(HEADING))
    queries = tomlkit.table(is_super_table=True)
    for name in sorted(own, key=str.casefold):
        one = tomlkit.table()
        if own[name].doc:
            one.add("doc", own[name].doc)
        one.add("sql", tomlkit.string(own[name].sql, multiline="\n" in own[name].sql))
        queries.add(name, one)
    document.add("queries", queries)
    return tomlkit.dumps(document)


def _put(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", newline="\n", dir=path.parent, delete=False
    ) as stream:
        try:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(stream.name, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(stream.name)
            raise


BUILT_IN = frozenset(query.name for query in EXAMPLES)
