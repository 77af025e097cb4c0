-- One row a request, in the order the rows were stored. The columns after `id` are the fields of
-- messages.AuditRecord, no column more. Closed vocabularies are ENUMs; the other words are short by constraint, so
-- that no column can hold a sentence of a prompt or an answer.
CREATE TABLE audit (
    -- Given by the one writer, ascending. Not a primary key: its index would live in memory, all of it.
    id BIGINT NOT NULL,
    request_id VARCHAR NOT NULL CHECK (length(request_id) <= 200),
    -- UTC. Not TIMESTAMPTZ: reading that from Python needs pytz, and its text form depends on the session.
    "timestamp" TIMESTAMP NOT NULL,
    endpoint VARCHAR NOT NULL CHECK (length(endpoint) <= 200),
    dialect VARCHAR NOT NULL CHECK (regexp_full_match(dialect, '\S{1,64}')),
    status ENUM ('success', 'error', 'timeout', 'cancelled', 'rejected') NOT NULL,
    http_status SMALLINT NOT NULL,
    model_requested VARCHAR CHECK (length(model_requested) <= 1000),
    model_used VARCHAR CHECK (length(model_used) <= 1000),
    backend_type ENUM ('local', 'openai', 'anthropic'),
    stream BOOLEAN NOT NULL,
    error_type VARCHAR CHECK (regexp_full_match(error_type, '\S{1,64}')),
    queue_ms DOUBLE,
    load_ms DOUBLE,
    ttft_ms DOUBLE,
    duration_ms DOUBLE NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    total_tokens BIGINT NOT NULL,
    finish_reason VARCHAR CHECK (regexp_full_match(finish_reason, '\S{1,64}')),
    caller VARCHAR CHECK (length(caller) <= 200)
);
