"""Where a log is asked from outside of the server: what a running server and a file have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol

from ..analytics import AuditFilter, Chart, ChartInfo, RequestView, Rows, Stats
from ..inquiry import SqlOrder, SqlResult

Format = Literal["jsonl", "csv", "parquet"]
FORMATS: tuple[Format, ...] = ("jsonl", "csv", "parquet")
Progress = Callable[[int], None]  # of bytes written so far


class AuditPlace(Protocol):
    """All methods block and raise the errors of the house; `name` is for a person."""

    name: str

    def rows(
        self, filter: AuditFilter, *, limit: int = 50, before: str = "", count: bool = False
    ) -> Rows: ...
    def request(self, id: str) -> RequestView: ...
    def stats(self, filter: AuditFilter) -> Stats: ...
    def charts(self) -> list[ChartInfo]: ...
    def chart(
        self, name: str, filter: AuditFilter, options: Mapping[str, str] = {}, *, buckets: int = 120
    ) -> Chart: ...
    def chart_file(
        self, name: str, filter: AuditFilter, options: Mapping[str, str], format: str, *, buckets: int = 120
    ) -> bytes: ...
    def export(self, path: Path, filter: AuditFilter, format: Format, progress: Progress) -> int: ...
    def sql(self, order: SqlOrder) -> SqlResult: ...
    def close(self) -> None: ...


def format_of(path: Path, given: str = "") -> Format:
    """The format asked for, else the one of the file's name, else JSON lines."""
    named = given or path.suffix.removeprefix(".").lower()
    return next((format for format in FORMATS if format == named), "jsonl")
