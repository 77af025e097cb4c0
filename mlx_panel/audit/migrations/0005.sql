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
INSERT INTO audit_rolled VALUES (0);
