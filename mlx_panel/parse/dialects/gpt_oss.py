"""gpt-oss: `<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>`, see `harmony.py`."""

from ..harmony import Harmony

DIALECT = Harmony(
    name="harmony",
    trigger="<|channel|>commentary to=functions.",
    markers=("<|start|>", "<|end|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|call|>", "<|return|>"),
)
