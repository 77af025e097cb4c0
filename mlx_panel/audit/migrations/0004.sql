-- Where the time of a request went, what it was asked with, and by which names. Milliseconds; types and limits of text
-- are held by the row's struct (record.AuditRecord), which the writer checks.
ALTER TABLE audit ADD COLUMN preset VARCHAR;
ALTER TABLE audit ADD COLUMN alias VARCHAR;
ALTER TABLE audit ADD COLUMN tokenise_ms DOUBLE;
ALTER TABLE audit ADD COLUMN restore_ms DOUBLE;
ALTER TABLE audit ADD COLUMN prefill_ms DOUBLE;
ALTER TABLE audit ADD COLUMN interference_ms DOUBLE;
ALTER TABLE audit ADD COLUMN decode_ms DOUBLE;
ALTER TABLE audit ADD COLUMN blocked_ms DOUBLE;
ALTER TABLE audit ADD COLUMN itl_ms DOUBLE;
ALTER TABLE audit ADD COLUMN itl_max_ms DOUBLE;
ALTER TABLE audit ADD COLUMN saved_ms DOUBLE;
ALTER TABLE audit ADD COLUMN batch_mean DOUBLE;
ALTER TABLE audit ADD COLUMN temperature DOUBLE;
ALTER TABLE audit ADD COLUMN top_p DOUBLE;
ALTER TABLE audit ADD COLUMN top_k BIGINT;
ALTER TABLE audit ADD COLUMN max_tokens BIGINT;
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
INSERT INTO serial VALUES (0);
