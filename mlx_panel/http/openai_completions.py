"""`POST /v1/completions`: OpenAI's text completion dialect."""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec

from ..errors import InvalidParameter, UnsupportedParameter
from ..messages import Done, Echo, GenerateRequest, Text, Usage
from . import decode as bodies
from .answer import Answer, Choice, Piece, Places
from .generation import Call, Generation
from .openai_fields import MAX_CHOICES, NO_EFFECT, OTHER_NAMES, Alternatives, Common
from .openai_logprobs import TextLogprobs
from .openai_objects import Head, template

DEFAULT_MAX_TOKENS = 16  # the API's documented default
VOCABULARY = bodies.Vocabulary(
    unsupported={"suffix": ("",), **dict.fromkeys(OTHER_NAMES, ())},
    instead=OTHER_NAMES,
    without_effect=NO_EFFECT,
)
encode = msgspec.json.Encoder().encode
TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Asked = str | list[str | TokenId | list[TokenId]]


class CompletionBody(Common, frozen=True, kw_only=True):
    prompt: Asked
    echo: bool | None = None
    logprobs: Alternatives | None = None
    best_of: int | None = None

    def prompts(self) -> list[str | tuple[int, ...]]:
        """Each prompt, as text or as token ids. Raises InvalidParameter."""
        asked = self.prompt
        if isinstance(asked, str):
            return [asked]
        if asked and all(isinstance(one, int) for one in asked):
            return [tuple(asked)]  # type: ignore[arg-type]
        if not asked or len({isinstance(one, str) for one in asked}) > 1 or any(one == [] for one in asked):
            raise InvalidParameter(
                "'prompt' takes a string, a list of them, token ids, or a list of lists of those.",
                field="prompt",
            )
        if any(isinstance(one, int) for one in asked):
            raise InvalidParameter("'prompt' mixes token ids with lists of them.", field="prompt")
        return [one if isinstance(one, str) else tuple(one) for one in asked]  # type: ignore[arg-type]

    def limit(self) -> int:
        """`max_tokens` 0 is only of use to get the prompt back."""
        if self.max_tokens == 0 and not self.echo:
            raise InvalidParameter("'max_tokens' takes 0 only with 'echo': true.", field="max_tokens")
        return DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens

    def choices(self, prompts: int) -> int:
        """How many answers there are to each prompt. `best_of` may say the same again."""
        each = self.n or 1
        if self.best_of not in (None, 1, each):
            raise UnsupportedParameter("The parameter 'best_of' is not supported here.", field="best_of")
        if prompts * each > MAX_CHOICES:
            field = "prompt" if prompts > MAX_CHOICES else "n"
            raise InvalidParameter(
                f"'{field}': a request has up to {MAX_CHOICES} choices, 'n' for each prompt.", field=field
            )
        return each


def decode(body: bytes, *, id: str, refuse_unknown: bool) -> Call:
    """A completion request. Raises BadRequest's children."""
    completion, ignored = bodies.take(
        bodies.load(body), CompletionBody, VOCABULARY, refuse_unknown=refuse_unknown
    )
    prompts = completion.prompts()
    structure, held = completion.structure()
    limit = completion.limit()
    request = GenerateRequest(
        id=id,
        model=completion.model,
        sampling=completion.sampling(),
        n=completion.choices(len(prompts)),
        max_tokens=limit,
        min_tokens=completion.least(limit),
        ignore_eos=bool(completion.ignore_eos),
        stop=completion.stops(),
        echo=bool(completion.echo),
        logprobs=completion.logprobs,
        deterministic=bool(completion.deterministic),
        structure=structure,
    )
    return Call(
        tuple(_asking(request, prompt, place) for place, prompt in enumerate(prompts)),
        stream=bool(completion.stream),
        usage=completion.wants_usage(),
        progress=completion.wants_progress(),
        ignored=ignored + completion.without_effect(),
        fields=completion.names(held),
        said=completion.said(),
    )


def _asking(request: GenerateRequest, prompt: str | tuple[int, ...], place: int) -> GenerateRequest:
    """The request for one of the prompts, with an id of its own."""
    id = f"{request.id}.{place}" if place else request.id
    if isinstance(prompt, str):
        return msgspec.structs.replace(request, id=id, prompt=prompt)
    return msgspec.structs.replace(request, id=id, tokens=prompt)


class CompletionReply:
    """Events as `text_completion` objects."""

    def __init__(self, call: Call, places: Places, *, id: str, created: int):
        kind = "text_completion"
        self._head = Head(call, places, id=id, created=created, kind=kind, chunk=kind)
        self._places = places
        self._logprobs = [
            TextLogprobs() for _ in range(places.count if call.first.logprobs is not None else 0)
        ]
        self.plain = not self._logprobs
        self._said = [template(self._piece(at, ""), "text") for at in range(places.count)]

    def __repr__(self) -> str:
        return f"<CompletionReply {self._head!r}>"

    def opening(self) -> bytes:
        return b""

    def chunk(self, event: Piece | Echo | Done) -> bytes:
        if isinstance(event, Echo):
            return b"".join([self._text(at, event) for at in self._places.echoed(event)])
        at = self._places.of(event)
        if isinstance(event, Text):
            return self._text(at, event)
        return self._piece(at, "", event.finish_reason) if isinstance(event, Done) else b""

    def _text(self, at: int, event: Text | Echo) -> bytes:
        if self._logprobs:
            return self._piece(at, event.text, logprobs=self._logprobs[at].add(event))
        before, after = self._said[at]
        return before + encode(event.text) + after

    def progress(self, progress: dict[str, Any]) -> bytes:
        return self._head.progress(progress)

    def closing(self, usage: Usage) -> bytes:
        return self._head.closing(usage)

    def whole(self, answer: Answer, usage: Usage) -> bytes:
        return self._head.whole([self._whole(at, one) for at, one in enumerate(answer.choices)], usage)

    def _whole(self, at: int, choice: Choice) -> dict[str, Any]:
        logprobs = self._logprobs[at].all(choice.said) if self._logprobs else None
        return self._choice(at, choice.text, choice.finish_reason, logprobs)

    def _piece(
        self, at: int, text: str, finish_reason: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> bytes:
        return self._head.piece(self._choice(at, text, finish_reason, logprobs))

    def _choice(
        self, at: int, text: str, finish_reason: str | None, logprobs: dict[str, Any] | None
    ) -> dict[str, Any]:
        return {"text": text, "index": at, "logprobs": logprobs, "finish_reason": finish_reason}


class Completions(Generation):
    route = "/v1/completions"
    limit = "timeout_completions_seconds"
    asks_in = "prompt"

    def decode(self, body: bytes, *, id: str, refuse_unknown: bool) -> Call:
        return decode(body, id=id, refuse_unknown=refuse_unknown)

    def speak(self, call: Call, places: Places) -> CompletionReply:
        return CompletionReply(call, places, id=f"cmpl-{call.first.id}", created=int(time.time()))


routes = [(Completions.route, Completions)]
