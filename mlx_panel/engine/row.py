"""One request while it runs: tokens in, events out. Pure bookkeeping, no mlx."""

from __future__ import annotations

from ..messages import Done, Event, FinishReason, GenerateRequest, Stage, Text, Usage
from ..parse.stops import StopStrings
from .detokenize import Detokenizer
from .prompt import Prompt


class Row:
    """A request's place in the batch.

    `usage()` counts generated tokens, the end-of-sequence token included, as OpenAI-compatible servers do; a stop
    string's tokens count too. `prompt_tokens` of a request that ended early are those processed by then.
    """

    def __init__(self, request: GenerateRequest, prompt: Prompt, detokenizer: Detokenizer):
        self.request = request
        self.prompt = prompt
        self.prefilled = 0
        self.completion_tokens = 0
        self.ended = False
        self._detokenizer = detokenizer
        self._stops = StopStrings(request.stop)
        self._untold = 0

    def __repr__(self) -> str:
        total = len(self.prompt.tokens)
        return f"<Row {self.id} prompt {self.prefilled}/{total}, {self.completion_tokens} tokens>"

    @property
    def id(self) -> str:
        return self.request.id

    def usage(self) -> Usage:
        return Usage(prompt_tokens=self.prefilled, completion_tokens=self.completion_tokens)

    def prefill(self, done: int, last: bool) -> Stage:
        """`done` prompt tokens are processed; with `last` the first answer token is being computed."""
        self.prefilled = done
        return Stage(self.id, "decode" if last else "prefill", done, len(self.prompt.tokens))

    def take(self, token: int, finish: str | None) -> list[Event]:
        """The next token. `finish` is None, "length", or "stop" for an end-of-sequence token (which has no text)."""
        self.completion_tokens += 1
        self._untold += 1
        text = "" if finish == "stop" else self._detokenizer.add(token)
        emit, stopped = self._stops.feed(text)
        if finish is not None and not stopped:
            rest, stopped = self._rest()
            emit += rest
        events = self._text(emit)
        if stopped or finish is not None:
            events.append(self._done("stop" if stopped or finish == "stop" else "length"))
        return events

    def _rest(self) -> tuple[str, bool]:
        emit, stopped = self._stops.feed(self._detokenizer.flush())
        if stopped:
            return emit, True
        tail, stopped = self._stops.flush()
        return emit + tail, stopped

    def _text(self, text: str) -> list[Event]:
        if not text:
            return []
        told, self._untold = self._untold, 0
        return [Text(self.id, text, told)]

    def _done(self, reason: FinishReason) -> Done:
        self.ended = True
        return Done(self.id, reason, self.usage())
