"""`POST /v1/completions`: OpenAI's text completion dialect."""

from __future__ import annotations

import time

import msgspec

from ..errors import InvalidParameter, UnsupportedParameter
from ..messages import Done, GenerateRequest
from . import decode as bodies
from .generation import Call, Generation
from .openai_chat import DONE
from .openai_messages import NO_EFFECT, Common, usage
from .sse import frame

DEFAULT_MAX_TOKENS = 16  # the API's documented default
VOCABULARY = bodies.Vocabulary(
    unsupported={
        "n": (1,),
        "best_of": (1,),
        "echo": (False,),
        "suffix": ("",),
        "logprobs": (),
    },
    without_effect=NO_EFFECT,
)


class CompletionBody(Common, frozen=True, kw_only=True):
    prompt: str | list[str | int | list[int]]

    def text(self) -> str:
        """The prompt. Raises UnsupportedParameter for the forms that are not taken yet."""
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.prompt) == 1 and isinstance(self.prompt[0], str):
            return self.prompt[0]
        if not self.prompt:
            raise InvalidParameter("'prompt' is an empty list.", field="prompt")
        raise UnsupportedParameter(
            "'prompt' takes one string here; several prompts and token lists are not supported.",
            field="prompt",
        )


def decode(body: bytes, *, id: str, refuse_unknown: bool) -> Call:
    """A completion request. Raises BadRequest's children."""
    completion, ignored = bodies.take(
        bodies.load(body), CompletionBody, VOCABULARY, refuse_unknown=refuse_unknown
    )
    request = GenerateRequest(
        id=id,
        model=completion.model,
        prompt=completion.text(),
        sampling=completion.sampling(),
        max_tokens=completion.max_tokens or DEFAULT_MAX_TOKENS,
        stop=completion.stops(),
        deterministic=bool(completion.deterministic),
    )
    return Call(
        request,
        stream=bool(completion.stream),
        usage=completion.wants_usage(),
        ignored=ignored + completion.without_effect(),
    )


class CompletionReply:
    """Events as `text_completion` objects."""

    def __init__(self, model: str, *, id: str, created: int, usage: bool, deterministic: bool = False):
        self.id, self.model, self.created, self.usage = id, model, created, usage
        self._said = {"deterministic": True} if deterministic else {}
        self._before, self._after = self._chunk("").split(b'"text":""')

    def opening(self) -> bytes:
        return b""

    def piece(self, text: str) -> bytes:
        return self._before + b'"text":' + msgspec.json.encode(text) + self._after

    def closing(self, done: Done) -> bytes:
        data = self._chunk("", done.finish_reason)
        if self.usage:
            data += frame(msgspec.json.encode(self._object([], {"usage": usage(done)})))
        return data + DONE

    def whole(self, text: str, done: Done) -> bytes:
        return msgspec.json.encode(
            self._object([self._choice(text, done.finish_reason)], {"usage": usage(done)})
        )

    def _chunk(self, text: str, finish_reason: str | None = None) -> bytes:
        more = {"usage": None} if self.usage else {}
        return frame(msgspec.json.encode(self._object([self._choice(text, finish_reason)], more)))

    def _choice(self, text: str, finish_reason: str | None) -> dict:
        return {"text": text, "index": 0, "logprobs": None, "finish_reason": finish_reason}

    def _object(self, choices: list[dict], more: dict) -> dict:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
            **self._said,
        }


class Completions(Generation):
    route = "/v1/completions"
    limit = "timeout_completions_seconds"
    asks_in = "prompt"

    def decode(self, body: bytes, *, id: str, refuse_unknown: bool) -> Call:
        return decode(body, id=id, refuse_unknown=refuse_unknown)

    def speak(self, call: Call) -> CompletionReply:
        return CompletionReply(
            call.request.model,
            id=f"cmpl-{call.request.id}",
            created=int(time.time()),
            usage=call.usage,
            deterministic=call.request.deterministic,
        )


routes = [(Completions.route, Completions)]
