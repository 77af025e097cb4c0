"""Made-up traffic in an audit file of its own, as a log of millions of requests to try charts and queries on.

Nothing of it comes from real requests. Days have a rhythm by hour and weekday; callers differ in how much they ask and
which models they like; a first token takes as long as the queue, a load and the part of the prompt that is not cached;
a busy hour makes all of it slower. The same rows come from the same arguments.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from ..errors import AuditError, InvalidParameter
from .rollup import advance
from .schema import migrate
from .where import plain

MOST_ROWS, MOST_DAYS = 100_000_000, 3650
AT_ONCE = 500_000
# Share of a day's requests by hour (UTC), and of a week's by day from Monday.
HOURS = (2, 1, 1, 1, 1, 2, 4, 8, 14, 18, 19, 18, 14, 17, 19, 18, 16, 13, 10, 8, 7, 6, 5, 3)
WEEKDAYS = (10, 11, 11, 10, 9, 3, 2)

# Name, where it runs, how likely, milliseconds a token of an answer, tokens of a prompt a second.
MODELS = (
    ("Qwen3-8B-4bit", "local", 34, 18.0, 900.0),
    ("Llama-3.3-70B-Instruct-4bit", "local", 12, 95.0, 110.0),
    ("gpt-oss-20b-MXFP4", "local", 20, 14.0, 1200.0),
    ("gemma-3-4b-it-4bit", "local", 12, 9.0, 2100.0),
    ("all-MiniLM-L6-v2", "local", 13, 0.0, 9000.0),
    ("gpt-4o-mini", "openai", 6, 11.0, 8000.0),
    ("claude-haiku", "anthropic", 3, 12.0, 7000.0),
)
EMBEDDER = 5
CALLERS = 48

Progress = Callable[[int, int], None]


def generate(
    path: str | Path,
    rows: int,
    *,
    days: float = 30.0,
    seed: int = 0,
    end: datetime | None = None,
    progress: Progress | None = None,
) -> None:
    """Write `rows` requests of the `days` before `end` (the hour that has begun) into the new file `path`, with their sums.

    `progress` is called with rows written and rows in all. A file that could not be finished is removed. Raises
    AuditError where there is a file already or none can be written, and InvalidParameter.
    """
    if not 1 <= rows <= MOST_ROWS:
        raise InvalidParameter(f"rows is 1 to {MOST_ROWS}.", field="rows")
    if not 0.05 <= days <= MOST_DAYS:
        raise InvalidParameter(f"days is 0.05 to {MOST_DAYS}.", field="days")
    path = Path(path).expanduser()
    last = plain(end or datetime.now(UTC)).replace(minute=0, second=0, microsecond=0)
    with _new(path) as connection:
        for piece in _pieces(list(plan(rows, last - timedelta(days=days), last))):
            connection.begin()
            _write(connection, piece, seed)
            connection.commit()
            while advance(connection, AT_ONCE) == 0:
                pass
            if progress is not None:
                progress(piece[-1][1] + piece[-1][2] - 1, rows)
        connection.execute(
            _EVENTS, {"first": last - timedelta(days=days), "days": max(1, int(days)), "seed": seed}
        )
        while advance(connection) == 0:
            pass
        connection.execute("CHECKPOINT")


def plan(rows: int, first: datetime, last: datetime) -> Iterator[tuple[datetime, int, int, float]]:
    """Begin of each hour, the id of its first row, how many it has, and how busy it is (1 in the busiest)."""
    hours = max(1, round((last - first) / timedelta(hours=1)))
    begins = [last - timedelta(hours=back) for back in range(hours, 0, -1)]
    weights = [HOURS[begin.hour] * WEEKDAYS[begin.weekday()] for begin in begins]
    whole, most, passed, given = sum(weights), max(HOURS) * max(WEEKDAYS), 0, 0
    for begin, weight in zip(begins, weights, strict=True):
        passed += weight
        upto = rows * passed // whole
        if upto > given:
            yield begin, given + 1, upto - given, weight / most
        given = upto


def _pieces(
    hours: list[tuple[datetime, int, int, float]],
) -> Iterator[list[tuple[datetime, int, int, float]]]:
    """The hours in groups of about AT_ONCE rows."""
    piece: list[tuple[datetime, int, int, float]] = []
    for hour in hours:
        piece.append(hour)
        if sum(count for _, _, count, _ in piece) >= AT_ONCE:
            yield piece
            piece = []
    if piece:
        yield piece


def _write(
    connection: duckdb.DuckDBPyConnection, hours: list[tuple[datetime, int, int, float]], seed: int
) -> None:
    begins, firsts, counts, loads = (list(column) for column in zip(*hours, strict=True))
    connection.execute(
        _REQUESTS,
        {"begins": begins, "firsts": firsts, "counts": counts, "loads": loads, "seed": seed},
    )


@contextlib.contextmanager
def _new(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a new file with the log's schema, readable by its owner; the file goes if the block fails."""
    if path.exists():
        raise AuditError(f"{path} exists already; made-up traffic is written into a new file only.")
    with contextlib.ExitStack() as unfinished:
        unfinished.callback(_remove, path)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.closing(duckdb.connect(str(path), config={"memory_limit": "2GB"})) as connection:
                os.chmod(path, 0o600)
                migrate(connection)
                yield connection
        except (OSError, duckdb.Error) as error:
            raise AuditError(f"{path} could not be written ({type(error).__name__}).") from error
        unfinished.pop_all()


def _remove(path: Path) -> None:
    for name in (path, path.with_name(f"{path.name}.wal")):
        with contextlib.suppress(OSError):
            name.unlink()


def _listed(column: int) -> str:
    return "[" + ", ".join(repr(model[column]) for model in MODELS) + "]"


def _popular() -> str:
    """SQL list of model numbers, as often as they are likely: a uniform pick from it is one by popularity."""
    return (
        "[" + ", ".join(str(number) for number, model in enumerate(MODELS, 1) for _ in range(model[2])) + "]"
    )


def _uniform(name: str, row: str = "id") -> str:
    """SQL for a number in [0, 1), always the same for the same row, seed and name."""
    return f"((hash({row}, '{name}', $seed) >> 11) / 9007199254740992.0)"


def _normal(name: str) -> str:
    """SQL for a normally distributed number (Box and Muller, 1958)."""
    radius = f"sqrt(-2 * ln(1 - {_uniform(name + ' radius')}))"
    return f"{radius} * cos(2 * pi() * {_uniform(name + ' angle')})"


_REQUESTS = f"""
INSERT INTO audit BY NAME
WITH hours AS (
    SELECT unnest($begins) AS hour, unnest($firsts) AS first, unnest($counts) AS count, unnest($loads) AS load
),
numbered AS (
    SELECT hour, load, count, first, unnest(range(first, first + count)) AS id FROM hours
),
callers AS (
    SELECT *, CAST(floor({CALLERS} * pow({_uniform("caller")}, 2.5)) AS INTEGER) AS who,
        hour + to_microseconds(CAST(3600000000 * ((id - first + {_uniform("moment")}) / count) AS BIGINT)) AS "timestamp",
        {_uniform("kind")} AS kind, {_uniform("fate")} AS fate
    FROM numbered
),
models AS (
    SELECT *, CAST({_popular()}[1 + CAST(floor(hash(CASE WHEN {_uniform("habit")} < 0.7 THEN who ELSE id END, $seed) % 100) AS INTEGER)]
        AS INTEGER) AS which
    FROM callers
),
sizes AS (
    SELECT *, which = {EMBEDDER} AS embeds, kind < 0.03 AS manages, fate < 0.955 OR fate >= 0.975 AND fate < 0.98 AS answers,
        CAST(least(32000, 8 + exp(5.6 + 0.3 * (who % 4) + 1.0 * {_normal("prompt")})) AS BIGINT) AS prompt,
        CAST(least(4096, 1 + exp(4.7 + 0.9 * {_normal("answer")})) AS BIGINT) AS answer,
        {_uniform("cache")} AS cache, -ln(1 - {_uniform("queue")}) AS waits, {_uniform("load")} < 0.002 AS loads,
        0.7 + 0.6 * {_uniform("pace")} AS pace
    FROM models
),
caches AS (
    SELECT *, CASE WHEN embeds OR which > {EMBEDDER} OR cache > 0.55 THEN 0
        ELSE CAST(floor(prompt * (0.3 + cache) / 16) AS BIGINT) * 16 END AS cached
    FROM sizes
),
times AS (
    SELECT *, CASE WHEN which > {EMBEDDER} THEN 0.1 ELSE waits * (2 + 900 * pow(load, 4)) END AS queue,
        CASE WHEN loads AND which < {EMBEDDER} THEN 2000 + 9000 * pace END AS cold,
        (prompt - cached) * 1000.0 / {_listed(4)}[which] * pace * (1 + load) AS prefill,
        {_listed(3)}[which] * pace * (1 + 0.8 * load) AS itl
    FROM caches
),
ends AS (
    SELECT *, NOT manages AND (answers OR fate < 0.975) AS began, 12 + queue + coalesce(cold, 0) + prefill AS first_ms,
        CASE WHEN embeds THEN 0 WHEN answers THEN answer ELSE greatest(1, answer // 3) END AS made
    FROM times
)
SELECT id, 'gen-' || lower(to_hex(hash(id, $seed))) AS request_id, "timestamp",
    CASE WHEN manages THEN ['/api/status', '/v1/models', '/api/models'][1 + id % 3] WHEN embeds THEN '/v1/embeddings'
        WHEN who % 7 = 3 THEN '/v1/messages' WHEN who % 11 = 5 THEN '/v1/completions' ELSE '/v1/chat/completions' END AS endpoint,
    CASE WHEN manages THEN 'management' WHEN who % 7 = 3 AND NOT embeds THEN 'anthropic' ELSE 'openai' END AS dialect,
    CASE WHEN manages OR answers THEN 'success' WHEN fate < 0.975 THEN 'cancelled' WHEN fate < 0.988 THEN 'error'
        WHEN fate < 0.994 THEN 'timeout' ELSE 'rejected' END AS status,
    CASE WHEN manages OR answers THEN 200 WHEN fate < 0.975 THEN 499 WHEN fate < 0.988 THEN 503 WHEN fate < 0.994 THEN 408
        ELSE 503 END AS http_status,
    CASE WHEN NOT manages THEN {_listed(0)}[which] END AS model_requested,
    CASE WHEN NOT manages THEN {_listed(0)}[which] END AS model_used,
    CASE WHEN NOT manages THEN {_listed(1)}[which] END AS backend_type,
    NOT manages AND NOT embeds AND kind < 0.8 AS stream,
    CASE WHEN manages OR answers THEN NULL WHEN fate < 0.975 THEN 'client_gone'
        WHEN fate < 0.988 THEN ['worker_died', 'generation_failed', 'memory_exceeded', 'model_load_failed'][1 + id % 4]
        WHEN fate < 0.994 THEN 'timeout' ELSE 'queue_full' END AS error_type,
    CASE WHEN began THEN queue END AS queue_ms,
    CASE WHEN began THEN cold END AS load_ms,
    CASE WHEN began AND NOT embeds THEN first_ms END AS ttft_ms,
    CASE WHEN manages THEN 1 + 4 * pace WHEN began THEN first_ms + itl * greatest(made - 1, 0) WHEN fate < 0.988 THEN first_ms
        WHEN fate < 0.994 THEN 30000 + 10 * waits ELSE 2 END AS duration_ms,
    CASE WHEN manages OR fate >= 0.994 THEN 0 ELSE prompt END AS prompt_tokens,
    CASE WHEN began THEN cached ELSE 0 END AS cached_tokens,
    CASE WHEN began THEN made ELSE 0 END AS completion_tokens,
    CASE WHEN began AND which = 1 THEN made // 2 ELSE 0 END AS reasoning_tokens,
    CASE WHEN manages OR fate >= 0.994 THEN 0 ELSE prompt + CASE WHEN began THEN made ELSE 0 END END AS total_tokens,
    CASE WHEN began AND answers AND NOT embeds THEN CASE WHEN kind > 0.95 THEN 'length' ELSE 'stop' END END AS finish_reason,
    '10.0.' || who // 16 || '.' || (10 + who) AS caller,
    CASE WHEN began AND which < {EMBEDDER} THEN CASE WHEN cached > 0 THEN 'hit' WHEN kind > 0.7 THEN 'changed' ELSE 'first' END END
        AS cache_outcome,
    1 AS choices,
    CASE WHEN began AND NOT embeds AND kind < 0.15 THEN 1 ELSE 0 END AS tool_calls,
    0 AS broken_tool_calls,
    CASE WHEN NOT manages AND who % 9 = 2 THEN ['fast', 'exact'][1 + who % 2] END AS preset,
    CASE WHEN began THEN 0.4 + prompt / 4000.0 END AS tokenise_ms,
    CASE WHEN began AND cached > 0 THEN 1 + cached / 900.0 END AS restore_ms,
    CASE WHEN began THEN prefill END AS prefill_ms,
    CASE WHEN began AND which < {EMBEDDER} THEN prefill * load * waits * 0.2 END AS interference_ms,
    CASE WHEN began AND made > 1 THEN itl * (made - 1) END AS decode_ms,
    CASE WHEN began AND made > 1 THEN pace END AS blocked_ms,
    CASE WHEN began AND made > 1 THEN itl END AS itl_ms,
    CASE WHEN began AND made > 1 THEN itl * (1.5 + 8 * load * waits) END AS itl_max_ms,
    CASE WHEN began AND cached > 0 THEN cached * 1000.0 / {_listed(4)}[which] END AS saved_ms,
    CASE WHEN began AND which < {EMBEDDER} THEN 1 + 7 * load * pace END AS batch_mean,
    CASE WHEN NOT manages AND NOT embeds THEN [0.0, 0.7, 1.0][1 + who % 3] END AS temperature,
    CASE WHEN NOT manages AND NOT embeds THEN 4096 END AS max_tokens
FROM ends
"""

_EVENTS = f"""
INSERT INTO pool_event BY NAME
SELECT $first + to_seconds(CAST(86400 * (day + {_uniform("event", "day * 100 + which")}) AS BIGINT)) AS "timestamp",
    {_listed(0)}[which] AS model,
    ['loaded', 'unloaded', 'evicted', 'loaded', 'expired', 'died', 'restarted'][1 + CAST(hash(day, which, $seed) % 7 AS INTEGER)] AS kind,
    2 + 9 * {_uniform("seconds", "day * 100 + which")} AS seconds,
    CAST(1e9 * (1 + 4 * which) AS BIGINT) AS bytes
FROM range($days) AS days (day), range(1, {EMBEDDER + 1}) AS models (which)
ORDER BY 1
"""
