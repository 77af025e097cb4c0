"""`POST /v1/chat/completions`: OpenAI's chat dialect."""

from __future__ import annotations

import time

import msgspec

from ..errors import InvalidParameter
from ..messages import Done, GenerateRequest
from . import decode as bodies
from .generation import Call, Generation
from .openai_messages import NO_EFFECT, Common, Count, Turn, conversation, turn_fields, usage
from .sse import frame

DONE = frame(b"[DONE]")
VOCABULARY = bodies.Vocabulary(
    unsupported={
        "n": (1,),
        "logprobs": (False,),
        "top_logprobs": (0,),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (True, False),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "reasoning_effort": ("none",),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "web_search_options": (),
        "moderation": (),
        "store": (False,),
    },
    without_effect=NO_EFFECT,
)


class ChatBody(Common, frozen=True, kw_only=True):
    messages: list[Turn]
    max_completion_tokens: Count | None = None

    def limit(self) -> int | None:
        """`max_completion_tokens` is the newer name of `max_tokens`; two different numbers are a mistake."""
        if (
            None not in (self.max_tokens, self.max_completion_tokens)
            and self.max_tokens != self.max_completion_tokens
        ):
            raise InvalidParameter(
                "'max_tokens' and 'max_completion_tokens' differ; send one.", field="max_completion_tokens"
            )
        return self.max_completion_tokens or self.max_tokens


def decode(body: bytes, *, id: str, refuse_unknown: bool) -> Call:
    """A chat request. Raises BadRequest's children."""
    raw = bodies.load(body)
    chat, ignored = bodies.take(raw, ChatBody, VOCABULARY, refuse_unknown=refuse_unknown)
    inner = turn_fields(raw, refuse_unknown)
    request = GenerateRequest(
        id=id,
        model=chat.model,
        messages=conversation(chat.messages),
        sampling=chat.sampling(),
        max_tokens=chat.limit(),
        stop=chat.stops(),
        deterministic=bool(chat.deterministic),
    )
    return Call(
        request,
        stream=bool(chat.stream),
        usage=chat.wants_usage(),
        ignored=ignored + inner + chat.without_effect(),
    )


class ChatReply:
    """Events as `chat.completion` and `chat.completion.chunk` objects."""

    def __init__(self, model: str, *, id: str, created: int, usage: bool, deterministic: bool = False):
        self.id, self.model, self.created, self.usage = id, model, created, usage
        self._said = {"deterministic": True} if deterministic else {}
        # A chunk is its JSON up to the text and from the text on: only the text is encoded per token.
        self._before, self._after = self._chunk({"content": ""}).split(b'"content":""')

    def opening(self) -> bytes:
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def piece(self, text: str) -> bytes:
        return self._before + b'"content":' + msgspec.json.encode(text) + self._after

    def closing(self, done: Done) -> bytes:
        data = self._chunk({}, done.finish_reason)
        if self.usage:
            data += frame(
                msgspec.json.encode(self._object("chat.completion.chunk", [], {"usage": usage(done)}))
            )
        return data + DONE

    def whole(self, text: str, done: Done) -> bytes:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": done.finish_reason}
        return msgspec.json.encode(self._object("chat.completion", [choice], {"usage": usage(done)}))

    def _chunk(self, delta: dict[str, str | None], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return frame(
            msgspec.json.encode(
                self._object("chat.completion.chunk", [choice], {"usage": None} if self.usage else {})
            )
        )

    def _object(self, kind: str, choices: list[dict], more: dict) -> dict:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
            **self._said,
        }


class ChatCompletions(Generation):
    route = "/v1/chat/completions"
    limit = "timeout_chat_seconds"
    asks_in = "messages"

    def decode(self, body: bytes, *, id: str, refuse_unknown: bool) -> Call:
        return decode(body, id=id, refuse_unknown=refuse_unknown)

    def speak(self, call: Call) -> ChatReply:
        return ChatReply(
            call.request.model,
            id=f"chatcmpl-{call.request.id}",
            created=int(time.time()),
            usage=call.usage,
            deterministic=call.request.deterministic,
        )


routes = [(ChatCompletions.route, ChatCompletions)]
