-- Where the time of a request went, what it was asked with, and by which names. Milliseconds; types and limits of text
-- are held by the row's struct (record.AuditRecord), which the writer checks.
ALTER TABLE audit ADD COLUMN preset VARCHAR;
ALTER TABLE audit ADD COLUMN alias VARCHAR;
ALTER TABLE audit ADD COLUMN tokenise_ms FLOAT;
ALTER TABLE audit ADD COLUMN restore_ms FLOAT;
ALTER TABLE audit ADD COLUMN prefill_ms FLOAT;
ALTER TABLE audit ADD COLUMN interference_ms FLOAT;
ALTER TABLE audit ADD COLUMN decode_ms FLOAT;
ALTER TABLE audit ADD COLUMN blocked_ms FLOAT;
ALTER TABLE audit ADD COLUMN itl_ms FLOAT;
ALTER TABLE audit ADD COLUMN itl_max_ms FLOAT;
ALTER TABLE audit ADD COLUMN saved_ms FLOAT;
ALTER TABLE audit ADD COLUMN batch_mean FLOAT;
ALTER TABLE audit ADD COLUMN temperature FLOAT;
ALTER TABLE audit ADD COLUMN top_p FLOAT;
ALTER TABLE audit ADD COLUMN top_k INTEGER;
ALTER TABLE audit ADD COLUMN max_tokens BIGINT;
-- More of a request than a table of requests shows: record.AuditDetail, by the row's id.
CREATE TABLE detail (
    id BIGINT NOT NULL,
    spans STRUCT (
        kind ENUM ('queue', 'load', 'tokenise', 'restore', 'prefill', 'wait', 'decode', 'send'),
        at_ms FLOAT,
        ms FLOAT,
        tokens INTEGER
    )[],
    neighbours STRUCT (request_id VARCHAR, prefill_ms FLOAT, decode_ms FLOAT, steps INTEGER, tokens INTEGER)[],
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
    seconds FLOAT NOT NULL,
    bytes BIGINT NOT NULL,
    reason VARCHAR CHECK (regexp_full_match(reason, '\S{1,64}'))
);
