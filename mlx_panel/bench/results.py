"""Results on disk: one JSON file a benchmark, and Parquet for those who want to ask it questions."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import msgspec

from ..settings import data_folder
from .identity import machine, versions
from .records import FORMAT, BenchmarkError, Kind, Result, Row, Run

FOLDER = "benchmarks"
LARGEST_FILE = 1 << 28
# `created` is UTC: DuckDB hands zoned times to Python only where the package pytz is there.
RUN_COLUMNS = {
    "result": "VARCHAR", "kind": "VARCHAR", "created": "TIMESTAMP", "run": "BIGINT", "round": "BIGINT",
    "target": "VARCHAR", "model": "VARCHAR", "model_hash": "VARCHAR",
}  # fmt: skip
WORKLOAD_COLUMNS = {
    "endpoint": "VARCHAR", "concurrency": "BIGINT", "prompt_length": "BIGINT", "output_length": "BIGINT",
    "temperature": "DOUBLE", "top_p": "DOUBLE", "shared_prefix": "DOUBLE", "cancel": "DOUBLE", "rate": "DOUBLE",
}  # fmt: skip
ROW_COLUMNS = {
    "number": "BIGINT", "start": "DOUBLE", "status": "VARCHAR", "http_status": "BIGINT", "error": "VARCHAR",
    "ttft": "DOUBLE", "tpot": "DOUBLE", "e2e": "DOUBLE", "itl_max": "DOUBLE", "prompt_tokens": "BIGINT",
    "cached_tokens": "BIGINT", "completion_tokens": "BIGINT", "chunks": "BIGINT", "arrivals": "BIGINT",
    "finish_reason": "VARCHAR", "tokens_counted_by": "VARCHAR",
}  # fmt: skip
COLUMNS = {**RUN_COLUMNS, **WORKLOAD_COLUMNS, **ROW_COLUMNS}
RENAMED = {"prompt_length": "prompt_tokens", "output_length": "output_tokens"}


class Loaded(NamedTuple):
    """Results, newest first, and for each file that is none of ours a line that names it and says why."""

    results: list[Result]
    skipped: list[str]


def results_folder() -> Path:
    """Where results are kept: `benchmarks` in the data folder."""
    return data_folder() / FOLDER


def new(kind: Kind, command: str = "") -> Result:
    """A result without runs, of this machine and this moment."""
    now = datetime.now(UTC)
    name = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    return Result(id=name, kind=kind, created=now, command=command, machine=machine(), versions=versions())


def save(result: Result, folder: Path | None = None) -> Path:
    """Write a result under its id; the file. Raises OSError."""
    place = folder or results_folder()
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = place / f"{result.id}.json"
    write_json(result, file)
    return file


def write_json(result: Result, file: Path) -> None:
    """Write a result to a file of one's own, atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(msgspec.json.encode(result) + b"\n")
    partial.replace(file)


def load(file: Path) -> Result:
    """Read a result. Raises BenchmarkError naming the file and what is wrong with it."""
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise BenchmarkError(f"{file} is too large for a benchmark's result.")
        result = msgspec.json.decode(file.read_bytes(), type=Result)
    except OSError as error:
        raise BenchmarkError(f"{file} cannot be read: {error.strerror}.") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise BenchmarkError(f"{file} is not a benchmark's result: {error}.") from error
    if result.format != FORMAT:
        raise BenchmarkError(f"{file} has format {result.format}; this version reads {FORMAT}.")
    if any(run.target >= len(result.targets) for run in result.runs):
        raise BenchmarkError(f"{file} is not a benchmark's result: a run of nothing.")
    return result


def load_all(folder: Path | None = None) -> Loaded:
    """Every result of a folder; a folder that is not there has none. Reads the disk: call it off a loop."""
    results, skipped = [], []
    for file in sorted((folder or results_folder()).glob("*.json")):
        try:
            results.append(load(file))
        except BenchmarkError as error:
            skipped.append(str(error))
    return Loaded(sorted(results, key=lambda result: result.created, reverse=True), skipped)


def write_parquet(results: Iterable[Result], file: Path) -> int:
    """Write one row a request of all runs; how many. Durations are milliseconds, see `Row`. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for result in results for row in flat(result)]
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as database:
        lines = Path(folder) / "rows.json"
        lines.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        source = f"read_json({_quoted(lines)}, format='newline_delimited', columns={json.dumps(COLUMNS)})"
        try:
            database.execute(f"COPY (SELECT * FROM {source}) TO {_quoted(file)} (FORMAT parquet)")
        except duckdb.IOException as error:
            raise OSError(f"{file} cannot be written") from error
    return len(rows)


def flat(result: Result) -> Iterable[dict[str, Any]]:
    """A result's requests as rows with the columns of `COLUMNS`."""
    for number, run in enumerate(result.runs):
        target = result.targets[run.target]
        shared = {
            "result": result.id, "kind": result.kind, "created": result.created.astimezone(UTC).replace(tzinfo=None), "run": number,
            "round": run.round, "target": target.name, "model": target.model, "model_hash": target.model_hash,
        }  # fmt: skip
        shared |= {name: getattr(run.workload, RENAMED.get(name, name)) for name in WORKLOAD_COLUMNS}
        yield from ({**shared, **_columns(row)} for row in run.rows)


def with_run(result: Result, run: Run) -> Result:
    """The result with one run more."""
    return msgspec.structs.replace(result, runs=(*result.runs, run))


def _columns(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in ROW_COLUMNS}


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
