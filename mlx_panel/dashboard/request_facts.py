"""The columns of a request's row as a person reads them: in groups, each with a name, a kind and a word of help."""

from __future__ import annotations

from typing import NamedTuple


class Fact(NamedTuple):
    """A column; `kind` is "ms", "count", "bool", "time", "number" or "" for text."""

    name: str
    title: str
    kind: str
    help: str


GROUPS: tuple[tuple[str, tuple[Fact, ...]], ...] = (
    ("Request", (
        Fact("request_id", "Request id", "", "The X-Request-ID of the response."),
        Fact("timestamp", "Arrived", "time", "When its headers came."),
        Fact("endpoint", "Endpoint", "", "The route."),
        Fact("dialect", "Dialect", "", "Whose API it spoke; management is this server's own."),
        Fact("caller", "Caller", "", "The network address it came from."),
        Fact("stream", "Streamed", "bool", "Whether the answer was sent as it came."),
        Fact("status", "Status", "", "How it ended."),
        Fact("http_status", "HTTP status", "number", "Of the response."),
        Fact("error_type", "Error", "", "The error's code."),
        Fact("finish_reason", "Finish reason", "", "Why the answer ended."),
    )),
    ("Model", (
        Fact("model_requested", "Asked for", "", "The name that was asked for, where this server knows it."),
        Fact("model_used", "Used", "", "The model that answered."),
        Fact("preset", "Preset", "", "The preset that the name stands for."),
        Fact("alias", "Alias", "", "The exact rule that led to the model."),
        Fact("backend_type", "Backend", "", "Where it ran."),
        Fact("temperature", "Temperature", "number", "In force: asked for, of a preset, or the default. 0 takes the likeliest token."),
        Fact("top_p", "top_p", "number", "In force; 1 is off."),
        Fact("top_k", "top_k", "number", "In force; 0 is off."),
        Fact("max_tokens", "max_tokens", "count", "The longest answer allowed, where one was given."),
        Fact("structure", "Structure", "", "What the answer was held to."),
    )),
    ("Time", (
        Fact("duration_ms", "Duration", "ms", "From arrival to the end of the answer."),
        Fact("ttft_ms", "First token", "ms", "From arrival to the first piece of the answer."),
        Fact("queue_ms", "Queue", "ms", "From the server to its first turn in the worker."),
        Fact("load_ms", "Load", "ms", "Waiting for its model to be loaded."),
        Fact("tokenise_ms", "Tokenise", "ms", "Rendering and encoding the prompt."),
        Fact("restore_ms", "Restore", "ms", "Looking for a cached prefix and bringing it back."),
        Fact("prefill_ms", "Prefill", "ms", "Passes over its own prompt."),
        Fact("interference_ms", "Others' prefill", "ms", "Passes over other requests' prompts that it waited for."),
        Fact("decode_ms", "Answer", "ms", "From the first piece of the answer to the last."),
        Fact("blocked_ms", "Blocked", "ms", "The client took no bytes for so long; the model may have gone on meanwhile."),
        Fact("itl_ms", "Between tokens", "ms", "Mean time between two tokens of an answer."),
        Fact("itl_max_ms", "Longest gap", "ms", "The longest time without a token, once the answer had begun."),
    )),
    ("Tokens", (
        Fact("prompt_tokens", "Prompt", "count", "Tokens of the prompt."),
        Fact("cached_tokens", "Cached", "count", "Those of them that came from the prefix cache."),
        Fact("completion_tokens", "Answer", "count", "Tokens of the answer, reasoning included."),
        Fact("reasoning_tokens", "Reasoning", "count", "Those of them that are reasoning."),
        Fact("total_tokens", "Total", "count", "Prompt and answer."),
        Fact("choices", "Choices", "count", "Answers asked for, or inputs of an embeddings request."),
        Fact("tool_calls", "Tool calls", "count", "In all answers."),
        Fact("broken_tool_calls", "Unreadable calls", "count", "What began like a tool call and came as text."),
    )),
    ("Cache and batch", (
        Fact("cache_outcome", "Prefix cache", "", "What the prefix cache knew of the prompt."),
        Fact("cache_diverged_at", "Differs at", "count", "The token where the prompt leaves the nearest known one."),
        Fact("cache_role", "In a message of", "", "The role of the message that place is in."),
        Fact("saved_ms", "Prefill saved", "ms", "An estimate: cached tokens times what a token took to process."),
        Fact("batch_mean", "Answers at a time", "number", "Mean number of answers in its decode steps, its own included."),
    )),
)  # fmt: skip
