"""Bodies of requests to models with canaries in every place that takes text. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .canary import Canary

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
FEW = 4  # tokens of an answer
SPOKEN = 20  # tokens of an answer that is held to say a canary
Body = dict[str, Any]


class Texts:
    """The canaries by their shape, and the shorter ones in one line."""

    def __init__(self, canaries: tuple[Canary, ...]):
        self._by_shape = {canary.shape: canary.text for canary in canaries}
        self.plain, self.long = self._by_shape["plain"], self._by_shape["long"]
        self.short = [text for shape, text in self._by_shape.items() if shape != "long"]
        self.line = " ".join(self.short)

    def __repr__(self) -> str:
        return f"<Texts of {', '.join(self._by_shape)}>"

    def __getitem__(self, shape: str) -> str:
        return self._by_shape[shape]


def chats(texts: Texts) -> Iterator[Body]:
    """Conversations that a model answers."""
    yield {"messages": _turns(texts), **_around(texts), "max_tokens": FEW}
    yield {
        "messages": _turns(texts),
        "max_tokens": FEW,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    yield {"messages": [{"role": "user", "content": texts.long}], "max_tokens": FEW}
    yield {"messages": _turns(texts), "max_tokens": FEW, "n": 2, "logprobs": True, "top_logprobs": 3}


def completions(texts: Texts) -> Iterator[Body]:
    """Texts that a model goes on with."""
    yield {"prompt": texts.line, **_around(texts), "max_tokens": FEW}
    yield {"prompt": texts.line, "max_tokens": FEW, "stream": True}
    yield {"prompt": texts.short, "max_tokens": 1}
    yield {"prompt": texts.line, "max_tokens": FEW, "echo": True, "logprobs": 2, "stream": True}


def embeddings(texts: Texts) -> Iterator[Body]:
    yield {"input": texts.line}
    yield {"input": [*texts.short, texts.long], "truncate": True, "user": texts.plain}


def tools(texts: Texts) -> Iterator[Body]:
    """Functions, calls and results; the last is held to call with a canary."""
    word, line = texts.plain, " ".join(texts.short[1:3])
    schema = {
        "type": "object",
        "properties": {word: {"enum": [word]}},
        "required": [word],
        "additionalProperties": False,
    }
    function = {"name": word, "description": line, "parameters": schema}
    offered = [{"type": "function", "function": function}]
    call = {"id": word, "type": "function", "function": {"name": word, "arguments": _arguments(word)}}
    turns = [
        {"role": "user", "content": line},
        {"role": "assistant", "content": None, "reasoning_content": line, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": word, "content": line},
    ]
    yield {"messages": turns, "tools": offered, "max_tokens": FEW}
    yield {"messages": turns, "tools": offered, "max_tokens": FEW, "stream": True}
    strict = [{"type": "function", "function": {**function, "strict": True}}]
    yield {"messages": turns[:1], "tools": strict, "tool_choice": "required", "max_tokens": 2 * SPOKEN + FEW}


def held(texts: Texts) -> Iterator[Body]:
    """Answers that can say nothing but a canary."""
    word = texts.plain
    schema = {
        "type": "object",
        "properties": {word: {"const": word}},
        "required": [word],
        "additionalProperties": False,
    }
    shape = {"type": "json_schema", "json_schema": {"name": word, "schema": schema, "strict": True}}
    asked = {"messages": [{"role": "user", "content": "Say it."}], "max_tokens": SPOKEN}
    yield {**asked, "choice": [word], "stream": True}
    yield {**asked, "regex": word}
    yield {**asked, "grammar": f'start: "{word}"'}
    yield {**asked, "response_format": shape, "max_tokens": 2 * SPOKEN + FEW}


def refused(texts: Texts) -> Iterator[Body]:
    """Bodies that the server, or the model's process, finds fault with."""
    word, line = texts.plain, texts.line
    turns = {"messages": _turns(texts)}
    wrong: list[Mapping[str, Any]] = [
        {"temperature": line}, {"stop": [line] * 20}, {"n": line}, {"stream": line}, {"max_tokens": 10**7}, {line: line},
        {"response_format": {"type": line}}, {"regex": f"({line}"}, {"grammar": f"start: {line}"}, {"choice": [line, 1]},
        {"chat_template_kwargs": {word: line}}, {"structured_outputs": {"json": f'{{"pattern": "({word}"}}'}}, {"reasoning_effort": line},
        {"tools": [{"type": line, line: line}]}, {"tools": line}, {"tool_choice": {"type": line}},
        {"messages": line}, {"messages": [line]}, {"messages": [{"role": line, "content": line}]},
        {"messages": [{"role": "user", "content": [{"type": line, line: line}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": line}}]}]},
        {"logit_bias": {line: 1}}, {"seed": line}, {"metadata": line, "max_tokens": -1},
    ]  # fmt: skip
    for one in wrong:
        yield {**turns, "max_tokens": 1, **one}


def broken(texts: Texts) -> Iterator[bytes]:
    """What is no JSON object."""
    for text in (texts.line, texts.long):
        raw = text.encode()
        yield raw
        yield b'{"' + raw
        yield b'{"messages": "' + raw + b'\xff\xfe"}'
        yield b'["' + raw.replace(b'"', b"").replace(b"\\", b"") + b'"]'
    yield b'{"a":' * 2000 + texts.plain.encode()


def _turns(texts: Texts) -> list[Body]:
    return [
        {"role": "system", "content": texts.line},
        {"role": "user", "content": f"Say {texts.line}!", "name": texts.plain},
    ]


def _around(texts: Texts) -> Body:
    """Fields that have no effect on the answer, or none on its text."""
    return {
        "user": texts.line,
        "metadata": {texts.plain: texts.line},
        "stop": [texts.plain],
        "prompt_cache_key": texts.plain,
        texts.plain: texts.line,
    }


def _arguments(word: str) -> str:
    return f'{{"{word}": "{word}"}}'
