-- What the prefix cache did for a request: tuning.CacheReport, without its counts. A place in the prompt is a token's
-- number and the role of the message it is in.
ALTER TABLE audit ADD COLUMN cache_outcome ENUM ('hit', 'first', 'changed', 'off');
ALTER TABLE audit ADD COLUMN cache_diverged_at BIGINT;
ALTER TABLE audit ADD COLUMN cache_role ENUM ('system', 'user', 'assistant', 'tool');
