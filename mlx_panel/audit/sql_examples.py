"""The queries that come with the server: each answers a question that people ask of their log."""

from __future__ import annotations

from ..inquiry import SavedQuery


def _example(name: str, doc: str, sql: str) -> SavedQuery:
    return SavedQuery(name, sql.strip(), doc, built_in=True)


EXAMPLES = (
    _example(
        "Latest requests",
        "What came last.",
        """
SELECT timestamp, model_used, status, prompt_tokens, completion_tokens, ttft_ms, duration_ms
FROM audit
WHERE dialect <> 'management'
ORDER BY timestamp DESC
LIMIT 100
""",
    ),
    _example(
        "By model",
        "Requests, tokens and latency of each model, last 7 days.",
        """
SELECT model_used,
       count(*) AS requests,
       count(*) FILTER (status IN ('error', 'timeout')) AS failed,
       sum(prompt_tokens) AS prompt_tokens,
       sum(completion_tokens) AS completion_tokens,
       round(median(ttft_ms)) AS ttft_p50,
       round(quantile_cont(ttft_ms, 0.95)) AS ttft_p95
FROM audit
WHERE dialect <> 'management' AND timestamp > now() - INTERVAL 7 DAY
GROUP BY model_used
ORDER BY requests DESC
""",
    ),
    _example(
        "By hour",
        "Requests and answer tokens of each hour, last 7 days.",
        """
SELECT time_bucket(INTERVAL 1 HOUR, timestamp) AS hour,
       count(*) AS requests,
       sum(completion_tokens) AS tokens
FROM audit
WHERE dialect <> 'management' AND timestamp > now() - INTERVAL 7 DAY
GROUP BY hour
ORDER BY hour
""",
    ),
    _example(
        "Slowest requests",
        "Those that took longest, and what they waited for.",
        """
SELECT timestamp, request_id, model_used, duration_ms, queue_ms, load_ms, prefill_ms, interference_ms, decode_ms
FROM audit
WHERE dialect <> 'management'
ORDER BY duration_ms DESC
LIMIT 50
""",
    ),
    _example(
        "Errors",
        "What went wrong, how often, and when last.",
        """
SELECT error_type, status, endpoint, model_used, count(*) AS requests, max(timestamp) AS last
FROM audit
WHERE status IN ('error', 'timeout', 'rejected')
GROUP BY ALL
ORDER BY requests DESC
""",
    ),
    _example(
        "Prefix cache",
        "What the cache knew of the prompts, by day.",
        """
SELECT date_trunc('day', timestamp) AS day,
       round(100 * sum(cached_tokens) / nullif(sum(prompt_tokens), 0), 1) AS cached_percent,
       round(sum(saved_ms) / 1000, 1) AS saved_seconds,
       count(*) FILTER (cache_outcome = 'hit') AS hits,
       count(*) FILTER (cache_outcome = 'changed') AS changed,
       count(*) FILTER (cache_outcome = 'first') AS first_seen
FROM audit
WHERE prompt_tokens > 0
GROUP BY day
ORDER BY day
""",
    ),
    _example(
        "Interference",
        "Requests that waited for others' prompts the most.",
        """
SELECT timestamp, request_id, model_used,
       interference_ms,
       round(100 * interference_ms / nullif(duration_ms, 0)) AS percent_of_its_time,
       batch_mean
FROM audit
WHERE interference_ms > 0
ORDER BY interference_ms DESC
LIMIT 50
""",
    ),
    _example(
        "Neighbours",
        "Which requests held up which, by the time of their prompts.",
        """
SELECT a.request_id, a.model_used, neighbour.request_id AS held_up_by, neighbour.prefill_ms, neighbour.tokens
FROM detail d
JOIN audit a USING (id), unnest(d.neighbours) AS n(neighbour)
WHERE neighbour.prefill_ms > 0
ORDER BY neighbour.prefill_ms DESC
LIMIT 50
""",
    ),
    _example(
        "Where the time goes",
        "Seconds that requests spent in each phase, by model.",
        """
SELECT model_used,
       round(sum(queue_ms) / 1000, 1) AS queue_s,
       round(sum(load_ms) / 1000, 1) AS load_s,
       round(sum(prefill_ms) / 1000, 1) AS prefill_s,
       round(sum(interference_ms) / 1000, 1) AS interference_s,
       round(sum(decode_ms) / 1000, 1) AS decode_s,
       round(sum(blocked_ms) / 1000, 1) AS client_s
FROM audit
WHERE dialect <> 'management'
GROUP BY model_used
ORDER BY decode_s DESC NULLS LAST
""",
    ),
    _example(
        "Callers",
        "Who used how much.",
        """
SELECT caller, count(*) AS requests, sum(total_tokens) AS tokens, max(timestamp) AS last
FROM audit
WHERE dialect <> 'management'
GROUP BY caller
ORDER BY tokens DESC
""",
    ),
    _example(
        "Models coming and going",
        "Loads, evictions and deaths, newest first.",
        """
SELECT timestamp, model, kind, seconds, bytes, reason
FROM pool_event
ORDER BY timestamp DESC
LIMIT 200
""",
    ),
)
