-- What an answer consisted of: choices (or vectors) asked for, tool calls made, what began like a tool call and could not
-- be read, and what kind of structure the answer was held to.
ALTER TABLE audit ADD COLUMN choices INTEGER DEFAULT 1;
ALTER TABLE audit ADD COLUMN tool_calls INTEGER DEFAULT 0;
ALTER TABLE audit ADD COLUMN broken_tool_calls INTEGER DEFAULT 0;
ALTER TABLE audit ADD COLUMN structure ENUM ('json_object', 'json_schema', 'regex', 'choice', 'grammar');
