"""What can be asked for with SQL: the tables of the log, their columns, and a line about each."""

from __future__ import annotations

import duckdb
import msgspec

TABLES = {
    "audit": "One row a request: who asked for which model, how it ended, how long it took, what it cost.",
    "detail": "More of a request, by its id: where its time went, its neighbours, keyed hashes of its prompt's blocks.",
    "pool_event": "What became of models: loads, evictions, unloads, deaths.",
    "audit_hour": "Sums of the requests of an hour, which the charts read. May lag a little behind `audit`.",
    "audit_sample": "One request in sixteen, for percentiles of very many.",
    "audit_rolled": "Up to which row the sums go.",
    "serial": "The last number that was given to a row, also when its row is gone.",
    "schema_version": "Which version of the schema the file has, and since when.",
}
# By column, for all tables that have it; a table's own word stands under "table.column".
WORDS = {
    "id": "number of the row, ascending in the order rows were stored",
    "request_id": "the X-Request-ID of the response",
    "timestamp": "when the request arrived, UTC",
    "endpoint": "the route",
    "dialect": "openai, anthropic, or management for the server's own API",
    "status": "success, error, timeout, cancelled or rejected",
    "http_status": "status of the response",
    "model_requested": "the name asked for, where the server knows it, else unknown",
    "model_used": "the model that answered",
    "backend_type": "where it ran: local, openai, anthropic",
    "stream": "whether the answer was streamed",
    "error_type": "code of the error",
    "queue_ms": "waiting for a turn, ms",
    "load_ms": "waiting for the model to load, ms",
    "ttft_ms": "time to the first token, ms",
    "duration_ms": "arrival to the end of the answer, ms",
    "prompt_tokens": "tokens of the prompt",
    "cached_tokens": "of these, tokens that came from the prefix cache",
    "completion_tokens": "tokens of the answer, reasoning included",
    "reasoning_tokens": "of these, tokens of the reasoning",
    "total_tokens": "prompt and answer",
    "finish_reason": "why the answer ended",
    "caller": "network address the request came from",
    "cache_outcome": "what the prefix cache knew of the prompt: hit, changed, first, off",
    "cache_diverged_at": "token where the prompt differs from the nearest known one",
    "cache_role": "role of the message that place is in",
    "choices": "answers asked for, or inputs of an embeddings request",
    "tool_calls": "tool calls in the answers",
    "broken_tool_calls": "what began like a tool call and could not be read",
    "structure": "what the answer was held to: json_schema, regex, …",
    "preset": "the preset that was used",
    "alias": "pattern of the rule that led to the model",
    "tokenise_ms": "rendering and encoding the prompt, ms",
    "restore_ms": "bringing back a cached prefix, ms",
    "prefill_ms": "passes over its prompt, ms",
    "interference_ms": "waiting for passes over others' prompts, ms",
    "decode_ms": "first token to last, ms",
    "blocked_ms": "waiting for the client to take bytes, ms",
    "itl_ms": "mean time between two tokens, ms",
    "itl_max_ms": "longest time between two tokens, ms",
    "saved_ms": "prefill that cached tokens made unnecessary, an estimate, ms",
    "batch_mean": "mean number of answers in its decode steps",
    "temperature": "as asked for",
    "top_p": "as asked for",
    "top_k": "as asked for",
    "max_tokens": "as asked for",
    "detail.id": "the row of audit it belongs to",
    "spans": "what it did or waited for, in order: kind, at_ms, ms, tokens",
    "neighbours": "requests it shared passes with: request_id, prefill_ms, decode_ms, steps, tokens",
    "block_tokens": "tokens of a block",
    "blocks": "keyed hashes of the prompt's blocks, 8 bytes each; no text can be had back from them",
    "pool_event.timestamp": "when it happened, UTC",
    "model": "name of the model",
    "kind": "loaded, load_failed, unloaded, evicted, expired, died, restarted or given_up",
    "seconds": "how long a load or unload took, or how long it lived",
    "bytes": "memory its process took",
    "reason": "why, one word",
    "arrived": "hour in which these requests arrived",
    "started": "hour in which they stopped waiting",
    "ended": "hour in which they ended",
    "requests": "how many they are",
    "saved_us": "sum of saved_ms, microseconds",
    "decode_tokens": "tokens that decode_us is about",
    "decode_us": "sum of decode_ms, microseconds",
    "arrived_us": "how much after the hour's begin they arrived, added up, microseconds",
    "started_us": "how much after the hour's begin they started, added up, microseconds",
    "ended_us": "how much after the hour's begin they ended, added up, microseconds",
    "most_ttft_ms": "longest time to the first token, ms",
    "most_itl_ms": "longest mean time between tokens, ms",
    "most_queue_ms": "longest wait, ms",
    "most_duration_ms": "longest request, ms",
    "audit_rolled.id": "the last row of audit that audit_hour holds",
    "last_id": "the last number given",
    "version": "number of the migration",
    "applied": "when it was applied, UTC",
}


class TableColumn(msgspec.Struct, frozen=True):
    """A column; `type` is DuckDB's."""

    name: str
    type: str
    doc: str = ""


class Table(msgspec.Struct, frozen=True):
    """A table with its columns in their order, and about how many rows it has."""

    name: str
    columns: tuple[TableColumn, ...]
    doc: str = ""
    rows: int = 0


def schema(cursor: duckdb.DuckDBPyConnection) -> list[Table]:
    """The tables of the log, those that people ask first. Raises what DuckDB raises."""
    found = cursor.execute(
        "SELECT table_name, list((column_name, data_type) ORDER BY column_index) FROM duckdb_columns() "
        "WHERE NOT internal AND schema_name = 'main' AND database_name = current_database() GROUP BY table_name"
    ).fetchall()
    sizes = dict(
        cursor.execute(
            "SELECT table_name, estimated_size FROM duckdb_tables() WHERE database_name = current_database()"
        ).fetchall()
    )
    order = list(TABLES)
    tables = [
        Table(name, _columns(name, columns), TABLES.get(name, ""), sizes.get(name) or 0)
        for name, columns in found
    ]
    return sorted(
        tables,
        key=lambda table: (order.index(table.name) if table.name in TABLES else len(order), table.name),
    )


def _columns(table: str, columns: list[tuple[str, str]]) -> tuple[TableColumn, ...]:
    return tuple(
        TableColumn(name, kind, WORDS.get(f"{table}.{name}", WORDS.get(name, ""))) for name, kind in columns
    )
