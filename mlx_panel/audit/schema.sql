-- The schema of the audit file as it is now, for reading. What makes it are the numbered files in `migrations/`, each
-- applied once to every file; a test holds this page equal to what they make. An instant is UTC without its zone,
-- durations are milliseconds, `docs/audit.md` tells what each column means.

-- One row a request, in the order the rows were stored: record.AuditRecord, no column more. Closed vocabularies are
-- ENUMs; what other text may hold is said by the record's types, which the writer checks, and by constraints.
CREATE TABLE audit (
    -- Given by the one writer, ascending, never twice. Not a primary key: its index would live in memory, all of it.
    id BIGINT NOT NULL,
    request_id VARCHAR NOT NULL CHECK (length(request_id) <= 200),
    -- Not TIMESTAMPTZ: reading that from Python needs pytz, and its text form depends on the session.
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
    caller VARCHAR CHECK (length(caller) <= 200),
    -- What the prefix cache did: tuning.CacheReport without its counts. A place is a token's number and a message's role.
    cache_outcome ENUM ('hit', 'first', 'changed', 'off'),
    cache_diverged_at BIGINT,
    cache_role ENUM ('system', 'user', 'assistant', 'tool'),
    -- What the answer consisted of.
    choices INTEGER DEFAULT 1,
    tool_calls INTEGER DEFAULT 0,
    broken_tool_calls INTEGER DEFAULT 0,
    structure ENUM ('json_object', 'json_schema', 'regex', 'choice', 'grammar'),
    -- By which names, where the time went, and what was asked for.
    preset VARCHAR,
    alias VARCHAR,
    tokenise_ms DOUBLE,
    restore_ms DOUBLE,
    prefill_ms DOUBLE,
    interference_ms DOUBLE,
    decode_ms DOUBLE,
    blocked_ms DOUBLE,
    itl_ms DOUBLE,
    itl_max_ms DOUBLE,
    saved_ms DOUBLE,
    batch_mean DOUBLE,
    temperature DOUBLE,
    top_p DOUBLE,
    top_k BIGINT,
    max_tokens BIGINT
);

-- More of a request than a table of requests shows: record.AuditDetail, by the row's id.
CREATE TABLE detail (
    id BIGINT NOT NULL,
    spans STRUCT (
        kind ENUM ('queue', 'load', 'tokenise', 'restore', 'prefill', 'wait', 'decode', 'send'),
        at_ms DOUBLE,
        ms DOUBLE,
        tokens INTEGER
    )[],
    neighbours STRUCT (request_id VARCHAR, prefill_ms DOUBLE, decode_ms DOUBLE, steps INTEGER, tokens INTEGER)[],
    block_tokens SMALLINT,
    blocks BLOB
);

-- What became of models: record.PoolEvent.
CREATE TABLE pool_event (
    "timestamp" TIMESTAMP NOT NULL,
    model VARCHAR NOT NULL CHECK (length(model) <= 1000),
    kind ENUM (
        'loaded', 'load_failed', 'unloaded', 'evicted', 'expired', 'died', 'restarted', 'given_up'
    ) NOT NULL,
    seconds DOUBLE NOT NULL,
    bytes BIGINT NOT NULL,
    reason VARCHAR CHECK (regexp_full_match(reason, '\S{1,64}'))
);

-- The highest id of a request whose row was deleted: ids are never given twice.
CREATE TABLE serial (last_id BIGINT NOT NULL);

-- Sums of the log, so that a chart of months does not read every request (audit/rollup.py). They can be made again from
-- `audit` at any time. A row is some requests that began in the same hour (`arrived`), stopped waiting in the same hour
-- (`started`), ended in the same hour (`ended`) and are alike in the columns up to `preset`; the same hour may have
-- several such rows. Numbers are whole, so that sums do not depend on their order.
CREATE TABLE audit_hour (
    arrived TIMESTAMP NOT NULL,
    started TIMESTAMP NOT NULL,
    ended TIMESTAMP NOT NULL,
    model_used VARCHAR,
    model_requested VARCHAR,
    endpoint VARCHAR NOT NULL,
    dialect VARCHAR NOT NULL,
    backend_type ENUM ('local', 'openai', 'anthropic'),
    status ENUM ('success', 'error', 'timeout', 'cancelled', 'rejected') NOT NULL,
    error_type VARCHAR,
    caller VARCHAR,
    preset VARCHAR,
    requests BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    total_tokens BIGINT NOT NULL,
    saved_us BIGINT NOT NULL,
    decode_tokens BIGINT NOT NULL,
    decode_us BIGINT NOT NULL,
    -- How much later than those hours' begins the moments are, added up, microseconds.
    arrived_us BIGINT NOT NULL,
    started_us BIGINT NOT NULL,
    ended_us BIGINT NOT NULL,
    -- The longest of them; NULL where none got that far.
    most_ttft_ms DOUBLE,
    most_itl_ms FLOAT,
    most_queue_ms DOUBLE,
    most_duration_ms DOUBLE
);

-- One request in 16, for percentiles of very many.
CREATE TABLE audit_sample (
    "timestamp" TIMESTAMP NOT NULL,
    model_used VARCHAR,
    model_requested VARCHAR,
    endpoint VARCHAR NOT NULL,
    dialect VARCHAR NOT NULL,
    backend_type ENUM ('local', 'openai', 'anthropic'),
    status ENUM ('success', 'error', 'timeout', 'cancelled', 'rejected') NOT NULL,
    error_type VARCHAR,
    caller VARCHAR,
    preset VARCHAR,
    ttft_ms FLOAT,
    itl_ms FLOAT,
    queue_ms FLOAT,
    duration_ms FLOAT
);

-- The last row of `audit` that both hold.
CREATE TABLE audit_rolled (id BIGINT NOT NULL);

-- Which versions the file has been brought to, and when.
CREATE TABLE schema_version (version INTEGER NOT NULL, applied TIMESTAMP NOT NULL);
