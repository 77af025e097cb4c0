"""One request while it runs: tokens in, events out. Pure bookkeeping, no mlx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..messages import Done, Event, FinishReason, GenerateRequest, Stage, Text, TokenLogprob, Usage
from ..parse.stops import StopStrings
from .detokenize import Detokenizer
from .prompt import Prompt


class Row:
    """A request's place in the engine.

    `caches` hold its first `position` prompt tokens while the prompt is processed; the last one is left for the first
    decode step. `usage()` counts generated tokens, the end-of-sequence token included, as OpenAI-compatible servers
    do; a stop string's tokens count too. `prompt_tokens` of a request that ended early are those processed by then.
    """

    def __init__(self, request: GenerateRequest, prompt: Prompt, detokenizer: Detokenizer):
        self.request = request
        self.prompt = prompt
        self.sampling = request.sampling
        if request.deterministic and self.sampling.seed is None:
            self.sampling = msgspec.structs.replace(self.sampling, seed=0)
        self.answer: list[int] = []
        self.caches: list[Any] = []
        self.started = self.cautious = False
        self.position = 0
        self.stored = 0
        self.cached_tokens = 0
        self.prefilled = 0
        self.stops: list[int] = []
        self.ended = False
        self._detokenizer = detokenizer
        self._stop_strings = StopStrings(request.stop)
        self._untold = 0
        self._logprobs: list[TokenLogprob] = []

    def __repr__(self) -> str:
        total = len(self.prompt.tokens)
        return f"<Row {self.id} prompt {self.prefilled}/{total}, {len(self.answer)} tokens>"

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def left(self) -> int:
        """Prompt tokens to process before the first decode step."""
        return len(self.prompt.tokens) - 1 - self.position

    @property
    def alone(self) -> bool:
        """Whether its prompt is processed by itself: it wants fixed chunks, snapshots on the way, or failed before."""
        wants_stops = any(stop > self.position for stop in self.stops)
        return self.request.deterministic or self.cautious or wants_stops

    @property
    def last_token(self) -> int:
        """The token the next pass begins with."""
        return self.answer[-1] if self.answer else self.prompt.tokens[-1]

    @property
    def room(self) -> int:
        """Tokens that may still be generated."""
        return self.prompt.max_tokens - len(self.answer)

    def tokens(self) -> list[int]:
        return self.prompt.tokens + self.answer

    def usage(self) -> Usage:
        return Usage(
            prompt_tokens=self.prefilled,
            cached_tokens=min(self.cached_tokens, self.prefilled),
            completion_tokens=len(self.answer),
        )

    def restored(self, caches: Sequence[Any], tokens: int) -> None:
        """The first `tokens` prompt tokens came from the prefix cache; none did when it is 0."""
        self.caches, self.started = list(caches), True
        self.position = self.prefilled = self.cached_tokens = self.stored = tokens

    def prefill(self) -> Stage:
        """Where the prompt is, to be told."""
        self.prefilled = self.position if self.left else len(self.prompt.tokens)
        return Stage(self.id, "prefill" if self.left else "decode", self.prefilled, len(self.prompt.tokens))

    def chunk(self, budget: int) -> list[int]:
        """The prompt tokens of the next pass, at most `budget`, up to the next place where it has to stop."""
        end = min(self.position + budget, len(self.prompt.tokens) - 1)
        end = min([end, *(stop for stop in self.stops if stop > self.position)])
        return self.prompt.tokens[self.position : end]

    def take(
        self, token: int, finish: FinishReason | None, logprob: TokenLogprob | None = None
    ) -> list[Event]:
        """The next token. `finish` is "stop" for an end-of-sequence token (which has no text), else "length" or None."""
        self.answer.append(token)
        self._untold += 1
        if logprob is not None:
            self._logprobs.append(logprob)
        text = "" if finish == "stop" else self._detokenizer.add(token)
        emit, stopped = self._stop_strings.feed(text)
        if finish is not None and not stopped:
            rest, stopped = self._rest()
            emit += rest
        events = self._text(emit)
        if stopped or finish is not None:
            events.append(self._done("stop" if stopped or finish == "stop" else "length"))
        return events

    def _rest(self) -> tuple[str, bool]:
        emit, stopped = self._stop_strings.feed(self._detokenizer.flush())
        if stopped:
            return emit, True
        tail, stopped = self._stop_strings.flush()
        return emit + tail, stopped

    def _text(self, text: str) -> list[Event]:
        if not text:
            return []
        told, self._untold = self._untold, 0
        logprobs, self._logprobs = tuple(self._logprobs), []
        return [Text(self.id, text, told, logprobs)]

    def _done(self, reason: FinishReason) -> Done:
        self.ended = True
        return Done(self.id, reason, self.usage())
