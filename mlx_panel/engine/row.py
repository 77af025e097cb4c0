"""One answer while it is made: tokens in, events out. Pure bookkeeping, no mlx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..messages import Done, Event, FinishReason, GenerateRequest, Sampling, Stage, TokenLogprob, Usage
from ..parse.answer import Plain
from ..parse.pieces import Parser
from .detokenize import Detokenizer
from .guide import Guide
from .prompt import Prompt
from .speech import Speech

# A token of the prompt, and its `sampling.RowLogprobs`; None of the first one. (Importing that would bring in mlx.)
Echoed = tuple[int, Any]


class Tally:
    """What the choices of a request have in common: `open` ones, tokens of the answers and of their reasoning, and
    whether one `failed`, which ends them all."""

    def __init__(self, choices: int):
        self.open = choices
        self.completion = self.reasoning = 0
        self.failed = False

    def __repr__(self) -> str:
        return f"<Tally {self.open} open, {self.completion} tokens>"


class Row:
    """A choice's place in the engine; a request with several is one row until its prompt is processed.

    `caches` hold its first `position` prompt tokens while the prompt is processed; the last one is left for the first
    decode step. `usage()` counts generated tokens, the end-of-sequence token included, as OpenAI-compatible servers
    do; a stop string's tokens count too. `prompt_tokens` of a request that ended early are those processed by then.
    """

    def __init__(
        self,
        request: GenerateRequest,
        prompt: Prompt,
        detokenizer: Detokenizer,
        parser: Parser | None = None,
        held: bool = False,
        *,
        guide: Guide | None = None,
        index: int = 0,
        tally: Tally | None = None,
    ):
        self.request = request
        self.prompt = prompt
        self.guide = guide
        self.held = held  # to a grammar: its tool calls are told as they come
        self.index = index
        self.width = request.n  # the places it takes, or will take, among the running rows
        self.tally = tally or Tally(request.n)
        self.sampling = _seeded(request, index)
        self.answer: list[int] = []
        self.caches: list[Any] = []
        self.started = self.cautious = False
        self.needs = self.transient = 0  # bytes that its caches may come to take, and a pass of it
        self.position = 0
        self.stored = 0
        self.cached_tokens = 0
        self.prefilled = 0
        self.stops: list[int] = []
        self.ended = False
        self.echoed: list[Echoed] = []
        self._speech = Speech(request, index, detokenizer, parser or Plain())

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
    def looks_back(self) -> bool:
        """Whether the log-probabilities of its prompt are asked for."""
        return self.request.echo and self.request.logprobs is not None

    @property
    def alone(self) -> bool:
        """Whether its prompt is processed by itself: it wants fixed chunks, snapshots on the way, its prompt's
        log-probabilities, or failed before."""
        wants_stops = any(stop > self.position for stop in self.stops)
        return self.request.deterministic or self.cautious or wants_stops or self.looks_back

    @property
    def over(self) -> bool:
        """Whether nothing more is told of it."""
        return self.ended or self.tally.failed

    @property
    def endless(self) -> bool:
        """Whether an end of sequence does not end it. What a grammar has completed ends nevertheless."""
        return self.request.ignore_eos and not self.held

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
        """The request's, all choices together."""
        return Usage(
            prompt_tokens=self.prefilled,
            cached_tokens=min(self.cached_tokens, self.prefilled),
            completion_tokens=self.tally.completion,
            reasoning_tokens=self.tally.reasoning,
        )

    def restored(self, caches: Sequence[Any], tokens: int) -> None:
        """The first `tokens` prompt tokens came from the prefix cache; none did when it is 0."""
        self.caches, self.started = list(caches), True
        self.position = self.prefilled = self.cached_tokens = self.stored = tokens

    def forked(self, other: Row) -> Row:
        """Another choice of the same request, its prompt processed as far as this row's."""
        self.width = other.width = 1
        other.started, other.position, other.prefilled = True, self.position, self.prefilled
        other.stored, other.cached_tokens = self.stored, self.cached_tokens
        return other

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
        self.tally.completion += 1
        speech = self._speech
        before = speech.reasoning_tokens
        events = speech.add(token, silent=finish == "stop", last=finish is not None, logprob=logprob)
        self.tally.reasoning += speech.reasoning_tokens - before
        if speech.stopped or finish is not None:
            events.append(self.done("stop" if speech.stopped or finish == "stop" else "length"))
        return events

    def done(self, reason: FinishReason) -> Done:
        """It ends now."""
        self.ended = True
        self.tally.open -= 1
        calls = self._speech.calls
        return Done(
            self.id,
            "tool_calls" if calls and reason == "stop" else reason,
            self.usage(),
            self.index,
            last=self.tally.open == 0,
            calls=calls,
            broken=self._speech.broken,
        )


def _seeded(request: GenerateRequest, index: int) -> Sampling:
    """How the choice is drawn: each has a seed of its own, where there are seeds."""
    sampling = request.sampling
    if sampling.seed is None and not request.deterministic:
        return sampling
    return sampling.seeded((sampling.seed or 0) + index)
