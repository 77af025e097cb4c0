"""Calls as in OpenAI's API, bare: `{"name": "f", "arguments": {"a": 1}}`, also as the `function` of an object, or in a
list."""

from ..objects import Objects

DIALECT = Objects(name="openai_json", trigger="", also=("{", "["), at_line=True)
